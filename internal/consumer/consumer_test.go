package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// rig is a server, a connection to it, and what a test says to both.
type rig struct {
	t      *testing.T
	ctx    context.Context
	server *natstest.Server
	js     jetstream.JetStream
	reg    *prometheus.Registry
	all    *consumer.Metrics
}

func newRig(t *testing.T, o natstest.Options) *rig {
	t.Helper()
	ctx := testContext(t)
	server, err := natstest.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	reg := prometheus.NewRegistry()
	return &rig{t: t, ctx: ctx, server: server, js: connect(t, server.ClientURL()), reg: reg, all: consumer.NewMetrics(reg)}
}

func connect(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc, err := consumer.Connect(consumer.ConnConfig{URL: url, Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	t.Cleanup(func() { nc.Close(); <-closed })
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// ensure makes the objects.
func (r *rig) ensure(cfg consumer.ObjectsConfig) consumer.Report {
	r.t.Helper()
	cfg.Manage = true
	report, err := consumer.EnsureObjects(r.ctx, r.js, cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

// config is that of a consumer that settles nothing by itself.
func (r *rig) config(handle func(context.Context, provision.Delivery) provision.Outcome) consumer.Config {
	return consumer.Config{
		JS: r.js, Handle: handle, Codec: &event.Decoder{AllowedDomains: []string{"example.com"}},
		Objects: consumer.ObjectsConfig{Manage: true}, Concurrency: 4,
		Metrics: r.all, Log: slog.New(slog.NewTextHandler(testWriter{r.t}, nil)),
		PublishElapsed: 2 * time.Second, PollInterval: 50 * time.Millisecond, PullExpires: 2 * time.Second,
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(p))
	return len(p), nil
}

// running is a consumer whose Run was called.
type running struct {
	*consumer.Consumer
	stop context.CancelFunc
	done chan error // receives what Run returned
}

func (r *rig) run(cfg consumer.Config) *running {
	r.t.Helper()
	c, err := consumer.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(r.ctx)
	w := &running{Consumer: c, stop: stop, done: make(chan error, 1)}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		w.done <- c.Run(ctx)
	}()
	r.t.Cleanup(func() {
		stop()
		c.Abort()
		<-finished
	})
	return w
}

// end stops the consumer and expects it to end well.
func (r *rig) end(w *running) {
	r.t.Helper()
	w.stop()
	r.wantEnd(w, nil)
}

func (r *rig) wantEnd(w *running, want error) {
	r.t.Helper()
	select {
	case err := <-w.done:
		if !errors.Is(err, want) || want == nil && err != nil {
			r.t.Errorf("Run returned %v, want %v", err, want)
		}
	case <-r.ctx.Done():
		r.t.Fatal("Run did not return")
	}
}

// submit publishes a bare request and returns its id.
func (r *rig) submit(tenant, id string) {
	r.t.Helper()
	r.publish("connections.requests."+tenant, `{}`, id)
}

func (r *rig) publish(subject, body, id string) {
	r.t.Helper()
	if _, err := r.js.Publish(r.ctx, subject, []byte(body), jetstream.WithMsgID(id)); err != nil {
		r.t.Fatal(err)
	}
}

// receive waits for a value.
func receive[T any](r *rig, ch <-chan T, what string) T {
	r.t.Helper()
	select {
	case v := <-ch:
		return v
	case <-r.ctx.Done():
		r.t.Fatalf("no %s", what)
		panic("unreachable")
	}
}

// eventually asks until ok says so.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-poll.C:
		case <-r.ctx.Done():
			r.t.Fatalf("never: %s", what)
		}
	}
}

// stored returns the messages of a stream.
func (r *rig) stored(stream string) []*jetstream.RawStreamMsg {
	r.t.Helper()
	s, err := r.js.Stream(r.ctx, stream)
	if err != nil {
		r.t.Fatal(err)
	}
	var all []*jetstream.RawStreamMsg
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(r.ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

func (r *rig) waiting() uint64 {
	r.t.Helper()
	s, err := r.js.Stream(r.ctx, consumer.StreamRequests)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// metric returns the value of a counter or gauge with the given label value.
func (r *rig) metric(name, label string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != "flow_worker_"+name || label != "" && m.GetLabel()[0].GetValue() != label {
				continue
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	r.t.Fatalf("no metric %s{%s}", name, label)
	return 0
}

func (r *rig) wantMetric(name, label string, want float64) {
	r.t.Helper()
	if got := r.metric(name, label); got != want {
		r.t.Errorf("%s{%s} is %v, want %v", name, label, got, want)
	}
}

// created is the outcome of a delivery whose connection was made.
func created(d provision.Delivery) provision.Outcome {
	res := result(d, provision.OutcomeCreated)
	res.Connection = &provision.Connection{ID: "c-" + d.Request.Key.ID}
	return provision.Outcome{Result: res}
}

// failed is the outcome of a delivery that was refused upstream.
func failed(d provision.Delivery) provision.Outcome {
	res := result(d, provision.OutcomeFailed)
	res.Error = provision.Fail(provision.ReasonFlowRejected, "no")
	return provision.Outcome{Result: res}
}

func result(d provision.Delivery, outcome string) *provision.Result {
	k := d.Request.Key
	at := d.EnteredAt.Add(time.Second)
	return &provision.Result{
		EventID: k.EventID(d.Request.Retry, outcome), Outcome: outcome, Tenant: k.Tenant,
		Request: provision.RequestID{ID: k.ID, Source: k.Source}, RequestedAt: d.EnteredAt, StartedAt: at, CompletedAt: at,
	}
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := consumer.New(consumer.Config{Concurrency: -1, DelayMax: -1, PullExpires: time.Millisecond})
	for _, field := range []string{"JS", "Handle", "Codec", "Concurrency", "DelayMax", "PullExpires"} {
		if err == nil || !strings.Contains(err.Error(), "Config."+field+" ") {
			t.Errorf("New does not name %s: %v", field, err)
		}
	}
}

func TestCreatedIsToldThenAcknowledged(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	started, settled := make(chan provision.Delivery, 1), make(chan provision.Outcome, 1)
	cfg.OnStart = func(d provision.Delivery) { started <- d }
	cfg.OnSettled = func(_ provision.Delivery, out provision.Outcome) { settled <- out }
	w := r.run(cfg)
	r.eventually("ready", func() bool { return w.Ready() == nil })
	r.submit("acme", "one")
	d := receive(r, started, "start")
	if want := (provision.Key{Tenant: "acme", Source: "nats", ID: "one"}); d.Request.Key != want {
		t.Errorf("key %v, want %v", d.Request.Key, want)
	}
	if d.Seq != 1 || d.Delivered != 1 || d.EnteredAt.IsZero() {
		t.Errorf("delivery %+v", d)
	}
	receive(r, settled, "settlement")
	results := r.stored(consumer.StreamResults)
	if len(results) != 1 || results[0].Subject != "connections.results.acme.created" {
		t.Fatalf("results: %v", results)
	}
	res, err := event.DecodeResult(results[0].Data)
	if err != nil || res.Connection.ID != "c-one" || results[0].Header.Get("Nats-Msg-Id") != res.EventID {
		t.Errorf("result %+v, headers %v, %v", res, results[0].Header, err)
	}
	if n := r.waiting(); n != 0 {
		t.Errorf("%d requests are left", n)
	}
	if n := len(r.stored(consumer.StreamDeadLetters)); n != 0 {
		t.Errorf("%d dead letters of a request that succeeded", n)
	}
	r.end(w)
	r.wantMetric("requests_total", "created", 1)
	r.wantMetric("deliveries_total", "ack", 1)
	r.wantMetric("requests_in_flight", "", 0)
}

func TestFailedGoesToTheDeadLettersToo(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	settled := make(chan provision.Delivery, 1)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return failed(d) })
	cfg.OnSettled = func(d provision.Delivery, _ provision.Outcome) { settled <- d }
	w := r.run(cfg)
	r.eventually("ready", func() bool { return w.Ready() == nil })
	r.submit("acme", "bad")
	d := receive(r, settled, "settlement")
	letters, results := r.stored(consumer.StreamDeadLetters), r.stored(consumer.StreamResults)
	if len(letters) != 1 || len(results) != 1 {
		t.Fatalf("%d dead letters, %d results", len(letters), len(results))
	}
	l := letters[0]
	if l.Subject != "connections.deadletters.acme" || l.Header.Get("Flow-Worker-Reason") != "flow_rejected" ||
		l.Header.Get("Flow-Worker-Request-Key") != d.Request.Key.String() || l.Header.Get("Nats-Msg-Id") == "bad" {
		t.Errorf("dead letter on %s with %v", l.Subject, l.Header)
	}
	if results[0].Time.Before(l.Time) {
		t.Error("the result was stored before the dead letter")
	}
	r.end(w)
	r.wantMetric("requests_total", "failed", 1)
	r.wantMetric("request_failures_total", "flow_rejected", 1)
}

func TestNeverMoreInHandThanSlots(t *testing.T) {
	t.Parallel()
	const slots, messages = 3, 20
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	for i := range messages {
		r.submit("acme", fmt.Sprint(i))
	}
	var now, most, calls atomic.Int64
	full := make(chan struct{})
	var once sync.Once
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		calls.Add(1)
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if n == slots {
			once.Do(func() { close(full) })
		}
		<-full
		return created(d)
	})
	cfg.Concurrency = slots
	w := r.run(cfg)
	receive(r, full, "full house")
	r.eventually("an empty queue", func() bool { return r.waiting() == 0 })
	r.end(w)
	if most.Load() != slots || calls.Load() != messages {
		t.Errorf("at most %d in hand in %d calls, want %d in %d", most.Load(), calls.Load(), slots, messages)
	}
	r.wantMetric("deliveries_total", "ack", messages)
	r.wantMetric("deliveries_total", "nak", 0)
}

// TestNotPulledWithoutASlot asks the broker: what it has delivered is what is in hand.
func TestNotPulledWithoutASlot(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	for i := range 10 {
		r.submit("acme", fmt.Sprint(i))
	}
	started, release := make(chan struct{}, 10), make(chan struct{})
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		started <- struct{}{}
		<-release
		return created(d)
	})
	cfg.Concurrency = 2
	w := r.run(cfg)
	receive(r, started, "first")
	receive(r, started, "second")
	info := r.consumerInfo()
	if info.NumAckPending != 2 || info.NumPending != 8 {
		t.Errorf("the broker has delivered %d and keeps %d, want 2 and 8", info.NumAckPending, info.NumPending)
	}
	close(release)
	r.eventually("an empty queue", func() bool { return r.waiting() == 0 })
	r.end(w)
}

func (r *rig) consumerInfo() *jetstream.ConsumerInfo {
	r.t.Helper()
	c, err := r.js.Consumer(r.ctx, consumer.StreamRequests, consumer.ConsumerName)
	if err != nil {
		r.t.Fatal(err)
	}
	return c.CachedInfo()
}

// TestHeartbeatsKeepAMessage works on a message for more than its ack wait, counted in heartbeats.
func TestHeartbeatsKeepAMessage(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	const ackWait = 2 * time.Second
	r.ensure(consumer.ObjectsConfig{AckWait: ackWait})
	beats := make(chan struct{}, 100)
	sub, err := r.js.Conn().Subscribe("$JS.ACK.>", func(m *nats.Msg) {
		if string(m.Data) == "+WPI" {
			beats <- struct{}{}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	var calls atomic.Int64
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		calls.Add(1)
		for range 5 { // three make an ack wait
			receive(r, beats, "heartbeat")
		}
		return created(d)
	})
	cfg.Objects = consumer.ObjectsConfig{AckWait: ackWait}
	settled := make(chan struct{}, 10)
	cfg.OnSettled = func(provision.Delivery, provision.Outcome) { settled <- struct{}{} }
	w := r.run(cfg)
	r.submit("acme", "long")
	receive(r, settled, "settlement")
	r.end(w)
	if calls.Load() != 1 {
		t.Errorf("the message was delivered %d times", calls.Load())
	}
}

func TestGiveBackRestsAndComesAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	seen := make(chan uint64, 10)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		seen <- d.Delivered
		if d.Delivered < 3 {
			return provision.Outcome{Delay: time.Duration(d.Delivered-2) * time.Hour, Why: "not now"} // negative and zero
		}
		return created(d)
	})
	cfg.DelayMax = 100 * time.Millisecond
	w := r.run(cfg)
	r.eventually("ready", func() bool { return w.Ready() == nil })
	r.submit("acme", "later")
	for want := uint64(1); want <= 3; want++ {
		if got := receive(r, seen, "delivery"); got != want {
			t.Errorf("delivery %d, want %d", got, want)
		}
	}
	r.eventually("an empty queue", func() bool { return r.waiting() == 0 })
	r.end(w)
	r.wantMetric("deliveries_total", "nak", 2)
	r.wantMetric("deliveries_total", "ack", 1)
	r.wantMetric("requests_total", "created", 1)
}

func TestPanicsAreContained(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	settled := make(chan string, 10)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		if d.Request.Key.ID == "handler" && d.Delivered == 1 {
			panic("boom")
		}
		return created(d)
	})
	cfg.Codec = &moody{Codec: cfg.Codec}
	cfg.DelayMax = 100 * time.Millisecond
	cfg.OnSettled = func(d provision.Delivery, _ provision.Outcome) { settled <- d.Request.Key.ID }
	w := r.run(cfg)
	r.eventually("ready", func() bool { return w.Ready() == nil })
	r.submit("acme", "decoder")
	r.submit("acme", "handler")
	got := map[string]bool{receive(r, settled, "settlement"): true, receive(r, settled, "settlement"): true}
	if !got["decoder"] || !got["handler"] {
		t.Errorf("settled: %v", got)
	}
	r.end(w)
	r.wantMetric("deliveries_total", "nak", 2)
	r.wantMetric("requests_in_flight", "", 0)
}

// moody is a codec that panics over the first delivery of the message "decoder".
type moody struct{ consumer.Codec }

func (m *moody) Decode(tenant string, h map[string][]string, body []byte, meta event.Meta) provision.Delivery {
	d := m.Codec.Decode(tenant, h, body, meta)
	if d.Request.Key.ID == "decoder" && meta.Delivered == 1 {
		panic("boom")
	}
	return d
}

func TestGate(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	for i := range 6 {
		r.submit("acme", fmt.Sprint(i))
	}
	g := &gate{wake: make(chan struct{})}
	started, release := make(chan struct{}, 10), make(chan struct{})
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		started <- struct{}{}
		<-release
		return created(d)
	})
	cfg.Gate = g.ask
	w := r.run(cfg)
	r.eventually("the gate is asked", func() bool { return g.asked.Load() > 0 })
	if n := r.consumerInfo().NumAckPending; n != 0 {
		t.Errorf("%d messages passed a gate that is shut", n)
	}
	g.set(1)
	receive(r, started, "the probe")
	r.eventually("the gate is asked again", func() bool { return g.asked.Load() > 2 })
	close(release)
	g.set(100)
	r.eventually("an empty queue", func() bool { return r.waiting() == 0 })
	r.end(w)
}

// gate lets through as many messages as it is set to.
type gate struct {
	asked atomic.Int64
	mu    sync.Mutex
	n     int
	wake  chan struct{}
}

func (g *gate) ask(int) (int, <-chan struct{}) {
	g.asked.Add(1)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n, g.wake
}

func (g *gate) set(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n = n
	close(g.wake)
	g.wake = make(chan struct{})
}

func TestTwoConsumersShare(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	const messages = 30
	var mu sync.Mutex
	seen := map[string]int{}
	handle := func(_ context.Context, d provision.Delivery) provision.Outcome {
		mu.Lock()
		defer mu.Unlock()
		seen[d.Request.Key.ID]++
		return created(d)
	}
	cfg := r.config(handle)
	first := r.run(cfg)
	cfg.JS, cfg.Metrics = connect(t, r.server.ClientURL()), nil
	second := r.run(cfg)
	r.eventually("ready", func() bool { return first.Ready() == nil && second.Ready() == nil })
	for i := range messages {
		r.submit("acme", fmt.Sprint(i))
	}
	r.eventually("an empty queue", func() bool { return r.waiting() == 0 })
	r.end(first)
	r.end(second)
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s was handled %d times", id, n)
		}
	}
	if len(seen) != messages || len(r.stored(consumer.StreamResults)) != messages {
		t.Errorf("%d handled, %d results, want %d", len(seen), len(r.stored(consumer.StreamResults)), messages)
	}
}
