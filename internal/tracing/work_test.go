package tracing

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// A message without a trace context begins one: whoever has it, at whatever delivery, finds the same.
func TestOwnTraces(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	other := newKit(t, func(c *Config) { c.Env["OTEL_TRACES_SAMPLER"], c.Env["OTEL_TRACES_SAMPLER_ARG"] = "traceidratio", "0" })
	begin := func(tr *Tracer, change func(*provision.Delivery)) (message, work provision.Trace) {
		d := delivery("")
		change(d)
		span := tr.Begin(d)
		defer span.End(provision.Outcome{}, "nak", nil)
		return span.Traces()
	}
	root, work := begin(k.Tracer, func(*provision.Delivery) {})
	key := delivery("").Request.Key
	if root != work || root.ID() != key.TraceID() || !strings.HasSuffix(root.Parent, "-01") {
		t.Errorf("the first delivery: message %+v, work %+v", root, work)
	}
	for name, parent := range map[string]string{"none": "", "malformed": "00-x-y-01", "of zeros": "00-00000000000000000000000000000000-0000000000000000-01"} {
		message, later := begin(k.Tracer, func(d *provision.Delivery) { d.Delivered, d.Request.Trace.Parent = 2, parent })
		if message != root || later.ID() != root.ID() || later == root {
			t.Errorf("the second delivery, traceparent %s: message %+v, work %+v, want the message's %+v", name, message, later, root)
		}
	}
	message, _ := begin(k.Tracer, func(d *provision.Delivery) { d.Seq = 8 })
	if message == root || message.ID() != root.ID() {
		t.Errorf("another message of the request: %+v, want the trace of %+v", message, root)
	}
	message, later := begin(other.Tracer, func(d *provision.Delivery) { d.Delivered = 2 })
	if message.ID() != root.ID() || !strings.HasSuffix(message.Parent, "-00") || !strings.HasSuffix(later.Parent, "-00") {
		t.Errorf("not sampled: message %+v, work %+v", message, later)
	}
	for _, s := range k.spans() {
		if s.Trace != root.ID() || (s.Parent == "") != (s.Attrs["flow_worker.delivered"] == "1") {
			t.Errorf("span %+v", s)
		}
	}
	if n := len(other.spans()); n > 0 {
		t.Errorf("%d spans that are not sampled", n)
	}
}

// A message's trace goes on, and it is the sender's word whether it is exported.
func TestCallersTraces(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	for _, flags := range []string{"-01", "-00"} {
		d := delivery("00-" + callersTrace + "-" + callersSpan + flags)
		d.Request.Trace.State = "vendor=1"
		span := k.Begin(d)
		message, work := span.Traces()
		if message != d.Request.Trace || work.ID() != callersTrace || !strings.HasSuffix(work.Parent, flags) || work.State != "vendor=1" {
			t.Errorf("message %+v, work %+v", message, work)
		}
		span.End(provision.Outcome{}, "ack", nil)
	}
	s := only(t, k.spans(), "process connections.requests.{tenant}")
	if s.Parent != callersSpan || s.Kind != "CONSUMER" {
		t.Errorf("span %+v", s)
	}
}

// How the work ended is on its span, in words of closed sets.
func TestEnds(t *testing.T) {
	t.Parallel()
	failure := provision.Fail(provision.ReasonFlowRejected, "told by upstream: secret")
	for name, c := range map[string]struct {
		out    provision.Outcome
		err    error
		failed string
		want   map[string]string
	}{
		"created":     {provision.Outcome{Result: &provision.Result{Outcome: "created"}, Attempts: 3}, nil, "", map[string]string{"flow_worker.outcome": "created", "flow_worker.attempt": "3"}},
		"failed":      {provision.Outcome{Result: &provision.Result{Outcome: "failed", Error: failure}}, nil, "flow_rejected", map[string]string{"flow_worker.reason": "flow_rejected"}},
		"handed back": {provision.Outcome{Why: "secret"}, nil, "", map[string]string{"flow_worker.settled": "s", "flow_worker.outcome": ""}},
		"untold":      {provision.Outcome{Result: &provision.Result{Outcome: "created"}}, errors.New("secret"), "not_told", nil},
		"repeat":      {provision.Outcome{Result: &provision.Result{Outcome: "created"}, Repeat: true}, nil, "", map[string]string{"flow_worker.repeat": "true"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t)
			k.Begin(delivery(callers)).End(c.out, "s", c.err)
			s := only(t, k.spans(), "process connections.requests.{tenant}")
			if s.Failed != (c.failed != "") || s.Message != c.failed || s.Attrs["error.type"] != c.failed {
				t.Errorf("span %+v", s)
			}
			for key, want := range c.want {
				if s.Attrs[key] != want {
					t.Errorf("%s is %q, want %q", key, s.Attrs[key], want)
				}
			}
			if strings.Contains(k.collector.Raw(), "secret") {
				t.Error("an error's text is in a span")
			}
		})
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	span := k.Begin(delivery(callers))
	ctx := span.Attach(k.ctx)
	k.Publish(ctx, "CONNECTION_RESULTS", "connections.results.acme.created")(nil)
	k.Publish(ctx, "CONNECTION_DEADLETTERS", "connections.deadletters.acme")(context.DeadlineExceeded)
	k.Publish(k.ctx, "S", "connections.results.acme.failed")(nil) // no part of any work
	span.End(provision.Outcome{}, "ack", nil)
	spans := k.spans()
	sent, dead := only(t, spans, "send connections.results.{tenant}.created"), only(t, spans, "send connections.deadletters.{tenant}")
	work := only(t, spans, "process connections.requests.{tenant}")
	if len(spans) != 3 || sent.Parent != work.ID || dead.Parent != work.ID || sent.Kind != "PRODUCER" || sent.Failed || dead.Attrs["error.type"] != "timeout" ||
		sent.Attrs["messaging.destination.name"] != "connections.results.acme.created" {
		t.Errorf("spans %+v", spans)
	}
}

// scripted is a ledger whose calls fail as told.
type scripted struct{ err error }

// Load implements provision.Ledger.
func (l scripted) Load(context.Context, provision.Key) (provision.Record, uint64, error) {
	return provision.Record{State: provision.StateWaiting}, 1, l.err
}

// Store implements provision.Ledger.
func (l scripted) Store(context.Context, provision.Key, provision.Record, uint64) (uint64, error) {
	return 2, l.err
}

func TestLedgerSpans(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err         error
		load, store string // their error types
	}{
		"well":     {nil, "", ""},
		"none":     {provision.ErrNoRecord, "", "failed"},
		"conflict": {provision.ErrConflict, "conflict", "conflict"},
		"secret":   {errors.New("secret"), "failed", "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t)
			span := k.Begin(delivery(callers))
			l := k.Ledger(scripted{c.err})
			for _, ctx := range []context.Context{span.Attach(k.ctx), k.ctx} {
				if rec, rev, err := l.Load(ctx, provision.Key{}); rec.State != provision.StateWaiting || rev != 1 || !errors.Is(err, c.err) {
					t.Errorf("Load: %v, %d, %v", rec.State, rev, err)
				}
				if rev, err := l.Store(ctx, provision.Key{}, provision.Record{State: provision.StatePosting, Posts: 2}, 1); rev != 2 || !errors.Is(err, c.err) {
					t.Errorf("Store: %d, %v", rev, err)
				}
			}
			span.End(provision.Outcome{}, "ack", nil)
			spans := k.spans()
			load, store := only(t, spans, "ledger load"), only(t, spans, "ledger store")
			if load.Attrs["error.type"] != c.load || store.Attrs["error.type"] != c.store || load.Attrs["flow_worker.ledger.state"] != "waiting" ||
				store.Attrs["flow_worker.ledger.state"] != "posting" || store.Attrs["flow_worker.attempt"] != "2" || load.Kind != "CLIENT" {
				t.Errorf("spans %+v", spans)
			}
			if strings.Contains(k.collector.Raw(), "secret") {
				t.Error("an error's text is in a span")
			}
		})
	}
}
