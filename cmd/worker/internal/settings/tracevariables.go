package settings

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The names of those variables of OpenTelemetry's that more than one place speaks of.
const (
	sdkDisabled      = "OTEL_SDK_DISABLED"
	tracesExporter   = "OTEL_TRACES_EXPORTER"
	otlp             = "OTEL_EXPORTER_OTLP_"
	endpoint         = otlp + "ENDPOINT"
	tracesEndpoint   = otlp + "TRACES_ENDPOINT"
	exporterOTLP     = "otlp"
	exporterNone     = "none"
	longestMS        = 10 * 60 * 1000
	maxPEM           = 1 << 20 // of a file with certificates, in bytes
	certificate      = "CERTIFICATE"
	clientCert       = "CLIENT_CERTIFICATE"
	clientKey        = "CLIENT_KEY"
	defaultCollector = "http://localhost:4318"
)

// traceVariables are those of OpenTelemetry that the SDK and its OTLP exporter read, with their defaults.
// Those of traces alone beat those of all signals.
var traceVariables = slices.Concat([]Variable{
	otel(sdkDisabled, "false", "export nothing, whatever else is set", sdkSwitch),
	otel(tracesExporter, "", "otlp or none (default: otlp where there is an endpoint)", exporters),
	otel("OTEL_SERVICE_NAME", "", "the service's name in traces (default: flow-worker)", printable),
	otel("OTEL_RESOURCE_ATTRIBUTES", "", "more about the service, as name=value,name=value", pairs(validAttribute)),
	otel("OTEL_TRACES_SAMPLER", "parentbased_always_on", "which traces are exported", among(samplers...)),
	otel("OTEL_TRACES_SAMPLER_ARG", "1", "share of the traces, 0 to 1, for the samplers by ratio", ratio),
	otel("OTEL_PROPAGATORS", "tracecontext", "how traces go from service to service: W3C Trace Context only", propagators),
}, bySignal("ENDPOINT", "OpenTelemetry collector, such as "+defaultCollector, collectorURL),
	bySignal("PROTOCOL", "http/protobuf or http/json", among("http/protobuf", "http/json")),
	hidden(bySignal("HEADERS", "headers for the collector, as name=value,name=value; better set in the environment", pairs(validHeader))),
	bySignal("COMPRESSION", "gzip or none", among("gzip", "none")),
	bySignal("TIMEOUT", "milliseconds for one call to the collector (default: 10000)", between(1, longestMS)),
	bySignal(certificate, "PEM file with the authorities to trust", authorities),
	bySignal(clientCert, "TLS client certificate", pemFile),
	bySignal(clientKey, "key of the TLS client certificate", pemFile),
	[]Variable{
		otel("OTEL_BSP_MAX_QUEUE_SIZE", "2048", "spans that wait for their export; more are dropped", between(1, 1<<20)),
		otel("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512", "spans in one export", between(1, 1<<20)),
		otel("OTEL_BSP_SCHEDULE_DELAY", "5000", "milliseconds between two exports", between(1, longestMS)),
		otel("OTEL_BSP_EXPORT_TIMEOUT", "30000", "milliseconds for one export with its repeats", between(1, longestMS)),
	},
	limits("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
		"OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT"),
)

// taker returns as much of a value as the SDK or the exporter is to read. Its error says what would be right.
type taker = func(string) (string, error)

// otel is a variable that somebody else reads. What that would not take is left out; see Load.
func otel(name, byDefault, help string, take taker) Variable {
	return Variable{name, Traces, byDefault, help, func(s *Settings, v string) error {
		if v == "" {
			return nil
		}
		out, err := take(v)
		if s.Tracing.Env == nil {
			s.Tracing.Env = map[string]string{}
		}
		if out != "" {
			s.Tracing.Env[name] = out
		}
		return err
	}, nil}
}

// bySignal are the two variables of an exporter's setting: for all signals, and for traces alone.
func bySignal(name, help string, take taker) []Variable {
	return []Variable{otel(otlp+name, "", help, take), otel(otlp+"TRACES_"+name, "", "likewise, for traces alone", take)}
}

func hidden(all []Variable) []Variable {
	for i := range all {
		all[i].mask = maskAll
	}
	return all
}

func limits(names ...string) (all []Variable) {
	for _, name := range names {
		all = append(all, otel(name, "", "limit of what a span holds, as OpenTelemetry defines it", between(0, 1<<20)))
	}
	return all
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

// printable takes a text without control characters.
func printable(v string) (string, error) {
	if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", errors.New("want no control characters in it")
	}
	return v, nil
}

// samplers are the values of OTEL_TRACES_SAMPLER that the SDK knows.
var samplers = []string{"always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"}

func among(allowed ...string) taker {
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

func between(least, most int) taker {
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
func pairs(valid func(name, value string) bool) taker {
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

// pemFile takes the path of a file that can be read.
func pemFile(v string) (string, error) { return v, readable(v, false) }

// authorities takes the path of a PEM file with certificates in it.
func authorities(v string) (string, error) {
	if err := readable(v, false); err != nil {
		return "", err
	}
	f, err := os.Open(v)
	if err != nil {
		return "", errors.New("its file can't be read")
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxPEM))
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return "", errors.New("want a PEM file with certificates in it")
	}
	return v, nil
}
