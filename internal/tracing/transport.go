package tracing

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Transport returns a RoundTripper that makes a span of every call to a service that is a part of some
// work, and sends the trace context with it. The span ends with the head of the answer. route names what
// is called without what differs from call to call.
func (t *Tracer) Transport(service string, route func(*http.Request) string, next http.RoundTripper) http.RoundTripper {
	return &transport{tracer: t.tracer, service: service, route: route, next: next}
}

type transport struct {
	tracer  trace.Tracer
	service string
	route   func(*http.Request) string
	next    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !trace.SpanContextFromContext(req.Context()).IsValid() {
		return t.next.RoundTrip(req)
	}
	route := t.route(req)
	ctx, span := t.tracer.Start(req.Context(), req.Method+" "+route, trace.WithSpanKind(trace.SpanKindClient))
	req = req.Clone(ctx)
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
	if span.IsRecording() {
		span.SetAttributes(t.describe(req, route)...)
	}
	res, err := t.next.RoundTrip(req)
	why := kindOf(err)
	if err == nil {
		span.SetAttributes(semconv.HTTPResponseStatusCode(res.StatusCode))
		if res.StatusCode >= http.StatusBadRequest {
			why = strconv.Itoa(res.StatusCode)
		}
	}
	triesOf(ctx).note(req, why == "")
	end(span, why)
	return res, err
}

// CloseIdleConnections lets http.Client reach the transport below.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (t *transport) describe(req *http.Request, route string) []attribute.KeyValue {
	where := url.URL{Scheme: req.URL.Scheme, Host: req.URL.Host, Path: req.URL.Path}
	attrs := []attribute.KeyValue{
		semconv.HTTPRequestMethodKey.String(req.Method), semconv.ServerAddress(req.URL.Hostname()),
		semconv.URLFull(where.String()), semconv.URLTemplate(route), attribute.String("service.peer.name", t.service),
	}
	if port, err := strconv.Atoi(req.URL.Port()); err == nil {
		attrs = append(attrs, semconv.ServerPort(port))
	}
	if n := triesOf(req.Context()).of(req); n > 0 {
		attrs = append(attrs, semconv.HTTPRequestResendCount(n))
	}
	if e := provision.ErrandOf(req.Context()); e != nil {
		attrs = append(attrs, keyAttempt.Int(e.Attempt))
	}
	return attrs
}

// triesOf returns the counts of the work that ctx is attached to, or nil.
func triesOf(ctx context.Context) *tries {
	counts, _ := ctx.Value(triesKey{}).(*tries)
	return counts
}

// of returns how often in a row the call failed.
func (t *tries) of(req *http.Request) int {
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed[callOf(req)]
}

func (t *tries) note(req *http.Request, ok bool) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if ok {
		delete(t.failed, callOf(req))
		return
	}
	if t.failed == nil {
		t.failed = map[string]int{}
	}
	t.failed[callOf(req)]++
}

func callOf(req *http.Request) string { return req.Method + " " + req.URL.String() }

// kindOf says in a word what an error is, "" for none. Its text may be upstream's.
func kindOf(err error) string {
	var ne net.Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, provision.ErrConflict):
		return "conflict"
	}
	return "failed"
}
