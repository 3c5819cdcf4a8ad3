package consumer_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// A message without an id is named by its place in the stream: it must come from there.
func TestOrphansAreDeliveredAnewFromTheirPlace(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{AckWait: time.Minute}) // longer than asked for below
	r.orphan("")
	before := r.stored(consumer.StreamRequests)[0]
	handled := make(chan provision.Delivery, 10)
	cfg, log := r.sweepingQueue(func(_ context.Context, d provision.Delivery) provision.Outcome {
		handled <- d
		return created(d)
	})
	w := r.run(cfg)
	d := receive(r, handled, "the orphan")
	if want := fmt.Sprintf("seq-%d-%d", before.Time.UnixNano(), before.Sequence); d.Request.Key.ID != want || d.Seq != before.Sequence {
		t.Errorf("message %d is request %q, want %d and %q", d.Seq, d.Request.Key.ID, before.Sequence, want)
	}
	r.eventually("an empty queue", func() bool { return r.waiting() == 0 })
	r.eventually("no orphan in the metric", func() bool { return r.metric("queue_orphans", "") == 0 })
	r.submit("acme", "later")
	if d := receive(r, handled, "a later request"); d.Request.Key.ID != "later" {
		t.Errorf("handled %q", d.Request.Key.ID)
	}
	r.end(w)
	r.wantMetric("repairs_total", "queue done", 1)
	r.wantMetric("repairs_total", "queue failed", 0)
	if log.count(anew) != 1 || log.count(lostSight) != 0 {
		t.Errorf("told %d times that it is delivered anew, %d times that it never will be; want 1 and 0", log.count(anew), log.count(lostSight))
	}
	from, err := r.js.Consumer(r.ctx, consumer.StreamRequests, consumer.ConsumerName)
	if err != nil || from.CachedInfo().Config.AckWait != time.Minute {
		t.Errorf("the consumer's own settings are gone: %v, %v", from, err)
	}
}

func TestAPauseOutlivesTheRepair(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.orphan("lost")
	if _, err := consumer.Pause(r.ctx, r.js, time.Time{}); err != nil {
		t.Fatal(err)
	}
	handled := make(chan string, 10)
	cfg, log := r.sweepingQueue(func(_ context.Context, d provision.Delivery) provision.Outcome {
		handled <- d.Request.Key.ID
		return created(d)
	})
	w := r.run(cfg)
	r.eventually("mended", func() bool { return log.count(anew) == 1 })
	if p, err := consumer.Paused(r.ctx, r.js); err != nil || !p.Paused || len(handled) > 0 {
		t.Errorf("paused %v, %v; %d handled", p.Paused, err, len(handled))
	}
	if _, err := consumer.Resume(r.ctx, r.js); err != nil {
		t.Fatal(err)
	}
	receive(r, handled, "the orphan, after the pause")
	r.end(w)
}

func TestOrphansAreOnlyToldWhereTheObjectsAreNotOurs(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.orphan("lost")
	r.limitDeliveries(-1)
	cfg, log := r.sweepingQueue(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	cfg.Objects.Manage = false
	w := r.run(cfg)
	r.eventually("told, with the remedy", func() bool { return log.count(lostSight) == 1 && log.count("worker init") == 1 })
	r.eventually("the orphan in the metric", func() bool { return r.metric("queue_orphans", "") == 1 })
	r.end(w)
	if r.waiting() != 1 || log.count(anew) != 0 {
		t.Errorf("%d messages, mended %d times; want 1 and 0", r.waiting(), log.count(anew))
	}
}

// Two workers mend the same thing, and one dies with the message in hand, as does the broker: the
// message is neither lost nor forgotten.
func TestARepairOutlivesWorkerAndBroker(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{AckWait: 500 * time.Millisecond})
	r.orphan("lost")
	taken := make(chan string, 10)
	cfg, _ := r.sweepingQueue(func(ctx context.Context, d provision.Delivery) provision.Outcome {
		taken <- d.Request.Key.ID
		<-ctx.Done()
		return provision.Outcome{}
	})
	cfg.Objects.AckWait, cfg.JS = 500*time.Millisecond, connect(t, r.server.ClientURL())
	first := r.run(cfg)
	receive(r, taken, "the orphan")
	r.server.Stop() // so that the worker can't say that it ends
	first.Abort()
	<-first.done
	if err := r.server.Restart(r.ctx); err != nil {
		t.Fatal(err)
	}
	var running []*running
	for range 2 {
		cfg, _ := r.sweepingQueue(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
		cfg.Objects.AckWait, cfg.JS = 500*time.Millisecond, connect(t, r.server.ClientURL())
		running = append(running, r.run(cfg))
	}
	r.eventually("an empty queue", func() bool {
		s, err := r.js.Stream(r.ctx, consumer.StreamRequests)
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
	for _, w := range running {
		r.end(w)
	}
	if n := len(r.stored(consumer.StreamResults)); n != 1 {
		t.Errorf("%d results, want 1", n)
	}
}

// In a cluster the broker does it by consensus.
func TestOrphansAreDeliveredAnewInACluster(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	cluster := natstest.RunCluster(t, 3, natstest.Options{})
	r.js = connect(t, cluster[0].ClientURL())
	r.ensure(consumer.ObjectsConfig{Replicas: 3})
	r.orphan("lost")
	cfg, log := r.sweepingQueue(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	cfg.Objects.Replicas = 3
	w := r.run(cfg)
	r.eventually("an empty queue", func() bool { return r.waiting() == 0 })
	r.end(w)
	if log.count(anew) != 1 || len(r.stored(consumer.StreamResults)) != 1 {
		t.Errorf("mended %d times, %d results; want one of each", log.count(anew), len(r.stored(consumer.StreamResults)))
	}
}

// A queue that is never quiet is delivered anew in the end, with what is in hand and what rests.
func TestOrphansAreDeliveredAnewThoughTheQueueIsNeverQuiet(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.orphan("lost")
	r.limitDeliveries(-1)
	r.submit("acme", "rests")
	r.submit("acme", "in hand")
	mended := make(chan struct{})
	cfg, log := r.sweepingQueue(func(ctx context.Context, d provision.Delivery) provision.Outcome {
		select {
		case <-mended:
			return created(d)
		default:
		}
		switch d.Request.Key.ID {
		case "rests":
			return provision.Outcome{Delay: time.Hour}
		case "in hand":
			select {
			case <-mended:
			case <-ctx.Done():
			}
		}
		return created(d)
	})
	cfg.DelayMax, cfg.Sweep.Interval = time.Hour, 2*time.Millisecond
	w := r.run(cfg)
	r.eventually("told", func() bool { return log.count("in a worker's hands or rests") == 1 })
	r.eventually("mended all the same", func() bool { return log.count(anew) == 1 })
	close(mended)
	r.eventually("only what rests is left", func() bool { return r.waiting() <= 1 })
	r.end(w)
	told := map[string]bool{}
	for _, m := range r.stored(consumer.StreamResults) {
		told[m.Header.Get("Nats-Msg-Id")] = true
	}
	if !told[lostID("lost")] || !told[lostID("in hand")] {
		t.Errorf("told %v", told)
	}
}

// lostID returns the id of the result of acme's bare request that was created.
func lostID(id string) string {
	return provision.Key{Tenant: "acme", Source: "nats", ID: id}.EventID(0, provision.OutcomeCreated)
}

// Several orphans, while workers look all the time: each is told once, and none is left.
func TestTwoWorkersMendTheSame(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	for i := range 5 {
		r.orphan(fmt.Sprint(i))
	}
	var workers []*running
	for range 2 {
		cfg, _ := r.sweepingQueue(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
		workers = append(workers, r.run(cfg))
	}
	r.eventually("an empty queue", func() bool { return r.waiting() == 0 })
	for _, w := range workers {
		r.end(w)
	}
	if n := len(r.stored(consumer.StreamResults)); n != 5 {
		t.Errorf("%d results, want 5", n)
	}
}

// A worker that may not mend says so, and works on.
func TestOrphansAreToldWhereTheRightIsMissing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	conf := `no_auth_user: admin
authorization { users: [
  { user: admin, password: x }
  { user: worker, password: x, permissions: { publish: { deny: ["$JS.API.CONSUMER.RESET.>"] } } }
] }`
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, natstest.Options{ConfigFile: file})
	r.ensure(consumer.ObjectsConfig{})
	r.orphan("lost")
	handled := make(chan string, 10)
	cfg, log := r.sweepingQueue(func(_ context.Context, d provision.Delivery) provision.Outcome {
		handled <- d.Request.Key.ID
		return created(d)
	})
	cfg.JS = connect(t, strings.Replace(r.server.ClientURL(), "nats://", "nats://worker:x@", 1))
	cfg.PublishTimeout = 300 * time.Millisecond
	w := r.run(cfg)
	r.eventually("told, with the right", func() bool { return log.count("$JS.API.CONSUMER.RESET.CONNECTION_REQUESTS.flow-worker") > 0 })
	r.eventually("the orphan in the metric", func() bool { return r.metric("queue_orphans", "") == 1 })
	r.submit("acme", "later")
	if id := receive(r, handled, "a later request"); id != "later" {
		t.Errorf("handled %q", id)
	}
	r.end(w)
	if n := log.count(anew); n != 0 {
		t.Errorf("%d times told that it was mended", n)
	}
	r.wantMetric("repairs_total", "queue done", 0)
	if n := r.metric("repairs_total", "queue failed"); n < 1 {
		t.Errorf("%v repairs failed, want one", n)
	}
}
