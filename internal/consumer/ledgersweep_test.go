package consumer_test

import (
	"context"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

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
