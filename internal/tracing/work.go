package tracing

import (
	"context"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

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

type triesKey struct{}

// Begin implements provision.Tracer.
func (t *Tracer) Begin(d *provision.Delivery) provision.Span {
	ctx := extract(context.Background(), d.Request.Trace)
	w := &work{message: d.Request.Trace, tries: &tries{}}
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
	if w.span.IsRecording() {
		w.span.SetAttributes(keySettled.String(settled), keyAttempt.Int(out.Attempts), keyRepeat.Bool(out.Repeat))
		if res := out.Result; res != nil {
			w.span.SetAttributes(keyOutcome.String(res.Outcome))
			if res.Error != nil {
				w.failed(string(res.Error.Reason), keyReason.String(string(res.Error.Reason)))
			}
		}
		if err != nil {
			w.failed("not_told")
		}
	}
	w.span.End()
}

func (w *work) failed(why string, more ...attribute.KeyValue) {
	w.span.SetAttributes(append(more, semconv.ErrorTypeKey.String(why))...)
	w.span.SetStatus(codes.Error, why)
}

// Publish implements provision.Tracer.
func (t *Tracer) Publish(ctx context.Context, stream, subject string) func(error) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return func(error) {}
	}
	_, span := t.tracer.Start(ctx, "send "+template(subject), trace.WithSpanKind(trace.SpanKindProducer))
	if span.IsRecording() {
		span.SetAttributes(
			semconv.MessagingSystemKey.String(systemNATS), semconv.MessagingOperationTypeSend, semconv.MessagingOperationName("send"),
			semconv.MessagingDestinationName(subject), semconv.MessagingDestinationTemplate(template(subject)), attribute.String("flow_worker.stream", stream),
		)
	}
	return func(err error) { end(span, kindOf(err)) }
}

// template returns a subject with its tenant left out.
func template(subject string) string {
	tokens := strings.Split(subject, ".")
	if len(tokens) > 2 {
		tokens[2] = "{tenant}"
	}
	return strings.Join(tokens, ".")
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
