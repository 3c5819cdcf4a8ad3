package provision

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	traceOne = "0af7651916cd43dd8448eb211c80319c"
	message  = "00-" + traceOne + "-b7ad6b7169203331-01"
	working  = "00-" + traceOne + "-00f067aa0ba902b7-01"
)

func TestInject(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 600)
	for _, c := range []struct {
		trace Trace
		want  map[string]string
	}{
		{Trace{}, map[string]string{}},
		{Trace{Parent: message}, map[string]string{"Traceparent": message}},
		{Trace{Parent: message, State: "a=b"}, map[string]string{"Traceparent": message, "Tracestate": "a=b"}},
		{Trace{Parent: message, State: "a=\r\nX: y"}, map[string]string{"Traceparent": message}},
		{Trace{Parent: message, State: long}, map[string]string{"Traceparent": message}},
		{Trace{Parent: "00-" + long, State: "a=b"}, map[string]string{}},
		{Trace{Parent: message + "\r\nX: y", State: "a=b"}, map[string]string{}},
		{Trace{State: "a=b"}, map[string]string{}},
	} {
		got := map[string]string{}
		c.trace.Inject(func(name, value string) { got[name] = value })
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", c.trace, diff)
		}
	}
}

// The trace of a request that came without one depends on its key, and on nothing else.
func TestTraceOfKey(t *testing.T) {
	t.Parallel()
	seen := map[string]Key{}
	for _, k := range []Key{{"a", "s", "i"}, {"b", "s", "i"}, {"a", "t", "i"}, {"a", "s", "j"}, {"a", "s.i", ""}, {}} {
		id := k.TraceID()
		if other, taken := seen[id]; taken || id != k.TraceID() || (Trace{Parent: "00-" + id + "-b7ad6b7169203331-01"}).ID() != id {
			t.Errorf("%+v has the trace id %q, as has %+v", k, id, other)
		}
		if strings.Contains(k.Mark(), id) {
			t.Errorf("the trace id %s is the mark %s", id, k.Mark())
		}
		seen[id] = k
		if r := (Request{Key: k}); r.TraceID() != id {
			t.Errorf("a request without a trace has %q, want %q", r.TraceID(), id)
		}
		if r := (Request{Key: k, Trace: Trace{Parent: message}}); r.TraceID() != traceOne {
			t.Errorf("a request with a trace has %q", r.TraceID())
		}
	}
}

// purposes are what the ports were called for.
type purposes struct {
	scriptedFlow
	plainSecrets
	got map[string][]Purpose // :: call → its purposes
}

func (e *purposes) note(ctx context.Context, call string) {
	if purpose := PurposeOf(ctx); purpose != nil {
		e.got[call] = append(e.got[call], *purpose)
	} else {
		e.got[call] = append(e.got[call], Purpose{})
	}
}

func (e *purposes) Authorize(ctx context.Context, as Account) error {
	e.note(ctx, "authorize")
	return e.scriptedFlow.Authorize(ctx, as)
}

func (e *purposes) Create(ctx context.Context, as Account, c NewConnection, notAfter time.Time) (Connection, error) {
	e.note(ctx, "create with "+as.Trace.Parent)
	if len(e.got["create with "+as.Trace.Parent]) == 1 {
		return Connection{}, &CallError{Verdict: VerdictThrottled, Target: TargetFlow, Cause: CauseThrottled, Status: 429}
	}
	return e.scriptedFlow.Create(ctx, as, c, notAfter)
}

func (e *purposes) Find(ctx context.Context, as Account, q Query) ([]Found, error) {
	e.note(ctx, "find")
	return e.scriptedFlow.Find(ctx, as, q)
}

func (e *purposes) Credentials(ctx context.Context, tenant string, fresh bool) (Credentials, error) {
	e.note(ctx, "credentials")
	return e.plainSecrets.Credentials(ctx, tenant, fresh)
}

func (e *purposes) Resolve(ctx context.Context, tenant string, ref SecretRef, fresh bool) (Secret, error) {
	e.note(ctx, "resolve")
	return e.plainSecrets.Resolve(ctx, tenant, ref, fresh)
}

// Every call says what it is made for, which attempt it is and where in the trace.
func TestCallsSayWhatTheyAreFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &purposes{got: map[string][]Purpose{}}
		h := newTestHub(t, func(c *Config) { c.Connections, c.Secrets = e, e })
		d := delivery()
		d.Request.Trace, d.Work = Trace{Parent: message, State: "a=b"}, Trace{Parent: working, State: "a=b"}
		d.Request.Data.IfExists = IfExistsReject // so that it looks first
		out := h.Handle(t.Context(), d)
		if out.Result == nil || out.Result.Outcome != OutcomeCreated || out.Attempts != 2 || out.Result.Trace != d.Work {
			t.Fatalf("%+v, %+v", out, out.Result)
		}
		at := func(attempt int) Purpose {
			return Purpose{Key: d.Request.Key, Seq: 1, Delivered: 1, Attempt: attempt, Trace: d.Work}
		}
		want := map[string][]Purpose{
			"credentials": {at(0), at(0), at(1)}, "authorize": {at(0), at(0), at(1)}, "find": {at(0)},
			"resolve": {at(0), at(1)}, "create with " + working: {at(1), at(2)},
		}
		if diff := cmp.Diff(want, e.got); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}

// Without spans the trace context is passed on as the message that was recorded had it; with them it is
// that of the work. What is told of a message alone is told the same way every time.
func TestTraceOfResults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newTestHub(t, nil)
		d := delivery()
		d.Request.Trace = Trace{Parent: message}
		first := h.Handle(t.Context(), d)
		d.Seq, d.Request.Trace = 2, Trace{Parent: working}
		d.Work = Trace{Parent: "00-" + traceOne + "-1111111111111111-01"}
		again := h.Handle(t.Context(), d)
		if first.Result.Trace.Parent != message || again.Result.Trace.Parent != message {
			t.Errorf("the result has %+v, told again %+v", first.Result.Trace, again.Result.Trace)
		}
		d.Invalid, d.Detached, d.EventSalt = Fail(ReasonInvalidRequest, "x"), true, "x"
		if alone := h.Handle(t.Context(), d); alone.Result.Trace != d.Request.Trace {
			t.Errorf("the message's own result has %+v, want the message's trace", alone.Result.Trace)
		}
	})
}

// A result that is told again is told to the message that asked for it, or to a repeat of it.
func TestRepeatsAreToldFromRedeliveries(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change          func(*Delivery)
		invalid         bool
		repeat, resumed bool
	}{
		"another delivery":                       {func(d *Delivery) { d.Delivered = 2 }, false, true, true},
		"another message":                        {func(d *Delivery) { d.Seq = 2 }, false, true, false},
		"another delivery of an invalid message": {func(d *Delivery) { d.Delivered = 2 }, true, true, true},
		"another invalid message":                {func(d *Delivery) { d.Seq = 2 }, true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newTestHub(t, nil)
			d := delivery()
			if c.invalid {
				d.Invalid = Fail(ReasonInvalidRequest, "x")
			}
			if out := h.Handle(t.Context(), d); out.Result == nil || out.Repeat || out.Resumed {
				t.Fatalf("%+v", out)
			}
			c.change(&d)
			if out := h.Handle(t.Context(), d); out.Result == nil || out.Repeat != c.repeat || out.Resumed != c.resumed {
				t.Errorf("%+v", out)
			}
		})
	}
}

// Every line of the hub's says which request, attempt and trace; none of a request that goes well, or
// badly in a way that is told with its outcome, is above level debug.
func TestHubsLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		e := &purposes{got: map[string][]Purpose{}}
		h := newTestHub(t, func(c *Config) {
			c.Connections = e
			c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		d := delivery()
		h.Handle(t.Context(), d)
		n := 0
		for line := range bytes.Lines(log.Bytes()) {
			var got map[string]any
			if err := json.Unmarshal(line, &got); err != nil {
				t.Fatal(err)
			}
			n++
			k := d.Request.Key
			if got["level"] != "DEBUG" || got["tenant"] != k.Tenant || got["source"] != k.Source || got["id"] != k.ID || got["attempt"] != 1.0 ||
				got["seq"] != 1.0 || got["delivered"] != 1.0 || got["trace_id"] != k.TraceID() {
				t.Errorf("line %s", line)
			}
		}
		if n == 0 {
			t.Error("no lines")
		}
	})
}

// Where nobody looks at traces they cost nothing. Not parallel: it counts allocations.
func TestUntraced(t *testing.T) {
	var tracer Tracer = Untraced{}
	d := delivery()
	cost := testing.AllocsPerRun(100, func() {
		span := tracer.Begin(&d)
		if message, work := span.Traces(); message.Parent+work.Parent != "" || span.Attach(t.Context()) != t.Context() {
			t.Error("it traces")
		}
		tracer.Publish(t.Context(), "S", "s")(nil)
		span.End(Outcome{}, "ack", nil)
	})
	if cost > 0 {
		t.Errorf("%v allocations", cost)
	}
	if PurposeOf(t.Context()) != nil {
		t.Error("an purpose from nowhere")
	}
}
