package settings

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// defaultCollector is where the exporter sends to by itself.
const defaultCollector = "http://localhost:4318"

// The values of OTEL_TRACES_EXPORTER that are followed.
const (
	exporterOTLP = "otlp"
	exporterNone = "none"
)

// Tracing says whether spans are exported, and how: the standard OTEL_* variables, as far as the SDK and its
// exporter can follow. The rest is left out, with a warning: such variables are set for all programs of a
// platform, so none of them keeps the worker from running.
type Tracing struct {
	Export bool              // an exporter or an endpoint is asked for, and nothing forbids it
	Env    map[string]string // :: name → value of the variables that the SDK and the exporter are to read; may hold secrets
}

// into keeps as much of a variable's text as the SDK or the exporter is to read, which is what parse returns.
func (t *Tracing) into(name string, parse func(string) (string, error)) func(string) error {
	return func(v string) error {
		if v == "" {
			return nil
		}
		out, err := parse(v)
		if t.Env == nil {
			t.Env = map[string]string{}
		}
		if out != "" {
			t.Env[name] = out
		}
		return err
	}
}

// leaveOut warns of a variable of OpenTelemetry's that can't be followed, and shows what is in effect instead.
func (set *Set) leaveOut(v variable, text string, why error) {
	value := " is " + shape(text)
	if v.mask != nil {
		value = ""
	}
	set.traceWarning(fmt.Sprintf("%s%s: not supported, left out; %v", v.name, value, why))
	if set.leftOut == nil {
		set.leftOut = map[string]bool{}
	}
	set.leftOut[v.name] = true
	for i, shown := range set.Values {
		if shown.Name == v.name {
			if part := set.Settings.Tracing.Env[v.name]; part != "" {
				set.Values[i].Value = part // the rest is left out
				continue
			}
			set.Values[i].Value, set.Values[i].Origin = v.byDefault, FromDefault
		}
	}
}

func (set *Set) traceWarning(text string) { set.traceWarnings = append(set.traceWarnings, text) }

// checkTraces also decides whether anything is exported. It finds no problem, only warnings.
func (set *Set) checkTraces(env map[string]string) {
	set.foreignTraceNames(env)
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
func (set *Set) checkCertificates(to string) {
	env := set.Settings.Tracing.Env
	for _, signal := range []string{otlp, otlpTraces} {
		cert, key := env[signal+clientCert], env[signal+clientKey]
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil && (cert != "" || key != "") {
			for _, name := range []string{signal + clientCert, signal + clientKey} {
				set.takeBack(name, fmt.Sprintf("want %s and %s to be the PEM files of one pair", signal+clientCert, signal+clientKey))
			}
		}
		for _, name := range []string{signal + certificate, signal + clientCert, signal + clientKey} {
			if strings.HasPrefix(strings.ToLower(to), "http:") {
				set.takeBack(name, "want an https endpoint for it; the one there is speaks plain http")
			}
		}
	}
}

// takeBack leaves out a variable that was right by itself.
func (set *Set) takeBack(name, why string) {
	text := set.Settings.Tracing.Env[name]
	if text == "" {
		return
	}
	delete(set.Settings.Tracing.Env, name)
	set.leaveOut(variable{name: name}, text, errors.New(why))
}

// oddCollector warns of what is likely to be wrong with a collector's address.
func (set *Set) oddCollector(to string) {
	u, err := url.Parse(to)
	if err != nil {
		return
	}
	if u.Port() == "4317" {
		set.traceWarning("the OTLP endpoint has port 4317, where collectors speak gRPC; the worker speaks OTLP over HTTP, whose port is 4318")
	}
	if set.Settings.Tracing.Env[tracesEndpoint] == "" && strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v1/traces") {
		set.traceWarning(endpoint + " ends with /v1/traces, which is appended to it once more; leave that out, or set " + tracesEndpoint)
	}
	headers := cmp.Or(set.Settings.Tracing.Env[otlpTraces+"HEADERS"], set.Settings.Tracing.Env[otlp+"HEADERS"])
	if u.Scheme == "http" && headers != "" && !loopback(u.Hostname()) {
		set.traceWarning(otlp + "HEADERS go to " + u.Hostname() + " by plain http, so who is in between can read them; use https")
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
	otlpTraces + "INSECURE":         {[]string{"false"}, "the endpoint's scheme decides"},
	"OTEL_EXPERIMENTAL_CONFIG_FILE": {nil, "the worker reads variables only"},
	"OTEL_CONFIG_FILE":              {nil, "the worker reads variables only"},
}

// foreignTraceNames warns of variables of OpenTelemetry's that neither the worker nor its SDK follows: what is known by
// its value, all others together by name.
func (set *Set) foreignTraceNames(env map[string]string) {
	var others []string
	for name, text := range env {
		if isVariable(name) || text == "" || !strings.HasPrefix(name, "OTEL_") {
			continue
		}
		if f, ok := notFollowed[name]; !ok {
			others = append(others, fmt.Sprintf("%s (a text of %d bytes)", name, len(text)))
		} else if !slices.Contains(f.harmless, strings.ToLower(text)) {
			set.traceWarning(fmt.Sprintf("%s is %s: left out; %s", name, shape(text), f.why))
		}
	}
	slices.Sort(others)
	slices.Sort(set.traceWarnings)
	if len(others) > 0 {
		set.traceWarning("not followed, left out: " + strings.Join(others, ", "))
	}
}

// sdkSwitch reads a boolean as OpenTelemetry does, which takes all but "true" for false.
func sdkSwitch(v string) (string, error) {
	v = strings.ToLower(v)
	if v != "true" && v != "false" {
		return "", errors.New("want true or false")
	}
	return v, nil
}

// exporters takes otlp where a list has it. A list without exports nothing, for that was not asked for.
func exporters(v string) (string, error) {
	list := listOf(v)
	if len(list) == 1 && (list[0] == exporterOTLP || list[0] == exporterNone) {
		return list[0], nil
	}
	taken := exporterNone // another exporter was asked for
	if slices.Contains(list, exporterOTLP) {
		taken = exporterOTLP
	}
	return taken, fmt.Errorf("want otlp or none, for the worker exports spans by OTLP only; taken for %s", taken)
}

func propagators(v string) (string, error) {
	list := listOf(v)
	if others := slices.DeleteFunc(slices.Clone(list), func(p string) bool { return p == "tracecontext" || p == "baggage" }); len(others) > 0 || !slices.Contains(list, "tracecontext") {
		return "", errors.New("want tracecontext, for the worker speaks W3C Trace Context only")
	}
	return v, nil
}

// listOf returns the parts of a comma-separated list in small letters, without blanks and empty ones.
func listOf(v string) []string {
	return slices.DeleteFunc(strings.Split(strings.ToLower(strings.ReplaceAll(v, " ", "")), ","), func(p string) bool { return p == "" })
}

func among(allowed ...string) func(string) (string, error) {
	return func(v string) (string, error) {
		if v = strings.ToLower(v); !slices.Contains(allowed, v) {
			return "", fmt.Errorf("want one of %s", strings.Join(allowed, ", "))
		}
		return v, nil
	}
}

func ratio(v string) (string, error) {
	if f, err := strconv.ParseFloat(v, 64); err != nil || !(f >= 0 && f <= 1) {
		return "", errors.New("want a number from 0 to 1")
	}
	return v, nil
}

func between(least, most int) func(string) (string, error) {
	return func(v string) (string, error) {
		if n, err := strconv.Atoi(v); err != nil || n < least || n > most {
			return "", fmt.Errorf("want a whole number from %d to %d, without a unit", least, most)
		}
		return v, nil
	}
}

// collectorURL takes an http or https URL without user info and query.
func collectorURL(v string) (string, error) {
	u, err := url.Parse(v)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return "", errors.New("want a URL with its scheme, such as " + defaultCollector)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", errors.New("want http(s)://<host> with an optional port and path, no user info, query or fragment; what is secret goes to " + otlp + "HEADERS")
	}
	return v, nil
}

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

// pairs takes "name=value,name=value" with percent-encoded values. Its error never quotes any.
func pairs(valid func(name, value string) bool) func(string) (string, error) {
	return func(v string) (string, error) {
		var good []string
		for i, one := range strings.Split(v, ",") {
			if strings.TrimSpace(one) == "" {
				continue
			}
			name, value, ok := strings.Cut(one, "=")
			plain, err := url.PathUnescape(strings.TrimSpace(value))
			if !ok || err != nil || !valid(strings.TrimSpace(name), plain) {
				return "", fmt.Errorf("its part %d is no <name>=<value>; want such parts separated by commas, with %%2C for a comma, %%20 for a blank and %%25 for %% in a value", i+1)
			}
			good = append(good, one)
		}
		return strings.Join(good, ","), nil
	}
}

func validHeader(name, value string) bool {
	return headerName.MatchString(name) && !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' })
}

func validAttribute(name, _ string) bool { return name != "" && !strings.ContainsAny(name, " \t") }

// authorities takes the path of a PEM file with certificates in it.
func authorities(v string) (string, error) {
	pem, err := contentOf(v)
	if err == nil && !x509.NewCertPool().AppendCertsFromPEM(pem) {
		err = errors.New("want a PEM file with certificates in it")
	}
	if err != nil {
		return "", err
	}
	return v, nil
}
