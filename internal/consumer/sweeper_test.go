package consumer_test

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
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

// book is a ledger whose records the test writes.
type book struct {
	mu   sync.Mutex
	rev  uint64
	all  map[provision.Key]consumer.Written
	from []uint64 // what was asked for
}

func (b *book) write(rec provision.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rev++
	if b.all == nil {
		b.all = map[provision.Key]consumer.Written{}
	}
	b.all[rec.Key] = consumer.Written{Record: rec, Revision: b.rev}
}

func (b *book) records(_ context.Context, from uint64) iter.Seq2[consumer.Written, error] {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.from = append(b.from, from)
	byRevision := map[uint64]consumer.Written{}
	for _, w := range b.all {
		byRevision[w.Revision] = w
	}
	last := b.rev
	return func(yield func(consumer.Written, error) bool) {
		for rev := from; rev <= last; rev++ {
			if w, ok := byRevision[rev]; ok && !yield(w, nil) {
				return
			}
		}
	}
}

func (b *book) load(_ context.Context, key provision.Key) (provision.Record, uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w, ok := b.all[key]
	if !ok {
		return provision.Record{}, 0, provision.ErrNoRecord
	}
	return w.Record, w.Revision, nil
}

// old is a record of acme's that nobody has touched for an hour, and that was held by message seq.
func old(id string, state provision.State, seq uint64) provision.Record {
	at := time.Now().Add(-time.Hour)
	return provision.Record{Key: provision.Key{Tenant: "acme", Source: "nats", ID: id}, State: state, HeldSeq: seq, UpdatedAt: at, HeldUntil: at, RequestedAt: at}
}

// sweeping runs a consumer that looks at b all the time and leaves all messages where they are.
func (r *rig) sweeping(b *book, limit int) (*running, *lines) {
	log := &lines{}
	cfg := r.config(func(context.Context, provision.Delivery) provision.Outcome {
		return provision.Outcome{Delay: time.Hour}
	})
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	cfg.DelayMax = time.Hour
	cfg.Sweep = consumer.SweepConfig{Interval: -1, LedgerInterval: 10 * time.Millisecond, LedgerLimit: limit, Records: b.records, Load: b.load}
	w := r.run(cfg)
	r.eventually("ready", func() bool { return w.Ready() == nil })
	return w, log
}

func TestStuckRequestsAreTold(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.submit("acme", "waits") // sequence 1
	b := &book{}
	b.write(old("waits", provision.StateWaiting, 1))
	b.write(old("ended", provision.StateFailed, 7))
	b.write(old("stuck", provision.StateUnknown, 7))
	b.write(old("never held", provision.StateClaimed, 0))
	b.write(old("renamed", provision.StateUnknown, 1)) // message 1 is another request's
	busy := old("busy", provision.StatePosting, 7)
	busy.PostedAt, busy.Lease = time.Now(), time.Minute
	b.write(busy)
	w, log := r.sweeping(b, 2)
	r.eventually("three stuck", func() bool { return r.metric("ledger_stuck", "") == 3 })

	ended := old("stuck", provision.StateCreated, 7)
	b.write(ended)
	again := old("renamed", provision.StateUnknown, 1)
	again.HeldUntil = time.Now().Add(time.Hour)
	b.write(again)
	r.eventually("one stuck", func() bool { return r.metric("ledger_stuck", "") == 1 })
	if n := log.count("a request is stuck"); n != 3 {
		t.Errorf("%d lines in the log, want 3", n)
	}
	b.mu.Lock()
	delete(b.all, provision.Key{Tenant: "acme", Source: "nats", ID: "never held"}) // it has expired
	b.mu.Unlock()
	r.eventually("none stuck", func() bool { return r.metric("ledger_stuck", "") == 0 })
	r.eventually("every revision read once", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.from[len(b.from)-1] == b.rev+1
	})
	r.end(w)
}

func TestSweepNeedsBothWaysToReadTheLedger(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	cfg.Sweep.Records = (&book{}).records
	if _, err := consumer.New(cfg); err == nil || !strings.Contains(err.Error(), "Sweep.Load") {
		t.Errorf("got %v", err)
	}
}

func TestOverdue(t *testing.T) {
	t.Parallel()
	now := time.Now()
	long := now.Add(-time.Hour)
	for name, tc := range map[string]struct {
		rec  provision.Record
		want bool
	}{
		"long ago":      {provision.Record{State: provision.StateWaiting, UpdatedAt: long}, true},
		"ended":         {provision.Record{State: provision.StateFailed, UpdatedAt: long}, false},
		"written now":   {provision.Record{State: provision.StateWaiting, UpdatedAt: now}, false},
		"held":          {provision.Record{State: provision.StateClaimed, UpdatedAt: long, HeldUntil: now}, false},
		"posting":       {provision.Record{State: provision.StatePosting, UpdatedAt: long, PostedAt: long, Lease: time.Hour}, false},
		"told to wait":  {provision.Record{State: provision.StateWaiting, UpdatedAt: long, NotBefore: now.Add(time.Hour)}, false},
		"clocks differ": {provision.Record{State: provision.StateWaiting, UpdatedAt: now.Add(time.Hour)}, false},
	} {
		if got := consumer.Overdue(tc.rec, now); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
