package settings

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Tracing says whether spans are exported, and how: the standard OTEL_* variables, as far as the SDK and its
// exporter can follow. The rest is left out, with a warning: such variables are set for all programs of a
// platform, so none of them keeps the worker from running.
type Tracing struct {
	Export bool              // an exporter or an endpoint is asked for, and nothing forbids it
	Env    map[string]string // :: name → value of the variables that the SDK and the exporter are to read; may hold secrets
}

// leaveOut warns of a variable of OpenTelemetry's that can't be followed, and shows what is in effect instead.
func (s *Set) leaveOut(v Variable, text string, why error) {
	value := " is " + shape(text)
	if v.mask != nil {
		value = ""
	}
	s.traceWarning(fmt.Sprintf("%s%s: not supported, left out; %v", v.Name, value, why))
	if s.leftOut == nil {
		s.leftOut = map[string]bool{}
	}
	s.leftOut[v.Name] = true
	for i, shown := range s.Values {
		if shown.Name == v.Name {
			if part := s.Settings.Tracing.Env[v.Name]; part != "" {
				s.Values[i].Value = part // the rest is left out
				continue
			}
			s.Values[i].Value, s.Values[i].Origin = v.Default, FromDefault
		}
	}
}

func (s *Set) traceWarning(text string) { s.traceWarnings = append(s.traceWarnings, text) }

// checkTraces looks at what must fit together, and decides whether anything is exported. It finds no problem,
// only warnings.
func checkTraces(set *Set, _ *Invalid) {
	t := &set.Settings.Tracing
	if t.Env[sdkDisabled] == "true" {
		set.traceWarnings = nil
		return
	}
	own := t.Env[tracesEndpoint]
	to := cmp.Or(own, t.Env[endpoint])
	switch t.Env[tracesExporter] {
	case "":
		t.Export = to != ""
	case exporterOTLP:
		t.Export = to != "" || !set.leftOut[endpoint] && !set.leftOut[tracesEndpoint]
	}
	set.checkCertificates(cmp.Or(to, defaultCollector))
	if t.Export {
		set.oddCollector(cmp.Or(to, defaultCollector))
	}
	set.Warnings = append(set.Warnings, set.traceWarnings...)
}

// checkCertificates leaves out what the exporter could not be made with.
func (s *Set) checkCertificates(to string) {
	env := s.Settings.Tracing.Env
	for _, signal := range []string{otlp, otlp + "TRACES_"} {
		cert, key := env[signal+clientCert], env[signal+clientKey]
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil && (cert != "" || key != "") {
			for _, name := range []string{signal + clientCert, signal + clientKey} {
				s.takeBack(name, fmt.Sprintf("want %s and %s to be the PEM files of one pair", signal+clientCert, signal+clientKey))
			}
		}
		for _, name := range []string{signal + certificate, signal + clientCert, signal + clientKey} {
			if strings.HasPrefix(strings.ToLower(to), "http:") {
				s.takeBack(name, "want an https endpoint for it; the one there is speaks plain http")
			}
		}
	}
}

// takeBack leaves out a variable that was right by itself.
func (s *Set) takeBack(name, why string) {
	text := s.Settings.Tracing.Env[name]
	if text == "" {
		return
	}
	delete(s.Settings.Tracing.Env, name)
	s.leaveOut(Variable{Name: name}, text, errors.New(why))
}

// oddCollector warns of what is likely to be wrong with a collector's address.
func (s *Set) oddCollector(to string) {
	u, err := url.Parse(to)
	if err != nil {
		return
	}
	if u.Port() == "4317" {
		s.traceWarning("the OTLP endpoint has port 4317, where collectors speak gRPC; the worker speaks OTLP over HTTP, whose port is 4318")
	}
	if s.Settings.Tracing.Env[tracesEndpoint] == "" && strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v1/traces") {
		s.traceWarning(endpoint + " ends with /v1/traces, which is appended to it once more; leave that out, or set " + tracesEndpoint)
	}
	headers := cmp.Or(s.Settings.Tracing.Env[otlp+"TRACES_HEADERS"], s.Settings.Tracing.Env[otlp+"HEADERS"])
	if u.Scheme == "http" && headers != "" && !loopback(u.Hostname()) {
		s.traceWarning(otlp + "HEADERS go to " + u.Hostname() + " by plain http, so who is in between can read them; use https")
	}
}

// notFollowed are variables of OpenTelemetry's that are often set and that nothing here reads: name → values
// that ask for nothing, and what to know otherwise.
var notFollowed = map[string]struct {
	harmless []string
	why      string
}{
	"OTEL_METRICS_EXPORTER":         {[]string{"none", "prometheus"}, "metrics are to be scraped at /metrics"},
	"OTEL_LOGS_EXPORTER":            {[]string{"none"}, "the log goes to stderr"},
	"OTEL_LOG_LEVEL":                {nil, "LOG_LEVEL is the worker's"},
	otlp + "INSECURE":               {[]string{"false"}, "the endpoint's scheme decides"},
	otlp + "TRACES_INSECURE":        {[]string{"false"}, "the endpoint's scheme decides"},
	"OTEL_EXPERIMENTAL_CONFIG_FILE": {nil, "the worker reads variables only"},
	"OTEL_CONFIG_FILE":              {nil, "the worker reads variables only"},
}

// foreignTraceNames warns of variables of OpenTelemetry's that neither the worker nor its SDK follows: what is known by
// its value, all others together by name.
func (s *Set) foreignTraceNames(env map[string]string) {
	var others []string
	for name, text := range env {
		known := slices.ContainsFunc(variables, func(v Variable) bool { return v.Name == name })
		if known || text == "" || !strings.HasPrefix(name, "OTEL_") {
			continue
		}
		if f, ok := notFollowed[name]; !ok {
			others = append(others, fmt.Sprintf("%s (a text of %d bytes)", name, len(text)))
		} else if !slices.Contains(f.harmless, strings.ToLower(text)) {
			s.traceWarning(fmt.Sprintf("%s is %s: left out; %s", name, shape(text), f.why))
		}
	}
	slices.Sort(others)
	slices.Sort(s.traceWarnings)
	if len(others) > 0 {
		s.traceWarning("not followed, left out: " + strings.Join(others, ", "))
	}
}
