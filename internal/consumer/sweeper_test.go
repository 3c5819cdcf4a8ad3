package consumer_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// lines is a log that can be looked into.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(p))
	return len(p), nil
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, line := range l.all {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// orphan publishes a message and has the broker give it up, as a consumer with a limit does.
func (r *rig) orphan(id string) {
	r.t.Helper()
	r.limitDeliveries(1)
	from, err := r.js.Consumer(r.ctx, consumer.StreamRequests, consumer.ConsumerName)
	if err != nil {
		r.t.Fatal(err)
	}
	r.submit("acme", id)
	msg, err := from.Next(jetstream.FetchContext(r.ctx))
	if err == nil {
		err = msg.Nak()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.eventually("the broker gives the message up", func() bool {
		none, err := from.FetchNoWait(1) // the broker looks at limits when it is asked for messages
		if err != nil {
			r.t.Fatal(err)
		}
		for msg := range none.Messages() {
			r.t.Errorf("delivered beyond the limit: %s", msg.Subject())
		}
		info, err := from.Info(r.ctx)
		return err == nil && info.NumAckPending == 0 && info.NumPending == 0
	})
}

// limitDeliveries does to the consumer what nobody should.
func (r *rig) limitDeliveries(most int) {
	r.t.Helper()
	from, err := r.js.Consumer(r.ctx, consumer.StreamRequests, consumer.ConsumerName)
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := from.CachedInfo().Config
	cfg.MaxDeliver = most
	if _, err := r.js.UpdateConsumer(r.ctx, consumer.StreamRequests, cfg); err != nil {
		r.t.Fatal(err)
	}
}

// sweepingQueue returns the config of a consumer that looks at the queue all the time, and its log.
func (r *rig) sweepingQueue(handle func(context.Context, provision.Delivery) provision.Outcome) (consumer.Config, *lines) {
	log := &lines{}
	cfg := r.config(handle)
	cfg.Log, cfg.Sweep.Interval = slog.New(slog.NewTextHandler(log, nil)), 20*time.Millisecond
	return cfg, log
}

// The words of the log.
const (
	lostSight = "will never be delivered again"
	anew      = "the queue is delivered anew"
)

func TestOrphansAreToldAndTheRemedyWorks(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.orphan("lost")
	handled := make(chan string, 10)
	cfg, log := r.sweepingQueue(func(_ context.Context, d provision.Delivery) provision.Outcome {
		handled <- d.Request.Key.ID
		if d.Request.Key.ID == "rests" {
			return provision.Outcome{Delay: time.Hour}
		}
		return created(d)
	})
	cfg.DelayMax, cfg.Sweep.Interval = time.Hour, 300*time.Millisecond
	r.limitDeliveries(-1)
	r.submit("acme", "rests")
	w := r.run(cfg)
	if id := receive(r, handled, "the one that rests"); id != "rests" {
		t.Errorf("handled %q; raising the limit would have been enough", id)
	}
	r.eventually("the orphan in the metric", func() bool { return r.metric("queue_orphans", "") == 1 })
	r.eventually("the orphan in the log, and why it isn't mended", func() bool { return log.count("in a worker's hands or rests") == 1 })
	if err := r.js.DeleteConsumer(r.ctx, consumer.StreamRequests, consumer.ConsumerName); err != nil {
		t.Fatal(err)
	}
	for receive(r, handled, "the orphan, after the remedy") != "lost" {
		continue // the other one comes again, too
	}
	r.eventually("no orphan in the metric", func() bool { return r.metric("queue_orphans", "") == 0 })
	r.end(w)
	if n := log.count(anew); n > 0 {
		t.Errorf("mended by itself %d times, while a message rested", n)
	}
}

func TestTrafficIsNoOrphan(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	var log lines
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		if d.Delivered == 1 && d.Seq%3 == 0 {
			return provision.Outcome{Delay: time.Millisecond}
		}
		return created(d)
	})
	cfg.Log, cfg.Sweep.Interval = slog.New(slog.NewTextHandler(&log, nil)), time.Millisecond
	w := r.run(cfg)
	r.eventually("ready", func() bool { return w.Ready() == nil })
	for i := range 300 {
		r.submit("acme", fmt.Sprint(i))
	}
	r.eventually("an empty queue", func() bool { return r.waiting() == 0 })
	r.end(w)
	if n := log.count("will never be delivered"); n > 0 {
		t.Errorf("%d false alarms", n)
	}
}

func TestAChangedConsumerIsMendedWhileItRuns(t *testing.T) {
	t.Parallel()
	for _, manage := range []bool{true, false} {
		r := newRig(t, natstest.Options{})
		r.ensure(consumer.ObjectsConfig{})
		var log lines
		cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
		cfg.Log, cfg.Sweep.Interval, cfg.Objects.Manage = slog.New(slog.NewTextHandler(&log, nil)), 20*time.Millisecond, manage
		w := r.run(cfg)
		r.eventually("ready", func() bool { return w.Ready() == nil })
		r.limitDeliveries(5)
		if manage {
			r.eventually("the limit is gone", func() bool {
				c, err := r.js.Consumer(r.ctx, consumer.StreamRequests, consumer.ConsumerName)
				return err == nil && c.CachedInfo().Config.MaxDeliver == -1
			})
			r.eventually("told", func() bool { return log.count("is as it must be again") == 1 })
			r.wantMetric("repairs_total", "consumer done", 1)
			r.wantMetric("repairs_total", "consumer failed", 0)
		} else {
			r.eventually("told, with the remedy", func() bool { return log.count("worker init") > 0 })
			r.wantMetric("repairs_total", "consumer done", 0)
			if n := r.metric("repairs_total", "consumer failed"); n < 1 {
				t.Errorf("%v repairs failed, want some", n)
			}
		}
		r.end(w)
	}
}
