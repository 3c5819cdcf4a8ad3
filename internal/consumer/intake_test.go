package consumer_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestNeverMoreInHandThanSlots(t *testing.T) {
	t.Parallel()
	const slots, messages = 3, 20
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.submitMany("acme", messages)
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
	r.awaitEmpty()
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
	r.submitMany("acme", 10)
	cfg, started, release := r.holding()
	cfg.Concurrency = 2
	w := r.run(cfg)
	receive(r, started, "first")
	receive(r, started, "second")
	r.eventually("two delivered and eight kept", func() bool { // what it keeps the broker counts a little later
		info := r.consumerInfo()
		if info.NumAckPending > 2 {
			t.Errorf("the broker has delivered %d, want 2", info.NumAckPending)
		}
		return info.NumAckPending == 2 && info.NumPending == 8
	})
	close(release)
	r.awaitEmpty()
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
			select {
			case <-beats:
			case <-r.ctx.Done():
				t.Error("no heartbeat")
			}
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

func TestGate(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.submitMany("acme", 6)
	g := &gate{wake: make(chan struct{})}
	cfg, started, release := r.holding()
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
	r.awaitEmpty()
	r.end(w)
}

// TestGateShutsBehindAPull: what an open pull brings after the gate has shut stays in hand, kept by heartbeats, and is
// begun when the gate opens. It is not given back, for it would then count as delivered before.
func TestGateShutsBehindAPull(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	const ackWait = 2 * time.Second
	r.ensure(consumer.ObjectsConfig{AckWait: ackWait})
	g := &gate{n: 10, wake: make(chan struct{})}
	cfg, started, release := r.holding()
	delivered := make(chan uint64, 10)
	inner := cfg.Handle
	cfg.Handle = func(ctx context.Context, d provision.Delivery) provision.Outcome {
		delivered <- d.Delivered
		return inner(ctx, d)
	}
	cfg.Concurrency, cfg.Gate, cfg.PullExpires, cfg.Objects.AckWait = 10, g.ask, 5*time.Second, ackWait
	w := r.runReady(cfg)
	r.submit("acme", "first")
	receive(r, started, "the first")
	g.set(0)
	for _, id := range []string{"a", "b", "c"} {
		r.submit("acme", id)
	}
	r.eventually("all four in hand", func() bool { return r.consumerInfo().NumAckPending == 4 })
	asked := g.asked.Load()
	r.eventually("the gate to be asked after the pull", func() bool { return g.asked.Load() > asked })
	beats := r.asked("$JS.ACK.>")
	for range 4 * 4 {
		receive(r, beats, "a heartbeat")
	}
	select {
	case id := <-started:
		t.Errorf("%s was begun behind a gate that is shut", id)
	default:
	}
	g.set(10)
	for range 3 {
		receive(r, started, "one that waited")
	}
	close(release)
	r.awaitEmpty()
	r.end(w)
	for range 4 {
		if n := receive(r, delivered, "delivery"); n != 1 {
			t.Errorf("it was delivered %d times", n)
		}
	}
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

// TestTailIsGivenBack stops the intake while a pull is open: what the pull still brings is there for others soon,
// not after the ack wait of an hour.
func TestTailIsGivenBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{AckWait: time.Hour})
	cfg, started, release := r.holding()
	cfg.Concurrency, cfg.PullExpires = 20, 5*time.Second
	w := r.runReady(cfg)
	r.submit("acme", "first")
	receive(r, started, "the first")
	w.stop()
	for _, id := range []string{"a", "b", "c"} {
		r.submit("acme", id) // the pull is still open for them
	}
	close(release)
	r.wantEnd(w, nil)

	cfg, started, release = r.holding()
	other := r.run(cfg)
	for range 3 {
		receive(r, started, "one that was given back")
	}
	close(release)
	r.awaitEmpty()
	r.end(other)
}
