package tracing

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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

// trip is a RoundTripper made of a function.
type trip func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func plainRoute(*http.Request) string { return "/route" }

func get(t *testing.T, ctx context.Context, via http.RoundTripper, url string) (status int, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer secret")
	req.Header.Set("Traceparent", callers)
	res, err := via.RoundTrip(req)
	if err == nil {
		status = res.StatusCode
		_ = res.Body.Close()
	}
	if len(req.Header) != 2 || req.Header.Get("Traceparent") != callers {
		t.Errorf("the caller's request was changed: %v", req.Header)
	}
	return status, err
}

// A call is a span that says what was called and how it ended, and nothing else; who is called is told of
// it.
func TestCallSpans(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	var told string
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told = r.Header.Get("Traceparent")
		w.Header().Set("X-Answer", "secret")
		w.WriteHeader(http.StatusTeapot)
	}))
	defer service.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	via := k.Transport("pot", plainRoute, transport)
	span := k.Begin(delivery(callers))
	ctx := (&provision.Purpose{Attempt: 3}).Into(span.Attach(k.ctx))
	if status, err := get(t, ctx, via, service.URL+"/a/b?name=secret&x=1#secret"); err != nil || status != http.StatusTeapot {
		t.Fatal(status, err)
	}
	span.End(provision.Outcome{}, "ack", nil)
	spans := k.spans()
	s := only(t, spans, "GET /route")
	host, port, _ := strings.Cut(strings.TrimPrefix(service.URL, "http://"), ":")
	want := map[string]string{
		"http.request.method": "GET", "server.address": host, "server.port": port, "url.full": service.URL + "/a/b", "url.template": "/route",
		"http.response.status_code": "418", "error.type": "418", "service.peer.name": "pot", "flow_worker.attempt": "3",
	}
	if diff := cmp.Diff(want, s.Attrs); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	if s.Parent != only(t, spans, "process connections.requests.{tenant}").ID || s.Kind != "CLIENT" || !s.Failed || told != "00-"+s.Trace+"-"+s.ID+"-01" {
		t.Errorf("span %+v; the service was told %q", s, told)
	}
	if strings.Contains(k.collector.Raw(), "secret") {
		t.Error("a query or a header is in a span")
	}
}

// A call that is a part of no work is no span, and its headers stay as they are.
func TestCallsOfNoWork(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	via := k.Transport("s", plainRoute, trip(func(r *http.Request) (*http.Response, error) {
		if r.Header.Get("Traceparent") != callers {
			t.Errorf("headers %v", r.Header)
		}
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	if _, err := get(t, k.ctx, via, "http://s.example.com/"); err != nil {
		t.Error(err)
	}
	if n := len(k.spans()); n > 0 {
		t.Errorf("%d spans", n)
	}
}

type timeout struct{}

func (timeout) Error() string   { return "secret" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

// Each call says how often in a row the same failed before it, in the same work.
func TestResends(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	script := []any{503, timeout{}, context.Canceled, errors.New("secret"), 200, 404, 200}
	i := 0
	via := k.Transport("s", plainRoute, trip(func(*http.Request) (*http.Response, error) {
		defer func() { i++ }()
		if status, ok := script[i%len(script)].(int); ok {
			return &http.Response{StatusCode: status, Body: http.NoBody}, nil
		}
		return nil, script[i%len(script)].(error)
	}))
	one, other := k.Begin(delivery(callers)), k.Begin(delivery(callers))
	for range script {
		_, _ = get(t, one.Attach(k.ctx), via, "http://s.example.com/a?q=1")
	}
	_, _ = get(t, one.Attach(k.ctx), via, "http://s.example.com/a?q=1")   // fails
	_, _ = get(t, one.Attach(k.ctx), via, "http://s.example.com/a?q=2")   // another call
	_, _ = get(t, other.Attach(k.ctx), via, "http://s.example.com/a?q=1") // other work
	var got []string
	for _, s := range k.spans() {
		got = append(got, fmt.Sprint(s.Attrs["http.request.resend_count"], " ", s.Attrs["error.type"]))
	}
	want := []string{" 503", "1 timeout", "2 canceled", "3 failed", "4 ", " 404", "1 ", " 503", " timeout", " canceled"}
	if !slices.Equal(got, want) {
		t.Errorf("resends and ends %q, want %q", got, want)
	}
	if strings.Contains(k.collector.Raw(), "secret") {
		t.Error("an error's text is in a span")
	}
}

// Idle connections can be closed through it.
func TestIdleConnectionsAreReached(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	closed := 0
	below := closer{trip(nil), func() { closed++ }}
	(&http.Client{Transport: k.Transport("s", plainRoute, below)}).CloseIdleConnections()
	(&http.Client{Transport: k.Transport("s", plainRoute, trip(nil))}).CloseIdleConnections()
	if closed != 1 {
		t.Errorf("closed %d times", closed)
	}
}

type closer struct {
	trip
	close func()
}

// CloseIdleConnections counts.
func (c closer) CloseIdleConnections() { c.close() }

// Long texts are cut.
func TestLongValues(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	d := delivery(callers)
	d.Request.Key.ID = strings.Repeat("ä", 10_000)
	k.Begin(d).End(provision.Outcome{}, "ack", nil)
	s := only(t, k.spans(), "process connections.requests.{tenant}")
	if n := len([]rune(s.Attrs["flow_worker.request.id"])); n != maxValue {
		t.Errorf("%d characters", n)
	}
}
