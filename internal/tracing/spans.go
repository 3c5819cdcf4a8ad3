package tracing

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Attributes beside those of the semantic conventions.
const (
	keyTenant    = attribute.Key("flow_worker.tenant")
	keyID        = attribute.Key("flow_worker.request.id")
	keySource    = attribute.Key("flow_worker.request.source")
	keyRetry     = attribute.Key("flow_worker.request.retry")
	keySeq       = attribute.Key("flow_worker.stream.sequence")
	keyDelivered = attribute.Key("flow_worker.delivered")
	keyAttempt   = attribute.Key("flow_worker.attempt")
	keyOutcome   = attribute.Key("flow_worker.outcome")
	keyReason    = attribute.Key("flow_worker.reason")
	keyRepeat    = attribute.Key("flow_worker.repeat")
	keySettled   = attribute.Key("flow_worker.settled")
	keyState     = attribute.Key("flow_worker.ledger.state")
)

const (
	systemNATS      = "nats"
	requestsSubject = "connections.requests."
	requests        = requestsSubject + "{tenant}"
	consumerName    = "flow-worker"
)

// work is a provision.Span.
type work struct {
	span         trace.Span
	message, own provision.Trace
	tries        *tries
}

// tries counts, per HTTP call, how often in a row it failed in one piece of work.
type tries struct {
	mu     sync.Mutex
	failed map[string]int // :: method and URL → failures since the last success; guarded by mu
}

func (t *tries) inARow(call string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed[call]
}

func (t *tries) ended(call string, failed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if failed {
		t.failed[call]++
	} else {
		delete(t.failed, call)
	}
}

type triesKey struct{}

// triesOf returns the counts of the work that ctx is attached to, or new ones.
func triesOf(ctx context.Context) *tries {
	if t, ok := ctx.Value(triesKey{}).(*tries); ok {
		return t
	}
	return &tries{failed: map[string]int{}}
}

// Begin implements provision.Tracer.
func (t *Tracer) Begin(d *provision.Delivery) provision.Span {
	ctx := extract(context.Background(), d.Request.Trace)
	w := &work{message: d.Request.Trace, tries: &tries{failed: map[string]int{}}}
	if !trace.SpanContextFromContext(ctx).IsValid() {
		ctx, w.message = t.ownTrace(d)
	}
	ctx, w.span = t.tracer.Start(ctx, "process "+requests, trace.WithSpanKind(trace.SpanKindConsumer))
	w.own = inject(ctx)
	if w.message.Parent == "" {
		w.message = w.own // it is the root
	}
	if w.span.IsRecording() {
		w.span.SetAttributes(
			semconv.MessagingSystemKey.String(systemNATS), semconv.MessagingOperationTypeProcess, semconv.MessagingOperationName("process"),
			semconv.MessagingDestinationName(requestsSubject+d.Request.Key.Tenant), semconv.MessagingDestinationTemplate(requests),
			semconv.MessagingConsumerGroupName(consumerName), semconv.MessagingMessageID(d.Request.Key.ID),
			keyTenant.String(d.Request.Key.Tenant), keyID.String(d.Request.Key.ID), keySource.String(d.Request.Key.Source),
			keyRetry.Int(d.Request.Retry), keySeq.Int64(int64(d.Seq)), keyDelivered.Int64(int64(d.Delivered)),
		)
	}
	return w
}

// ownTrace returns the context in which the work on a message begins that came without a trace: the first
// delivery's span is the root of one, those of later deliveries are below it, whether it was ever
// exported or not.
func (t *Tracer) ownTrace(d *provision.Delivery) (context.Context, provision.Trace) {
	r := rootOf(d)
	ctx := context.WithValue(context.Background(), rootKey{}, r)
	if d.Delivered <= 1 {
		return ctx, provision.Trace{}
	}
	_, first := t.sampling.Start(ctx, "", trace.WithSpanKind(trace.SpanKindConsumer)) // the root, as it was sampled
	flags := first.SpanContext().TraceFlags()
	first.End()
	ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: r.trace, SpanID: r.span, TraceFlags: flags, Remote: true}))
	return ctx, inject(ctx)
}

// Traces implements provision.Span.
func (w *work) Traces() (message, own provision.Trace) { return w.message, w.own }

// Attach implements provision.Span.
func (w *work) Attach(ctx context.Context) context.Context {
	return context.WithValue(trace.ContextWithSpan(ctx, w.span), triesKey{}, w.tries)
}

// End implements provision.Span.
func (w *work) End(out provision.Outcome, settled string, err error) {
	why := ""
	w.span.SetAttributes(keySettled.String(settled), keyAttempt.Int(out.Attempts), keyRepeat.Bool(out.Repeat))
	if res := out.Result; res != nil {
		w.span.SetAttributes(keyOutcome.String(res.Outcome))
		if res.Error != nil {
			why = string(res.Error.Reason)
			w.span.SetAttributes(keyReason.String(why))
		}
	}
	if err != nil {
		why = "not_told"
	}
	end(w.span, why)
}

// Publish implements provision.Tracer.
func (t *Tracer) Publish(ctx context.Context, stream, subject string) func(error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) > 2 {
		tokens[2] = "{tenant}"
	}
	template := strings.Join(tokens, ".")
	_, span := start(ctx, t.tracer, "send "+template, trace.SpanKindProducer)
	if span.IsRecording() {
		span.SetAttributes(
			semconv.MessagingSystemKey.String(systemNATS), semconv.MessagingOperationTypeSend, semconv.MessagingOperationName("send"),
			semconv.MessagingDestinationName(subject), semconv.MessagingDestinationTemplate(template), attribute.String("flow_worker.stream", stream),
		)
	}
	return func(err error) { end(span, kindOf(err)) }
}

// start begins a span below the one of ctx. Where there is none, the span records nothing: a call that is
// no part of some work has no trace.
func start(ctx context.Context, tracer trace.Tracer, name string, kind trace.SpanKind) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, noop.Span{}
	}
	return tracer.Start(ctx, name, trace.WithSpanKind(kind))
}

// end ends a span; why is a word that says what went wrong, empty if nothing did.
func end(span trace.Span, why string) {
	if why != "" {
		span.SetAttributes(semconv.ErrorTypeKey.String(why))
		span.SetStatus(codes.Error, why)
	}
	span.End()
}

func extract(ctx context.Context, t provision.Trace) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": t.Parent, "tracestate": t.State})
}

func inject(ctx context.Context) provision.Trace {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return provision.Trace{Parent: carrier["traceparent"], State: carrier["tracestate"]}
}

// Ledger returns a ledger that makes a span of every call to l that is a part of some work.
func (t *Tracer) Ledger(l provision.Ledger) provision.Ledger { return &ledger{l, t.tracer} }

type ledger struct {
	next   provision.Ledger
	tracer trace.Tracer
}

// Load implements provision.Ledger.
func (l *ledger) Load(ctx context.Context, key provision.Key) (provision.Record, uint64, error) {
	ctx, span := start(ctx, l.tracer, "ledger load", trace.SpanKindClient)
	rec, rev, err := l.next.Load(ctx, key)
	why := kindOf(err)
	if errors.Is(err, provision.ErrNoRecord) {
		why = ""
	}
	span.SetAttributes(keyState.String(string(rec.State)))
	end(span, why)
	return rec, rev, err
}

// Store implements provision.Ledger.
func (l *ledger) Store(ctx context.Context, key provision.Key, rec provision.Record, rev uint64) (uint64, error) {
	ctx, span := start(ctx, l.tracer, "ledger store", trace.SpanKindClient)
	next, err := l.next.Store(ctx, key, rec, rev)
	span.SetAttributes(keyState.String(string(rec.State)), keyAttempt.Int(rec.Posts))
	end(span, kindOf(err))
	return next, err
}

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
	route, call, tries := t.route(req), req.Method+" "+req.URL.String(), triesOf(req.Context())
	ctx, span := t.tracer.Start(req.Context(), req.Method+" "+route, trace.WithSpanKind(trace.SpanKindClient))
	req = req.Clone(ctx)
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
	if span.IsRecording() {
		where := url.URL{Scheme: req.URL.Scheme, Host: req.URL.Host, Path: req.URL.Path}
		span.SetAttributes(
			semconv.HTTPRequestMethodKey.String(req.Method), semconv.ServerAddress(req.URL.Hostname()),
			semconv.URLFull(where.String()), semconv.URLTemplate(route), attribute.String("service.peer.name", t.service),
		)
		if port, err := strconv.Atoi(req.URL.Port()); err == nil {
			span.SetAttributes(semconv.ServerPort(port))
		}
		if n := tries.inARow(call); n > 0 {
			span.SetAttributes(semconv.HTTPRequestResendCount(n))
		}
		if e := provision.PurposeOf(ctx); e != nil {
			span.SetAttributes(keyAttempt.Int(e.Attempt))
		}
	}
	res, err := t.next.RoundTrip(req)
	why := kindOf(err)
	if err == nil {
		span.SetAttributes(semconv.HTTPResponseStatusCode(res.StatusCode))
		if res.StatusCode >= http.StatusBadRequest {
			why = strconv.Itoa(res.StatusCode)
		}
	}
	tries.ended(call, why != "")
	end(span, why)
	return res, err
}

// CloseIdleConnections lets http.Client reach the transport below.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

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
