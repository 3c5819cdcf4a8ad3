package consumer_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// deleting is a JetStream that is in the middle of deleting what it is asked for, for so many looks: it says
// that there is none.
type deleting struct {
	jetstream.JetStream
	streams, consumers atomic.Int64 // looks that find nothing, from now on
	made               atomic.Int64 // creations
}

func (d *deleting) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	if d.streams.Add(-1) >= 0 {
		return nil, jetstream.ErrStreamNotFound
	}
	return d.JetStream.Stream(ctx, name)
}

func (d *deleting) Consumer(ctx context.Context, stream, name string) (jetstream.Consumer, error) {
	if d.consumers.Add(-1) >= 0 {
		return nil, jetstream.ErrConsumerNotFound
	}
	return d.JetStream.Consumer(ctx, stream, name)
}

func (d *deleting) CreateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	d.made.Add(1)
	return d.JetStream.CreateStream(ctx, cfg)
}

func (d *deleting) CreateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	d.made.Add(1)
	return d.JetStream.CreateConsumer(ctx, stream, cfg)
}

// A stream or a consumer that is made anew amid its deletion would be broken for good, so it is looked for
// once more before.
func TestNothingIsMadeAmidItsDeletion(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	for name, c := range map[string]struct {
		streams, consumers int64
		after              time.Duration
		made               int64
	}{
		"a stream":                      {streams: 1, after: time.Millisecond},
		"a consumer":                    {consumers: 1, after: time.Millisecond},
		"a stream that stays away":      {streams: 2, after: time.Millisecond, made: 1},
		"a consumer that stays away":    {consumers: 2, after: time.Millisecond, made: 1},
		"a stream that never was there": {streams: 1, made: 1},
	} {
		t.Run(name, func(t *testing.T) { // in turn, for the rig's deadline goes on while they wait for a processor
			js := &deleting{JetStream: r.js}
			js.streams.Store(c.streams)
			js.consumers.Store(c.consumers)
			if _, err := consumer.EnsureObjects(r.ctx, js, consumer.ObjectsConfig{Manage: true, RecreateAfter: c.after}); err != nil {
				t.Fatal(err)
			}
			if got := js.made.Load(); got != c.made {
				t.Errorf("%d were made, want %d", got, c.made)
			}
		})
	}
}

// A worker that had the objects before makes none at the first look that misses one.
func TestRunningWorkerLooksTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	js := &deleting{JetStream: r.js}
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	cfg.JS, cfg.Sweep.Interval, cfg.PollInterval = js, -1, time.Hour
	w := r.runReady(cfg)
	js.streams.Store(1)
	w.Recheck(jetstream.ErrStreamNotFound)
	r.eventually("not ready", func() bool { return w.Ready() != nil })
	r.eventually("ready again", func() bool { return w.Ready() == nil })
	if js.streams.Load() >= 0 || js.made.Load() != 0 {
		t.Errorf("%d looks to come, %d made, want neither", js.streams.Load(), js.made.Load())
	}
	r.end(w)
}
