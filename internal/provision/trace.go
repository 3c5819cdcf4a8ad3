package provision

import (
	"cmp"
	"context"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
)

// Trace is the W3C trace context that came with a request; both parts may be empty.
type Trace struct {
	Parent string `json:"traceparent,omitempty"`
	State  string `json:"tracestate,omitempty"`
}

// ID returns the trace id, 32 lower-case hex digits, or "" where Parent is no traceparent of W3C Trace
// Context. It is safe as a label's value and in a log.
func (t Trace) ID() string {
	parts := strings.Split(t.Parent, "-")
	if len(parts) < 4 || len(parts[1]) != 32 || strings.Trim(parts[1], "0123456789abcdef") != "" || strings.Trim(parts[1], "0") == "" {
		return ""
	}
	return parts[1]
}

// SampledID returns ID where the sender says that the trace is recorded, else "": it is what a metric's
// exemplar may lead to.
func (t Trace) SampledID() string {
	id := t.ID()
	if id == "" {
		return ""
	}
	flags, err := strconv.ParseUint(strings.Split(t.Parent, "-")[3], 16, 8)
	if err != nil || flags&1 == 0 {
		return ""
	}
	return id
}

// Limits of what is sent on of a trace context, in bytes.
const (
	maxTraceParent = 256
	maxTraceState  = 512
)

var traceParent = regexp.MustCompile(`^[0-9a-f]{2}(-[0-9a-f]+)+$`)

// Inject calls set for each header of W3C Trace Context that has to go with a call. A malformed one is
// left out: it must not fail the call.
func (t Trace) Inject(set func(name, value string)) {
	if !traceParent.MatchString(t.Parent) || len(t.Parent) > maxTraceParent {
		return
	}
	set("Traceparent", t.Parent)
	printable := strings.IndexFunc(t.State, func(r rune) bool { return r < ' ' || r > '~' }) < 0
	if t.State != "" && printable && len(t.State) <= maxTraceState {
		set("Tracestate", t.State)
	}
}

// TraceID returns the trace id of a request that came without one: 32 hex digits that depend on the key
// alone, so that every delivery of it, by whatever worker, belongs to the same trace.
func (k Key) TraceID() string { return digest("trace", k.String())[:32] }

// TraceID returns the id of the trace that the request came with, else the one that its key gives.
func (r *Request) TraceID() string {
	if id := r.Trace.ID(); id != "" {
		return id
	}
	return r.Key.TraceID()
}

// Purpose is what a call is made for. It goes with the call's context, for those who log the call or
// pass its trace on. The zero value is no purpose.
type Purpose struct {
	Key       Key
	Seq       uint64 // of the message in its stream
	Delivered uint64 // which delivery of it
	Attempt   int    // POSTs begun in this retry, as in Result.Attempts; 0 also where the ledger wasn't read yet
	Trace     Trace  // what to send on
}

type purposeKey struct{}

// Into returns a context that carries e.
func (e *Purpose) Into(ctx context.Context) context.Context {
	return context.WithValue(ctx, purposeKey{}, e)
}

// PurposeOf returns the purpose that ctx carries, or nil. It must not be changed.
func PurposeOf(ctx context.Context) *Purpose {
	e, _ := ctx.Value(purposeKey{}).(*Purpose)
	return e
}

// Attrs returns what every log line about a request has: tenant, source, id, seq, delivered, attempt and
// trace_id.
func (e *Purpose) Attrs() []slog.Attr {
	return []slog.Attr{
		slog.String("tenant", e.Key.Tenant), slog.String("source", e.Key.Source), slog.String("id", e.Key.ID),
		slog.Uint64("seq", e.Seq), slog.Uint64("delivered", e.Delivered), slog.Int("attempt", e.Attempt),
		slog.String("trace_id", cmp.Or(e.Trace.ID(), e.Key.TraceID())),
	}
}

// Purpose returns what the work on d is, after so many POSTs.
func (d *Delivery) Purpose(attempt int) *Purpose {
	e := &Purpose{Key: d.Request.Key, Seq: d.Seq, Delivered: d.Delivered, Attempt: attempt, Trace: d.Request.Trace}
	if d.Work.Parent != "" {
		e.Trace = d.Work
	}
	return e
}

// Tracer shows the work of this process to those who look at traces. Its methods must be quick and are
// safe for concurrent use.
type Tracer interface {
	// Begin begins the span of the work on one delivery, as a part of the trace that its message came
	// with or, where there is none, of a new one.
	Begin(d *Delivery) Span
	// Publish begins the span of sending one message, as a part of the work that ctx was attached to. end
	// must be called once, with what came of it.
	Publish(ctx context.Context, stream, subject string) (end func(error))
}

// Span is the work on one delivery. Its methods are safe for concurrent use.
type Span interface {
	// Traces returns the trace context of the message, which is that of a new trace where it came
	// without one, and where in that trace the work is, which is what to send on. Both are empty where
	// there are no traces.
	Traces() (message, work Trace)
	// Attach returns a context for what is a part of the work.
	Attach(ctx context.Context) context.Context
	// End ends the span. It must be called once, with how the message was settled and what prevented
	// better, nil if nothing did.
	End(out Outcome, settled string, err error)
}

// Untraced is a Tracer that shows nothing.
type Untraced struct{}

var _ Tracer = Untraced{}

// Begin implements Tracer.
func (Untraced) Begin(*Delivery) Span { return untraced{} }

// Publish implements Tracer.
func (Untraced) Publish(context.Context, string, string) func(error) { return endNothing }

func endNothing(error) {}

type untraced struct{}

// Traces implements Span.
func (untraced) Traces() (message, work Trace) { return Trace{}, Trace{} }

// Attach implements Span.
func (untraced) Attach(ctx context.Context) context.Context { return ctx }

// End implements Span.
func (untraced) End(Outcome, string, error) {}
