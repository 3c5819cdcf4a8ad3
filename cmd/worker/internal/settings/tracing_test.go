package settings_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
)

// Spans are exported if an exporter or an endpoint is asked for, and nothing forbids it.
func TestExporting(t *testing.T) {
	t.Parallel()
	const at, atTraces = "OTEL_EXPORTER_OTLP_ENDPOINT=https://c.example.com", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://c.example.com/x"
	for _, tc := range []struct {
		set  []string
		want bool
	}{
		{nil, false},
		{[]string{"OTEL_SERVICE_NAME=x", "OTEL_TRACES_SAMPLER=always_on"}, false},
		{[]string{at}, true},
		{[]string{atTraces}, true},
		{[]string{"OTEL_TRACES_EXPORTER=otlp"}, true},
		{[]string{at, "OTEL_TRACES_EXPORTER=none"}, false},
		{[]string{at, "OTEL_SDK_DISABLED=True"}, false},
		{[]string{at, "OTEL_SDK_DISABLED=false"}, true},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=", "OTEL_TRACES_EXPORTER="}, false},
	} {
		set, err := load(t, tc.set...)
		if err != nil || set.Settings.Tracing.Export != tc.want || len(set.Warnings) > 0 {
			t.Errorf("%q: exporting is %v, want %v; %v, %q", tc.set, !tc.want, tc.want, err, set.Warnings)
		}
	}
}

// certificates writes a certificate, its key, and a file that is neither.
func certificates(t *testing.T) (cert, key, garbage string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, form, form, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})), write("garbage", []byte("x"))
}

// foreign is what a platform may set for all its programs.
type foreign struct {
	set    []string
	name   string // the variable that is warned of, empty for none
	want   string // a part of the warning
	kept   string // what is left of the variable for the SDK, or of that after the colon
	export bool
}

func foreignValues(t *testing.T) []foreign {
	t.Helper()
	const on, tls = "OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_ENDPOINT=https://127.0.0.1:1"
	cert, key, garbage := certificates(t)
	return []foreign{
		{set: []string{"OTEL_PROPAGATORS=b3"}, name: "OTEL_PROPAGATORS", want: `is "b3": not supported, left out; want tracecontext`},
		{set: []string{"OTEL_PROPAGATORS=jaeger"}, name: "OTEL_PROPAGATORS", want: "tracecontext"},
		{set: []string{"OTEL_PROPAGATORS=none"}, name: "OTEL_PROPAGATORS", want: "tracecontext"},
		{set: []string{"OTEL_PROPAGATORS=tracecontext,baggage,b3multi"}, name: "OTEL_PROPAGATORS", want: "a text of 28 bytes"},
		{set: []string{"OTEL_PROPAGATORS=baggage"}, name: "OTEL_PROPAGATORS", want: "tracecontext"},
		{set: []string{"OTEL_PROPAGATORS=TraceContext, baggage"}},
		{set: []string{"OTEL_TRACES_EXPORTER=console"}, name: "OTEL_TRACES_EXPORTER", want: `"console"`, kept: "none"},
		{set: []string{tls, "OTEL_TRACES_EXPORTER=zipkin"}, name: "OTEL_TRACES_EXPORTER", want: "taken for none", kept: "none"},
		{set: []string{"OTEL_TRACES_EXPORTER=otlp,console"}, name: "OTEL_TRACES_EXPORTER", want: "taken for otlp", kept: "otlp", export: true},
		{set: []string{"OTEL_TRACES_EXPORTER=OTLP,"}, export: true},
		{set: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4317"}, name: "OTEL_EXPORTER_OTLP_ENDPOINT", want: `"collector:4317": not supported, left out; want a URL with its scheme`},
		{set: []string{on, "OTEL_EXPORTER_OTLP_ENDPOINT=localhost:4318"}, name: "OTEL_EXPORTER_OTLP_ENDPOINT", want: "such as http://localhost:4318"},
		{set: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=unix:///var/run/otel.sock"}, name: "OTEL_EXPORTER_OTLP_ENDPOINT", want: "with its scheme"},
		{set: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=://%zz"}, name: "OTEL_EXPORTER_OTLP_ENDPOINT", want: "with its scheme"},
		{set: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=grpc://c:4317"}, name: "OTEL_EXPORTER_OTLP_ENDPOINT", want: "with its scheme"},
		{set: []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://u:" + secret + "@c.example.com"}, name: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", want: "goes to OTEL_EXPORTER_OTLP_HEADERS"},
		{set: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=https://c.example.com/?k=" + secret}, name: "OTEL_EXPORTER_OTLP_ENDPOINT", want: "query"},
		{set: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317/"}, name: "the OTLP endpoint", want: "whose port is 4318", export: true},
		{set: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318/v1/traces"}, name: "OTEL_EXPORTER_OTLP_ENDPOINT", want: "appended to it once more", kept: "http://127.0.0.1:4318/v1/traces", export: true},
		{set: []string{on, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, name: "OTEL_EXPORTER_OTLP_PROTOCOL", want: `"grpc"`, export: true},
		{set: []string{on, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json"}, export: true},
		{set: []string{on, "OTEL_EXPORTER_OTLP_TIMEOUT=10s"}, name: "OTEL_EXPORTER_OTLP_TIMEOUT", want: `"10s": not supported, left out; want a whole number from 1 to 600000, without a unit`, export: true},
		{set: []string{"OTEL_EXPORTER_OTLP_TIMEOUT=-1"}, name: "OTEL_EXPORTER_OTLP_TIMEOUT", want: `"-1"`},
		{set: []string{on, "OTEL_EXPORTER_OTLP_HEADERS=a=b," + secret}, name: "OTEL_EXPORTER_OTLP_HEADERS:", want: "its part 2 is no <name>=<value>", export: true},
		{set: []string{"OTEL_EXPORTER_OTLP_HEADERS=Authorization: Bearer " + secret}, name: "OTEL_EXPORTER_OTLP_HEADERS:", want: "its part 1"},
		{set: []string{"OTEL_EXPORTER_OTLP_HEADERS=a b=" + secret}, name: "OTEL_EXPORTER_OTLP_HEADERS:", want: "its part 1"},
		{set: []string{"OTEL_EXPORTER_OTLP_HEADERS=a=" + secret + "%0A"}, name: "OTEL_EXPORTER_OTLP_HEADERS:", want: "its part 1"},
		{set: []string{"OTEL_EXPORTER_OTLP_HEADERS=a=" + secret + "%zz"}, name: "OTEL_EXPORTER_OTLP_HEADERS:", want: "%25 for %"},
		{set: []string{on, "OTEL_EXPORTER_OTLP_HEADERS=\"a=b==, c=d e,\""}, kept: "OTEL_EXPORTER_OTLP_HEADERS:a=b==, c=d e", export: true},
		{set: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c.example.com", "OTEL_EXPORTER_OTLP_HEADERS=key=" + secret}, name: "OTEL_EXPORTER_OTLP_HEADERS", want: "to c.example.com by plain http", kept: "key=" + secret, export: true},
		{set: []string{"OTEL_EXPORTER_OTLP_COMPRESSION=zstd"}, name: "OTEL_EXPORTER_OTLP_COMPRESSION", want: "gzip, none"},
		{set: []string{tls, "OTEL_EXPORTER_OTLP_CERTIFICATE=/nowhere"}, name: "OTEL_EXPORTER_OTLP_CERTIFICATE", want: "can't be read", export: true},
		{set: []string{tls, "OTEL_EXPORTER_OTLP_CERTIFICATE=" + garbage}, name: "OTEL_EXPORTER_OTLP_CERTIFICATE", want: "want a PEM file", export: true},
		{set: []string{tls, "OTEL_EXPORTER_OTLP_CERTIFICATE=" + cert}, kept: "OTEL_EXPORTER_OTLP_CERTIFICATE:" + cert, export: true},
		{set: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_CERTIFICATE=" + cert}, name: "OTEL_EXPORTER_OTLP_CERTIFICATE", want: "want an https endpoint", export: true},
		{set: []string{tls, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=" + cert}, name: "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", want: "of one pair", export: true},
		{set: []string{tls, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=" + cert, "OTEL_EXPORTER_OTLP_CLIENT_KEY=" + key}, kept: "OTEL_EXPORTER_OTLP_CLIENT_KEY:" + key, export: true},
		{set: []string{"OTEL_TRACES_SAMPLER=jaeger_remote"}, name: "OTEL_TRACES_SAMPLER", want: "parentbased_traceidratio"},
		{set: []string{"OTEL_TRACES_SAMPLER=xray"}, name: "OTEL_TRACES_SAMPLER", want: `"xray"`},
		{set: []string{"OTEL_TRACES_SAMPLER=ALWAYS_OFF"}, kept: "OTEL_TRACES_SAMPLER:always_off"},
		{set: []string{"OTEL_TRACES_SAMPLER_ARG=10%"}, name: "OTEL_TRACES_SAMPLER_ARG", want: "number from 0 to 1"},
		{set: []string{"OTEL_TRACES_SAMPLER_ARG=NaN"}, name: "OTEL_TRACES_SAMPLER_ARG", want: "number from 0 to 1"},
		{set: []string{"OTEL_RESOURCE_ATTRIBUTES=prod"}, name: "OTEL_RESOURCE_ATTRIBUTES", want: "its part 1 is no <name>=<value>"},
		{set: []string{"OTEL_RESOURCE_ATTRIBUTES=a=b,c=%zz"}, name: "OTEL_RESOURCE_ATTRIBUTES", want: "its part 2"},
		{set: []string{"OTEL_SERVICE_NAME="}},
		{set: []string{"OTEL_SERVICE_NAME=a\nb"}, name: "OTEL_SERVICE_NAME", want: "control characters"},
		{set: []string{"OTEL_SDK_DISABLED=perhaps"}, name: "OTEL_SDK_DISABLED", want: "want true or false"},
		{set: []string{"OTEL_SDK_DISABLED=1"}, name: "OTEL_SDK_DISABLED", want: "want true or false"},
		{set: []string{on, "OTEL_BSP_MAX_QUEUE_SIZE=10"}, export: true},
		{set: []string{"OTEL_BSP_MAX_QUEUE_SIZE=-1"}, name: "OTEL_BSP_MAX_QUEUE_SIZE", want: "whole number"},
		{set: []string{"OTEL_BSP_MAX_EXPORT_BATCH_SIZE=many"}, name: "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", want: "whole number"},
		{set: []string{"OTEL_BSP_SCHEDULE_DELAY=0"}, name: "OTEL_BSP_SCHEDULE_DELAY", want: "from 1 to"},
		{set: []string{"OTEL_BSP_EXPORT_TIMEOUT=30s"}, name: "OTEL_BSP_EXPORT_TIMEOUT", want: "without a unit"},
		{set: []string{"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=unlimited"}, name: "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", want: `"unlimited"`},
		{set: []string{"OTEL_LOG_LEVEL=debug"}, name: "OTEL_LOG_LEVEL", want: "LOG_LEVEL is the worker's"},
		{set: []string{"OTEL_METRICS_EXPORTER=otlp"}, name: "OTEL_METRICS_EXPORTER", want: "/metrics"},
		{set: []string{"OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none", "OTEL_EXPORTER_OTLP_INSECURE=false"}},
		{set: []string{"OTEL_LOGS_EXPORTER=otlp"}, name: "OTEL_LOGS_EXPORTER", want: "stderr"},
		{set: []string{"OTEL_EXPORTER_OTLP_INSECURE=true"}, name: "OTEL_EXPORTER_OTLP_INSECURE", want: "scheme decides"},
		{set: []string{"OTEL_EXPORTER_OTLP_METRICS_HEADERS=" + secret, "OTEL_GO_X_NEW=1"}, name: "not followed, left out: OTEL_EXPORTER_OTLP_METRICS_HEADERS (a text of 23 bytes), OTEL_GO_X_NEW (a text of 1 bytes)"},
	}
}

// What others commonly set for all their programs never keeps the worker from running: what is not supported is warned of
// once, by name, without secrets, and left out.
func TestForeignTracingValues(t *testing.T) {
	t.Parallel()
	for _, tc := range foreignValues(t) {
		set, err := load(t, tc.set...)
		if err != nil {
			t.Errorf("%q: %v", tc.set, err)
			continue
		}
		got := strings.Join(set.Warnings, "; ")
		if len(set.Warnings) > 1 || (got == "") != (tc.name == "") || !strings.HasPrefix(got, tc.name) || !strings.Contains(got, tc.want) {
			t.Errorf("%q: warnings %q, want one of %s with %q", tc.set, got, tc.name, tc.want)
		}
		name, kept, named := strings.Cut(tc.kept, ":")
		if !named {
			name, kept = strings.Trim(tc.name, ":"), tc.kept
		}
		if have := set.Settings.Tracing.Env[name]; have != kept && have != shown(set, name).Value {
			t.Errorf("%q: the SDK is given %s=%s, want %q", tc.set, name, have, kept)
		}
		if set.Settings.Tracing.Export != tc.export {
			t.Errorf("%q: exporting is %v", tc.set, !tc.export)
		}
		leaks(t, set, nil)
		off, err := load(t, append([]string{"OTEL_SDK_DISABLED=TRUE"}, slices.DeleteFunc(slices.Clone(tc.set), func(s string) bool { return strings.HasPrefix(s, "OTEL_SDK_") })...)...)
		if err != nil || len(off.Warnings) > 0 || off.Settings.Tracing.Export {
			t.Errorf("%q, with the SDK disabled: %v, %q", tc.set, err, off.Warnings)
		}
	}
}

// shown returns what people are shown of a variable.
func shown(set settings.Set, name string) settings.Value {
	for _, v := range set.Values {
		if v.Name == name {
			return v
		}
	}
	return settings.Value{}
}

// All at once is no other thing.
func TestAllForeignTracingValues(t *testing.T) {
	t.Parallel()
	names := map[string]string{} // :: variable → the last that a case sets
	for _, tc := range foreignValues(t) {
		for _, s := range tc.set {
			name, _, _ := strings.Cut(s, "=")
			names[name] = s
		}
	}
	var all []string
	for _, s := range names {
		all = append(all, s)
	}
	set, err := load(t, all...)
	if err != nil {
		t.Fatal(err)
	}
	warned := map[string]int{}
	for _, w := range set.Warnings {
		name, _, _ := strings.Cut(w, " ")
		if warned[name]++; warned[name] > 1 && strings.HasPrefix(name, "OTEL_") && !strings.Contains(w, "plain http") {
			t.Errorf("warned of twice: %q", w)
		}
	}
	leaks(t, set, nil)
}

// What is shown is what is in effect.
func TestLeftOutValuesAreNotShown(t *testing.T) {
	t.Parallel()
	set, err := load(t, "OTEL_TRACES_SAMPLER=xray", "OTEL_EXPORTER_OTLP_ENDPOINT=c:4317", "OTEL_TRACES_EXPORTER=console,otlp")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]settings.Value{
		"OTEL_TRACES_SAMPLER":         {Name: "OTEL_TRACES_SAMPLER", Value: "parentbased_always_on", Origin: settings.FromDefault},
		"OTEL_EXPORTER_OTLP_ENDPOINT": {Name: "OTEL_EXPORTER_OTLP_ENDPOINT", Value: "", Origin: settings.FromDefault},
		"OTEL_TRACES_EXPORTER":        {Name: "OTEL_TRACES_EXPORTER", Value: "otlp", Origin: settings.FromEnv},
	} {
		if got := shown(set, name); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}
