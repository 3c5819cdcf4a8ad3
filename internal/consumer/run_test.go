package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestStopFinishesWhatIsInHand(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.submitMany("acme", 5)
	started, release := make(chan struct{}, 10), make(chan struct{})
	cfg := r.config(func(ctx context.Context, d provision.Delivery) provision.Outcome {
		started <- struct{}{}
		<-release
		if ctx.Err() != nil {
			t.Errorf("the work was cut: %v", context.Cause(ctx))
		}
		return created(d)
	})
	cfg.Concurrency = 2
	w := r.run(cfg)
	receive(r, started, "first")
	receive(r, started, "second")
	w.stop()
	r.eventually("not ready", func() bool { return w.Ready() != nil })
	close(release)
	r.wantEnd(w, nil)
	if len(started) != 0 || r.waiting() != 3 {
		t.Errorf("%d begun after the stop, %d requests left, want 0 and 3", len(started), r.waiting())
	}
	if info := r.consumerInfo(); info.NumAckPending != 0 {
		t.Errorf("%d messages are still held", info.NumAckPending)
	}
}

// TestStopGivesBack stops consumers at every moment: whatever was received and not begun must be there
// for others at once, not after the ack wait.
func TestStopGivesBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{AckWait: time.Hour})
	const messages = 60
	r.submitMany("acme", messages)
	for r.waiting() > 0 {
		begun := make(chan struct{}, messages)
		cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
			begun <- struct{}{}
			return created(d)
		})
		cfg.Objects, cfg.Concurrency, cfg.Metrics = consumer.ObjectsConfig{}, 16, nil
		w := r.run(cfg)
		receive(r, begun, "message") // or never, if one was lost until its ack wait
		r.end(w)
	}
	if n := len(r.stored(consumer.StreamResults)); n != messages {
		t.Errorf("%d results, want %d", n, messages)
	}
}

func TestShutdownTimeoutCutsTheWork(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	started := make(chan struct{}, 1)
	cfg := r.config(func(ctx context.Context, _ provision.Delivery) provision.Outcome {
		started <- struct{}{}
		<-ctx.Done()
		if cause := context.Cause(ctx); !errors.Is(cause, consumer.ErrShutdownTimeout) {
			t.Errorf("the work was cut by %v", cause)
		}
		return provision.Outcome{Why: "cut short"}
	})
	cfg.ShutdownTimeout = 10 * time.Millisecond
	w := r.runReady(cfg)
	r.submit("acme", "slow")
	receive(r, started, "start")
	r.end(w)
	r.wantMetric("deliveries_total", "nak", 1)
	if r.waiting() != 1 {
		t.Error("the request is gone")
	}
}

func TestAbort(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	started, release := make(chan struct{}, 1), make(chan struct{})
	t.Cleanup(func() { close(release) })
	cfg := r.config(func(ctx context.Context, _ provision.Delivery) provision.Outcome {
		<-ctx.Done()
		if cause := context.Cause(ctx); !errors.Is(cause, consumer.ErrAborted) {
			t.Errorf("the work was cut by %v", cause)
		}
		started <- struct{}{}
		<-release // deaf to everything else
		return provision.Outcome{}
	})
	w := r.runReady(cfg)
	r.submit("acme", "deaf")
	r.eventually("in hand", func() bool { return w.Status().InFlight == 1 })
	w.stop()
	w.Abort()
	w.Abort()
	receive(r, started, "cut")
	r.wantEnd(w, consumer.ErrAborted)
}

func TestPause(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	started := make(chan string, 10)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		started <- d.Request.Key.ID
		return created(d)
	})
	w := r.runReady(cfg)
	p, err := consumer.Pause(r.ctx, r.js, time.Time{})
	if err != nil || !p.Paused || p.Remaining < 24*time.Hour {
		t.Fatalf("Pause: %+v, %v", p, err)
	}
	r.eventually("shown as paused", func() bool { return w.Status().Pauses.Paused && r.metric("paused", "") == 1 })
	r.ensure(consumer.ObjectsConfig{AckWait: time.Minute}) // an upgrade must not resume
	r.submit("acme", "x")
	r.eventually("one pending", func() bool { return w.Status().Pending == 1 })
	if err := w.Ready(); err != nil {
		t.Errorf("not ready because of a pause: %v", err)
	}
	if p, err := consumer.Paused(r.ctx, r.js); err != nil || !p.Paused {
		t.Errorf("Paused: %+v, %v", p, err)
	}
	if len(started) != 0 {
		t.Error("a message was taken in spite of the pause")
	}
	if p, err := consumer.Resume(r.ctx, r.js); err != nil || p.Paused {
		t.Errorf("Resume: %+v, %v", p, err)
	}
	if p, err := consumer.Resume(r.ctx, r.js); err != nil || p.Paused {
		t.Errorf("second Resume: %+v, %v", p, err)
	}
	receive(r, started, "start after the pause")
	r.eventually("shown as resumed", func() bool { return r.metric("paused", "") == 0 })
	r.end(w)
}

func TestPauseWithoutConsumer(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	_, pauseErr := consumer.Pause(r.ctx, r.js, time.Now().Add(time.Hour))
	_, resumeErr := consumer.Resume(r.ctx, r.js)
	_, err := consumer.Paused(r.ctx, r.js)
	for name, err := range map[string]error{"Pause": pauseErr, "Resume": resumeErr, "Paused": err} {
		if err == nil || !strings.Contains(err.Error(), consumer.ConsumerName) {
			t.Errorf("%s without a consumer: %v", name, err)
		}
	}
}

// TestOperatorsLimitsAreObserved has a consumer that refuses large and long pulls.
func TestOperatorsLimitsAreObserved(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	limited := r.consumerInfo().Config
	limited.MaxRequestBatch, limited.MaxRequestExpires = 2, 2*time.Second
	if _, err := r.js.UpdateConsumer(r.ctx, consumer.StreamRequests, limited); err != nil {
		t.Fatal(err)
	}
	r.submitMany("acme", 7)
	w := r.run(r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) }))
	r.awaitEmpty()
	r.end(w)
	if got := r.consumerInfo().Config.MaxRequestBatch; got != 2 {
		t.Errorf("the limit became %d", got)
	}
}

func TestQueueMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	release := make(chan struct{})
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		<-release
		return created(d)
	})
	cfg.Concurrency = 1
	w := r.run(cfg)
	for i := range 3 {
		r.eventually("stream", func() bool {
			_, err := r.js.Publish(r.ctx, "connections.requests.acme", []byte("{}"), jetstream.WithMsgID(fmt.Sprint(i)))
			return err == nil
		})
	}
	r.eventually("counts", func() bool {
		return r.metric("queue_pending", "") == 2 && r.metric("queue_ack_pending", "") == 1 &&
			r.metric("queue_oldest_seconds", "") > 0 && r.metric("requests_in_flight", "") == 1
	})
	s := w.Status()
	if s.Slots != 1 || s.InFlight != 1 || !s.Bound || !s.Connected {
		t.Errorf("status %+v", s)
	}
	close(release)
	r.eventually("zero", func() bool {
		return r.metric("queue_pending", "") == 0 && r.metric("queue_ack_pending", "") == 0 && r.metric("queue_oldest_seconds", "") == 0
	})
	r.end(w)
}
