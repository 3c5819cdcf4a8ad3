package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// idle returns a consumer that is not run.
func (r *rig) idle() *consumer.Consumer {
	r.t.Helper()
	c, err := consumer.New(r.config(func(context.Context, provision.Delivery) provision.Outcome { return provision.Outcome{} }))
	r.must(err)
	return c
}

// Streams that take messages are found to, and nothing is stored in them; a stream that is full, or gone, is not.
func TestProbeStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	c := r.idle()
	for _, name := range []string{consumer.StreamResults, consumer.StreamDeadLetters} {
		if err := c.ProbeStream(r.ctx, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		stream, err := r.js.Stream(r.ctx, name)
		r.must(err)
		if n := stream.CachedInfo().State.LastSeq; n != 0 {
			t.Errorf("%s: %d messages were stored", name, n)
		}
		for what, change := range map[string]func(*jetstream.StreamConfig){
			"max_bytes": func(cfg *jetstream.StreamConfig) { cfg.MaxBytes = 4000 },
			"max_msgs":  func(cfg *jetstream.StreamConfig) { cfg.MaxMsgs = 1 },
		} {
			cfg := stream.CachedInfo().Config
			cfg.Discard = jetstream.DiscardNew
			change(&cfg)
			_, err = r.js.UpdateStream(r.ctx, cfg)
			r.must(err)
			if what == "max_msgs" {
				_, err = r.js.Publish(r.ctx, strings.ReplaceAll(cfg.Subjects[0], "*", "x"), nil)
				r.must(err)
			}
			if err := c.ProbeStream(r.ctx, name); err == nil || !strings.Contains(err.Error(), "is full: "+what) {
				t.Errorf("%s with %s: %v", name, what, err)
			}
		}
		r.must(r.js.DeleteStream(r.ctx, name))
		if err := c.ProbeStream(r.ctx, name); err == nil {
			t.Errorf("%s is gone, and nobody noticed", name)
		}
	}
}

// The probe of acknowledgements is confirmed, and leaves what was delivered alone.
func TestProbeAcks(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	_, err := r.js.Publish(r.ctx, "connections.requests.acme", []byte("{}"))
	r.must(err)
	con, err := r.js.Consumer(r.ctx, consumer.StreamRequests, consumer.ConsumerName)
	r.must(err)
	_, err = con.Next()
	r.must(err)
	c := r.idle()
	if err := c.ProbeAcks(r.ctx); err != nil {
		t.Error(err)
	}
	info, err := con.Info(r.ctx)
	r.must(err)
	if info.NumAckPending != 1 || info.NumPending != 0 {
		t.Errorf("%d messages are not acknowledged, %d not delivered; want 1 and 0", info.NumAckPending, info.NumPending)
	}
	r.must(r.js.DeleteConsumer(r.ctx, consumer.StreamRequests, consumer.ConsumerName))
	if err := c.ProbeAcks(r.ctx); err == nil {
		t.Error("the consumer is gone, and nobody noticed")
	}
}

// Every try is told. That a stream has a message already says nothing of what is new.
func TestWritesAreTold(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	told := make(chan string, 10)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		out := created(d)
		out.Result.EventID = "same"
		return out
	})
	cfg.OnWrite = func(object string, err error) {
		if err != nil {
			object += " failed"
		}
		told <- object
	}
	r.runReady(cfg)
	for i, want := range [][]string{{consumer.StreamResults, consumer.ConsumerName}, {consumer.ConsumerName}} {
		r.submit("acme", string(rune('a'+i)))
		for _, w := range want {
			select {
			case got := <-told:
				if got != w {
					t.Errorf("told of %q, want %q", got, w)
				}
			case <-time.After(time.Minute):
				t.Fatalf("not told of %q", w)
			}
		}
	}
}

// A stream that outcomes go to and that is deleted under a running worker is made anew, or else said to
// be missing; the outcome is told once it is there.
func TestOutcomeStreamDeleted(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{consumer.StreamResults, consumer.StreamDeadLetters} {
		for _, manage := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, manage %v", stream, manage), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, natstest.Options{})
				r.ensure(consumer.ObjectsConfig{})
				cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return failed(d) })
				cfg.Objects.Manage, cfg.PublishElapsed, cfg.PollInterval = manage, time.Minute, 20*time.Second
				w := r.run(cfg)
				r.eventually("ready", func() bool { return w.Ready() == nil })
				r.deleteStream(stream)
				r.submit("acme", "x")
				if !manage {
					r.eventually("not ready, with name and remedy", func() bool {
						err := w.Ready()
						return err != nil && strings.Contains(err.Error(), stream) && strings.Contains(err.Error(), "worker init")
					})
					if r.waiting() != 1 {
						t.Error("the request is gone, but its outcome was not told")
					}
					r.ensure(consumer.ObjectsConfig{})
				}
				r.eventually("an empty queue", func() bool { return r.waiting() == 0 })
				r.eventually("ready again", func() bool { return w.Ready() == nil })
				if n := len(r.stored(stream)); n != 1 {
					t.Errorf("%s has %d messages, want 1", stream, n)
				}
				r.end(w)
			})
		}
	}
}

func (r *rig) deleteStream(name string) {
	r.t.Helper()
	if err := r.js.DeleteStream(r.ctx, name); err != nil {
		r.t.Fatal(err)
	}
}

// Where nothing is published, the regular look finds what is missing.
func TestIdleWorkerMissesAStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	cfg.Sweep.Interval = 50 * time.Millisecond
	var missing atomic.Bool
	cfg.Objects.Ledger = func(context.Context) error {
		if missing.Load() {
			return fmt.Errorf("the ledger: %w", jetstream.ErrBucketNotFound)
		}
		return nil
	}
	w := r.run(cfg)
	r.eventually("ready", func() bool { return w.Ready() == nil })
	r.deleteStream(consumer.StreamResults)
	r.eventually("the stream is back", func() bool {
		_, err := r.js.Stream(r.ctx, consumer.StreamResults)
		return err == nil
	})
	missing.Store(true)
	r.eventually("the ledger is missed", func() bool {
		err := w.Ready()
		return err != nil && strings.Contains(err.Error(), "the ledger")
	})
	missing.Store(false)
	r.eventually("ready again", func() bool { return w.Ready() == nil })
	r.end(w)
}

// Only errors that say that an object is missing make the intake look again, and however often they
// come, it looks at them in its own rhythm.
func TestRecheck(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	var looks atomic.Int64
	gone := errors.New(`the ledger is gone; run "worker init"`)
	var missing atomic.Bool
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	cfg.Sweep.Interval = -1
	cfg.Objects.Ledger = func(context.Context) error {
		looks.Add(1)
		if missing.Load() {
			return gone
		}
		return nil
	}
	w := r.run(cfg)
	r.eventually("ready", func() bool { return w.Ready() == nil })
	before := looks.Load()
	for _, err := range []error{nil, errors.New("x"), context.DeadlineExceeded, jetstream.ErrKeyNotFound} {
		w.Recheck(err)
	}
	r.submit("acme", "x")
	r.eventually("an empty queue", func() bool { return r.waiting() == 0 })
	if looks.Load() != before || w.Ready() != nil {
		t.Errorf("%d looks without need; %v", looks.Load()-before, w.Ready())
	}
	missing.Store(true)
	for _, err := range []error{jetstream.ErrNoStreamResponse, nats.ErrNoResponders, jetstream.ErrStreamNotFound, jetstream.ErrBucketNotFound} {
		w.Recheck(fmt.Errorf("wrapped: %w", err))
	}
	r.eventually("not ready", func() bool {
		err := w.Ready()
		return err != nil && err.Error() == gone.Error()
	})
	missing.Store(false)
	r.eventually("ready again", func() bool { return w.Ready() == nil })
	r.submit("acme", "y")
	r.eventually("an empty queue again", func() bool { return r.waiting() == 0 })
	r.end(w)
}
