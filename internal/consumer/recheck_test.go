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
