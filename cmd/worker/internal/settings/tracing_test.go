package settings_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
		if err != nil || set.Settings.Tracing.Exporting() != tc.want || len(set.Warnings) > 0 {
			t.Errorf("%q: exporting is %v, want %v; %v, %q", tc.set, !tc.want, tc.want, err, set.Warnings)
		}
	}
}

// What is said of traces alone beats what is said of all signals.
func TestTarget(t *testing.T) {
	t.Parallel()
	general := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=https://all.example.com/otel/", "OTEL_EXPORTER_OTLP_HEADERS=api-key=a%2Cb,x= y ", "OTEL_EXPORTER_OTLP_TIMEOUT=2500",
		"OTEL_EXPORTER_OTLP_COMPRESSION=gzip", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"}
	own := []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:4318/mine", "OTEL_EXPORTER_OTLP_TRACES_HEADERS=k=v", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT=1",
		"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION=none", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf"}
	for _, tc := range []struct {
		name string
		set  []string
		want settings.OTLP
	}{
		{"defaults", []string{"OTEL_TRACES_EXPORTER=otlp"}, settings.OTLP{Endpoint: "http://localhost:4318/v1/traces", Protocol: "http/protobuf", Compression: "none", Timeout: 10 * time.Second}},
		{"all signals", general, settings.OTLP{Endpoint: "https://all.example.com/otel/v1/traces", Protocol: "http/protobuf", Compression: "gzip", Timeout: 2500 * time.Millisecond,
			Headers: map[string]string{"api-key": "a,b", "x": "y"}}},
		{"traces alone", append(own, general...), settings.OTLP{Endpoint: "http://127.0.0.1:4318/mine", Protocol: "http/protobuf", Compression: "none", Timeout: time.Millisecond,
			Headers: map[string]string{"k": "v"}}},
	} {
		set, err := load(t, tc.set...)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		} else if diff := cmp.Diff(tc.want, set.Settings.Tracing.Target()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestWrongTracingValues(t *testing.T) {
	t.Parallel()
	cert := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(cert, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	const on = "OTEL_TRACES_EXPORTER=otlp"
	for _, tc := range []struct {
		set  []string
		name string // the variable that is blamed
		want string // a part of the remedy
	}{
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=localhost:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT", "want one with its scheme, such as http://localhost:4318"},
		{[]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://u:" + secret + "@c.example.com"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=https://c.example.com/?k=" + secret}, "OTEL_EXPORTER_OTLP_ENDPOINT", "a query"},
		{[]string{on, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL", `"grpc" is none that the worker speaks; want http/protobuf, and in the endpoint the port`},
		{[]string{"OTEL_EXPORTER_OTLP_HEADERS=a=b," + secret}, "OTEL_EXPORTER_OTLP_HEADERS", "its part 2 is no <name>=<value>"},
		{[]string{"OTEL_EXPORTER_OTLP_HEADERS=a b=c"}, "OTEL_EXPORTER_OTLP_HEADERS", "its part 1"},
		{[]string{"OTEL_EXPORTER_OTLP_HEADERS=a=%0A"}, "OTEL_EXPORTER_OTLP_HEADERS", "its part 1"},
		{[]string{"OTEL_EXPORTER_OTLP_COMPRESSION=zstd"}, "OTEL_EXPORTER_OTLP_COMPRESSION", "gzip, none"},
		{[]string{"OTEL_EXPORTER_OTLP_TIMEOUT=10s"}, "OTEL_EXPORTER_OTLP_TIMEOUT", "whole number of milliseconds"},
		{[]string{"OTEL_EXPORTER_OTLP_CERTIFICATE=/nowhere"}, "OTEL_EXPORTER_OTLP_CERTIFICATE", "can't be read"},
		{[]string{on, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=" + cert}, "OTEL_EXPORTER_OTLP_CLIENT_KEY", "needs it"},
		{[]string{"OTEL_TRACES_EXPORTER=zipkin"}, "OTEL_TRACES_EXPORTER", "otlp, none"},
		{[]string{"OTEL_TRACES_SAMPLER=jaeger_remote"}, "OTEL_TRACES_SAMPLER", "parentbased_traceidratio"},
		{[]string{"OTEL_TRACES_SAMPLER_ARG=10%"}, "OTEL_TRACES_SAMPLER_ARG", "number from 0 to 1"},
		{[]string{"OTEL_TRACES_SAMPLER_ARG=NaN"}, "OTEL_TRACES_SAMPLER_ARG", "number from 0 to 1"},
		{[]string{"OTEL_PROPAGATORS=b3"}, "OTEL_PROPAGATORS", "want tracecontext"},
		{[]string{"OTEL_RESOURCE_ATTRIBUTES=prod"}, "OTEL_RESOURCE_ATTRIBUTES", "its part 1 is no <name>=<value>"},
		{[]string{"OTEL_SDK_DISABLED=perhaps"}, "OTEL_SDK_DISABLED", "neither true nor false"},
		{[]string{on, "OTEL_BSP_MAX_QUEUE_SIZE=10"}, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "more than OTEL_BSP_MAX_QUEUE_SIZE, 10"},
		{[]string{"OTEL_BSP_SCHEDULE_DELAY=0"}, "OTEL_BSP_SCHEDULE_DELAY", "from 1 to"},
	} {
		_, err := load(t, tc.set...)
		if err == nil || len(err.Problems) != 1 || err.Problems[0].Name != tc.name || !strings.Contains(err.Problems[0].Text, tc.want) {
			t.Errorf("%q: got %v, want %s: …%s…", tc.set, err, tc.name, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%q: the message tells the secret: %v", tc.set, err)
		}
	}
}

// What others commonly set for all their programs is no obstacle; what can't work is told.
func TestOddTracingValues(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		set  []string
		want string // a part of the only warning, empty for none
	}{
		{[]string{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, ""}, // nothing is exported
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_PROPAGATORS=tracecontext, baggage"}, ""},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_PROPAGATORS=tracecontext,b3"}, "more than tracecontext"},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317"}, "http/protobuf, whose port is 4318"},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c.example.com", "OTEL_EXPORTER_OTLP_HEADERS=key=" + secret}, "to c.example.com by plain http"},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318", "OTEL_EXPORTER_OTLP_HEADERS=key=" + secret}, ""},
	} {
		set, err := load(t, tc.set...)
		got := strings.Join(set.Warnings, "; ")
		if err != nil || len(set.Warnings) > 1 || (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) || strings.Contains(got, secret) {
			t.Errorf("%q: %v, warnings %q, want %q", tc.set, err, got, tc.want)
		}
		for _, v := range set.Values {
			if strings.Contains(v.Value, secret) {
				t.Errorf("%s is shown as %q", v.Name, v.Value)
			}
		}
	}
}
