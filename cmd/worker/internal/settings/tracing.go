package settings

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The values of OTEL_TRACES_EXPORTER; empty means ExporterOTLP if there is an endpoint, else ExporterNone.
const (
	ExporterOTLP = "otlp"
	ExporterNone = "none"
)

// Tracing says whether and where spans are exported: the standard OTEL_* variables, as far as they are
// about traces.
type Tracing struct {
	Disabled           bool              // OTEL_SDK_DISABLED
	Exporter           string            // ExporterOTLP, ExporterNone or empty
	ServiceName        string            // "flow-worker" by default
	ResourceAttributes map[string]string // :: name → value; nil means none
	Sampler            string            // as OTEL_TRACES_SAMPLER names them
	SamplerRatio       float64           // for those that take one, 0 to 1

	Ignored []string // what OTEL_PROPAGATORS asks for in vain, beside baggage, which is never missed

	General OTLP // of all signals
	Traces  OTLP // what it has beats General

	QueueSize     int           // spans that wait for their export; more are dropped
	BatchSize     int           // spans in one export, at most QueueSize
	ScheduleDelay time.Duration // between two exports
	ExportTimeout time.Duration // of one export with its repeats
}

// OTLP says how an exporter reaches its collector.
type OTLP struct {
	Endpoint    string            // URL; empty means none is set
	Protocol    string            // empty means none is set
	Headers     map[string]string // :: name → value, which may be secret; nil means none is set
	Compression string            // "gzip" or "none"; empty means none is set
	Timeout     time.Duration     // of one HTTP call; 0 means none is set
	Certificate string            // path of a PEM file with the authorities to trust; empty means the system's
	ClientCert  string            // path of the TLS client certificate; needs ClientKey
	ClientKey   string            // path of its key
}

// Defaults of the OpenTelemetry specification.
const (
	defaultCollector   = "http://localhost:4318"
	defaultOTLPTimeout = 10 * time.Second
	tracesPath         = "/v1/traces"
	protocol           = "http/protobuf" // the only one that the worker speaks
)

// Exporting reports whether spans are to be exported. It takes an exporter or an endpoint to be set.
func (t Tracing) Exporting() bool {
	asked := t.Exporter == ExporterOTLP || t.Exporter == "" && (t.General.Endpoint != "" || t.Traces.Endpoint != "")
	return asked && !t.Disabled
}

// Target returns where and how spans are exported, with defaults for what isn't set. Its Endpoint is that
// of traces, with the path.
func (t Tracing) Target() OTLP {
	g, own := t.General, t.Traces
	endpoint := own.Endpoint
	if endpoint == "" {
		endpoint = strings.TrimRight(cmp.Or(g.Endpoint, defaultCollector), "/") + tracesPath
	}
	headers := g.Headers
	if own.Headers != nil {
		headers = own.Headers
	}
	return OTLP{
		Endpoint: endpoint, Headers: headers, Protocol: cmp.Or(own.Protocol, g.Protocol, protocol),
		Compression: cmp.Or(own.Compression, g.Compression, "none"), Timeout: cmp.Or(own.Timeout, g.Timeout, defaultOTLPTimeout),
		Certificate: cmp.Or(own.Certificate, g.Certificate), ClientCert: cmp.Or(own.ClientCert, g.ClientCert), ClientKey: cmp.Or(own.ClientKey, g.ClientKey),
	}
}

// checkTraces looks at what must fit together, if anything is exported.
func checkTraces(set *Set, bad *Invalid) {
	t := set.Settings.Tracing
	if !t.Exporting() {
		return
	}
	to := t.Target()
	pair(bad, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", to.ClientCert, "OTEL_EXPORTER_OTLP_CLIENT_KEY", to.ClientKey)
	if t.BatchSize > t.QueueSize && !bad.has("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_MAX_QUEUE_SIZE") {
		bad.add("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", fmt.Sprintf("%d is more than OTEL_BSP_MAX_QUEUE_SIZE, %d; want no more than that", t.BatchSize, t.QueueSize))
	}
	if to.Protocol != protocol {
		bad.add("OTEL_EXPORTER_OTLP_PROTOCOL", fmt.Sprintf("%s is none that the worker speaks; want %s, and in the endpoint the port where the collector takes OTLP over HTTP, usually 4318", shape(to.Protocol), protocol))
	}
	if len(t.Ignored) > 0 {
		set.Warnings = append(set.Warnings, "OTEL_PROPAGATORS asks for more than tracecontext, which is all that the worker speaks")
	}
	set.Warnings = append(set.Warnings, oddCollector(to, bad)...)
}

// oddCollector returns what is likely to be wrong with a collector's address.
func oddCollector(to OTLP, bad *Invalid) (warnings []string) {
	u, err := url.Parse(to.Endpoint)
	if err != nil || bad.has("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
		return nil
	}
	if u.Port() == "4317" {
		warnings = append(warnings, "the OTLP endpoint has port 4317, where collectors speak gRPC; the worker speaks http/protobuf, whose port is 4318")
	}
	if u.Scheme == "http" && len(to.Headers) > 0 && !loopback(u.Hostname()) {
		warnings = append(warnings, "OTEL_EXPORTER_OTLP_HEADERS go to "+u.Hostname()+" by plain http, so who is in between can read them; use https")
	}
	return warnings
}

// collectorURL accepts an http or https URL without user info and query. Traces have their place below a
// collector's; that of traces alone is taken as it is.
func collectorURL(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		if v == "" {
			return nil
		}
		u, err := url.Parse(v)
		if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
			return errors.New("is not a URL; want one with its scheme, such as http://localhost:4318")
		}
		if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
			return errors.New("has user info, a query or a fragment; want http(s)://<host> with an optional port and path, and what is secret in OTEL_EXPORTER_OTLP_HEADERS")
		}
		*field(s) = v
		return nil
	}
}

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

// pairs reads "name=value,name=value" with percent-encoded values. It never quotes a value.
func pairs(field func(*Settings) *map[string]string, valid func(name, value string) bool) setter {
	return func(s *Settings, v string) error {
		var out map[string]string
		for one := range strings.SplitSeq(v, ",") {
			if strings.TrimSpace(one) == "" {
				continue
			}
			name, value, ok := strings.Cut(one, "=")
			name = strings.TrimSpace(name)
			value, err := url.PathUnescape(strings.TrimSpace(value))
			if !ok || err != nil || !valid(name, value) {
				return fmt.Errorf("its part %d is no <name>=<value>; want such parts separated by commas, commas and blanks in values as %%2C and %%20", strings.Count(v[:strings.Index(v, one)], ",")+1)
			}
			if out == nil {
				out = map[string]string{}
			}
			out[name] = value
		}
		*field(s) = out
		return nil
	}
}

func validHeader(name, value string) bool {
	return headerName.MatchString(name) && !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' })
}

func validAttribute(name, _ string) bool { return name != "" && !strings.ContainsAny(name, " \t") }

// milliseconds reads a whole number of milliseconds, as OpenTelemetry writes times.
func milliseconds(field func(*Settings) *time.Duration, most time.Duration) setter {
	return func(s *Settings, v string) error {
		if v == "" {
			return nil
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 1 || n > most.Milliseconds() {
			return fmt.Errorf("%s is no whole number of milliseconds from 1 to %d", shape(v), most.Milliseconds())
		}
		*field(s) = time.Duration(n) * time.Millisecond
		return nil
	}
}

// samplers are the values of OTEL_TRACES_SAMPLER that can be had.
var samplers = []string{"always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"}

func ratio(field func(*Settings) *float64) setter {
	return func(s *Settings, v string) error {
		f, err := strconv.ParseFloat(v, 64)
		if err != nil || !(f >= 0 && f <= 1) {
			return fmt.Errorf("%s is no number from 0 to 1", shape(v))
		}
		*field(s) = f
		return nil
	}
}

// propagators accepts a list with tracecontext in it. What else it asks for is not to be had.
func propagators(s *Settings, v string) error {
	list := strings.Split(strings.ReplaceAll(v, " ", ""), ",")
	if !slices.Contains(list, "tracecontext") {
		return fmt.Errorf("%s is not possible; want tracecontext, for the worker speaks W3C Trace Context only", shape(v))
	}
	s.Tracing.Ignored = slices.DeleteFunc(list, func(p string) bool { return p == "tracecontext" || p == "baggage" })
	return nil
}

// sdkDisabled reads a boolean. OpenTelemetry takes what is neither true nor false for false; here that is told.
func sdkDisabled(s *Settings, v string) error {
	return boolean(func(s *Settings) *bool { return &s.Tracing.Disabled })(s, strings.ToLower(v))
}
