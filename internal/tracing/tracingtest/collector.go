// Package tracingtest has a collector that takes spans by OTLP over HTTP, for tests. It decodes what comes
// with OpenTelemetry's own protocol buffers, and knows nothing of how the spans were made.
package tracingtest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// maxExport is how much of one export is read, in bytes.
const maxExport = 8 << 20

// Span is one span that was exported.
type Span struct {
	Trace, ID, Parent string            // hex digits; Parent is empty for a root
	TraceState        string            //
	Name              string            //
	Kind              string            // "CONSUMER", "CLIENT" …
	Failed            bool              // its status is an error
	Message           string            // of the status
	Attrs             map[string]string // :: name → value as text
	Resource          map[string]string // :: name → value as text
	Began, Ended      uint64            // ns since the epoch
}

// Collector is a collector at an address of its own. Its methods are safe for concurrent use. Make one with
// Start, end it with Close.
type Collector struct {
	server *httptest.Server

	mu      sync.Mutex
	changed chan struct{} // closed, and replaced, when something comes; guarded by mu
	gate    chan struct{} // nil, or answers wait for its end; guarded by mu
	status  int           // of answers, 0 means 200; guarded by mu
	begun   int           // calls; guarded by mu
	spans   []Span        // guarded by mu
	raw     bytes.Buffer  // heads and bodies of all calls, unzipped; guarded by mu
}

// Start returns a collector.
func Start() *Collector {
	c := &Collector{changed: make(chan struct{})}
	c.server = httptest.NewServer(c)
	return c
}

// URL returns its address, without the path of traces.
func (c *Collector) URL() string { return c.server.URL }

// Close lets all that hangs go, and ends the collector.
func (c *Collector) Close() {
	c.Release()
	c.server.Close()
}

// Hang makes every answer wait until Release.
func (c *Collector) Hang() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gate = make(chan struct{})
}

// Release lets all answers go. It may be called more than once.
func (c *Collector) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gate != nil {
		close(c.gate)
		c.gate = nil
	}
}

// Answer sets the status of all further answers. What it refuses is not kept as spans.
func (c *Collector) Answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

// ServeHTTP implements http.Handler.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	gate, status := c.begin(r)
	if gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
	}
	if status == 0 {
		status = c.take(r)
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.WriteHeader(status)
}

// begin notes the head of a call.
func (c *Collector) begin(r *http.Request) (gate chan struct{}, status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun++
	fmt.Fprintf(&c.raw, "%s %s\n", r.Method, r.URL)
	_ = r.Header.Write(&c.raw) // into memory
	c.wake()
	return c.gate, c.status
}

// take reads the body of a call and returns the status of its answer.
func (c *Collector) take(r *http.Request) int {
	if r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		return http.StatusNotFound
	}
	body, err := readBody(r)
	if err != nil {
		return http.StatusBadRequest
	}
	var export collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &export); err != nil {
		return http.StatusBadRequest
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw.Write(body)
	c.raw.WriteByte('\n')
	for _, rs := range export.GetResourceSpans() {
		resource := texts(rs.GetResource().GetAttributes())
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				c.spans = append(c.spans, spanOf(s, resource))
			}
		}
	}
	c.wake()
	return http.StatusOK
}

func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxExport))
	if err != nil || r.Header.Get("Content-Encoding") != "gzip" {
		return body, err
	}
	unzip, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(unzip, maxExport))
}

// wake tells those who wait. The caller holds mu.
func (c *Collector) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func spanOf(s *otlp.Span, resource map[string]string) Span {
	return Span{
		Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
		TraceState: s.GetTraceState(), Name: s.GetName(), Kind: strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_"),
		Failed: s.GetStatus().GetCode() == otlp.Status_STATUS_CODE_ERROR, Message: s.GetStatus().GetMessage(),
		Attrs: texts(s.GetAttributes()), Resource: resource, Began: s.GetStartTimeUnixNano(), Ended: s.GetEndTimeUnixNano(),
	}
}

func texts(attrs []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range attrs {
		v := kv.GetValue()
		switch v.GetValue().(type) {
		case *common.AnyValue_StringValue:
			out[kv.GetKey()] = v.GetStringValue()
		case *common.AnyValue_IntValue:
			out[kv.GetKey()] = fmt.Sprint(v.GetIntValue())
		case *common.AnyValue_BoolValue:
			out[kv.GetKey()] = fmt.Sprint(v.GetBoolValue())
		default:
			out[kv.GetKey()] = v.String()
		}
	}
	return out
}

// Spans returns what was exported so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Calls returns how many calls came, the ones that hang included.
func (c *Collector) Calls() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.begun
}

// Raw returns all that came, the headers too, unzipped. Texts stand in it as they are: protocol buffers don't
// encode them.
func (c *Collector) Raw() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.raw.String()
}

// Await waits until done is satisfied, and returns the spans of that moment. Its error is ctx's.
func (c *Collector) Await(ctx context.Context, done func(*Collector) bool) ([]Span, error) {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if done(c) {
			return c.Spans(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return c.Spans(), ctx.Err()
		}
	}
}
