package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

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
	server := natstest.Run(t, o)
	reg := prometheus.NewRegistry()
	return &rig{t: t, ctx: testContext(t), server: server, js: connect(t, server.ClientURL()), reg: reg, all: consumer.NewMetrics(reg)}
}

func connect(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc, err := consumer.Connect(consumer.ConnConfig{URL: url, Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	return natstest.JetStream(t, nc)
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
		PublishElapsed: 2 * time.Second, PollInterval: 50 * time.Millisecond, PullExpires: time.Second,
	}
}

// holding is a config whose handler says what it begins and ends it well when release is closed.
func (r *rig) holding() (cfg consumer.Config, started <-chan string, release chan<- struct{}) {
	begun, let := make(chan string, 10), make(chan struct{})
	cfg = r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		begun <- d.Request.Key.ID
		<-let
		return created(d)
	})
	return cfg, begun, let
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

// runReady runs a consumer and returns when it is ready.
func (r *rig) runReady(cfg consumer.Config) *running {
	r.t.Helper()
	w := r.run(cfg)
	r.eventually("ready", func() bool { return w.Ready() == nil })
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

// submit publishes a bare request.
func (r *rig) submit(tenant, id string) {
	r.t.Helper()
	r.publish("connections.requests."+tenant, `{}`, id)
}

// submitMany submits n requests with the ids "0", "1" and so on.
func (r *rig) submitMany(tenant string, n int) {
	r.t.Helper()
	for i := range n {
		r.submit(tenant, fmt.Sprint(i))
	}
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

// awaitEmpty waits until all requests are settled for good.
func (r *rig) awaitEmpty() {
	r.t.Helper()
	r.eventually("an empty queue", func() bool { return r.waiting() == 0 })
}

// metric returns the value of the first counter or gauge whose labels' values, separated by blanks, begin with label.
func (r *rig) metric(name, label string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if f.GetName() != "flow_worker_"+name || !strings.HasPrefix(strings.Join(values, " "), label) {
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
