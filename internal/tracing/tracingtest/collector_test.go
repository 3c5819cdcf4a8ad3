package tracingtest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/flow-worker/flow-worker/internal/tracing/tracingtest"
)

func export(t *testing.T, name string) []byte {
	t.Helper()
	text := func(s string) *common.AnyValue {
		return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}}
	}
	body, err := proto.Marshal(&collector.ExportTraceServiceRequest{ResourceSpans: []*otlp.ResourceSpans{{ScopeSpans: []*otlp.ScopeSpans{{Spans: []*otlp.Span{{
		TraceId: bytes.Repeat([]byte{1}, 16), SpanId: bytes.Repeat([]byte{2}, 8), Name: name, Kind: otlp.Span_SPAN_KIND_CLIENT,
		Status: &otlp.Status{Code: otlp.Status_STATUS_CODE_ERROR, Message: "m"},
		Attributes: []*common.KeyValue{{Key: "a", Value: text("b")},
			{Key: "n", Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: 7}}}},
	}}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func post(t *testing.T, url string, body []byte, header ...string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

func TestCollectorTakesWhatIsOTLP(t *testing.T) {
	t.Parallel()
	c := tracingtest.Start()
	defer c.Close()
	at := c.URL() + "/v1/traces"
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	_, _ = zip.Write(export(t, "zipped"))
	_ = zip.Close()
	if got := post(t, at, export(t, "plain"), "X-Key", "v"); got != 200 {
		t.Errorf("status %d", got)
	}
	if got := post(t, at, zipped.Bytes(), "Content-Encoding", "gzip"); got != 200 {
		t.Errorf("gzip: status %d", got)
	}
	for name, got := range map[string]int{
		"no protobuf": post(t, at, []byte("hello")), "no gzip": post(t, at, []byte("hello"), "Content-Encoding", "gzip"),
		"another path": post(t, c.URL()+"/v1/logs", export(t, "x")), "JSON": post(t, at, []byte("{}"), "Content-Type", "application/json"),
	} {
		if got < 400 {
			t.Errorf("%s: status %d", name, got)
		}
	}
	spans := c.Spans()
	if len(spans) != 2 || spans[0].Name != "plain" || spans[1].Name != "zipped" {
		t.Fatalf("spans %+v", spans)
	}
	s := spans[0]
	if s.Trace != strings.Repeat("01", 16) || s.ID != strings.Repeat("02", 8) || s.Parent != "" || s.Kind != "CLIENT" || !s.Failed || s.Message != "m" ||
		s.Attrs["a"] != "b" || s.Attrs["n"] != "7" {
		t.Errorf("span %+v", s)
	}
	if raw := c.Raw(); !strings.Contains(raw, "X-Key: v") || !strings.Contains(raw, "zipped") {
		t.Errorf("raw:\n%s", raw)
	}
}

func TestCollectorHangsAndRefuses(t *testing.T) {
	t.Parallel()
	c := tracingtest.Start()
	defer c.Close()
	c.Hang()
	answered := make(chan int, 1)
	go func() { answered <- post(t, c.URL()+"/v1/traces", export(t, "x")) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := c.Await(ctx, func(c *tracingtest.Collector) bool { return c.Calls() == 1 }); err != nil {
		t.Fatal(err)
	}
	if len(answered) > 0 || len(c.Spans()) > 0 {
		t.Error("it did not hang")
	}
	c.Release()
	if got := <-answered; got != 200 || len(c.Spans()) != 1 {
		t.Errorf("status %d, %d spans", got, len(c.Spans()))
	}
	c.Answer(503)
	if got := post(t, c.URL()+"/v1/traces", export(t, "y")); got != 503 || len(c.Spans()) != 1 {
		t.Errorf("status %d, %d spans", got, len(c.Spans()))
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := c.Await(ended, func(*tracingtest.Collector) bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("Await: %v", err)
	}
}
