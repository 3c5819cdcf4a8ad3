package consumer_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// reading is a config that reads ahead, whose handler has each request done when release is closed, or sent a value
// for one. It plays the ledger's part: what was done once is not done again.
type reading struct {
	consumer.Config
	begun   chan provision.Delivery
	release chan struct{}

	mu   sync.Mutex
	done map[string]bool // :: tenant and id → whether it was told
}

func (r *rig) reading(inHand int) *reading {
	c := &reading{begun: make(chan provision.Delivery, 1000), release: make(chan struct{}), done: map[string]bool{}}
	c.Config = r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		key := d.Request.Key.Tenant + "/" + d.Request.Key.ID
		c.mu.Lock()
		told, known := c.done[key]
		c.mu.Unlock()
		switch {
		case known && told, known && d.Direct:
			return provision.Outcome{Silent: true}
		case known:
			return provision.Outcome{Delay: 200 * time.Millisecond}
		}
		c.mu.Lock()
		c.done[key] = false
		c.mu.Unlock()
		c.begun <- d
		<-c.release
		out := created(d)
		tell := func(context.Context) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.done[key] = true
		}
		if d.Direct {
			out.Published = tell
		} else {
			tell(context.Background())
		}
		return out
	})
	c.Concurrency, c.Room = inHand, func(string) int { return inHand }
	return c
}

// TestOtherTenantsAreReadAhead: with all places taken by one tenant's backlog another's request is worked on, its
// result is told once, and its delivery, when it comes, is acknowledged in silence.
func TestOtherTenantsAreReadAhead(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.submitMany("big", 100)
	c := r.reading(4)
	w := r.run(c.Config)
	for range 4 {
		if d := receive(r, c.begun, "one of the backlog"); d.Request.Key.Tenant != "big" || d.Direct {
			t.Fatalf("%s, direct %v, want the backlog in order", d.Request.Key.Tenant, d.Direct)
		}
	}
	r.submit("small", "small-1")
	d := receive(r, c.begun, "the other tenant's")
	if d.Request.Key.Tenant != "small" || !d.Direct || d.Delivered != 0 || d.Seq != 101 {
		t.Errorf("%+v, want the other tenant's, read directly", d)
	}
	close(c.release)
	r.awaitEmpty()
	r.end(w)
	if n := len(r.stored(consumer.StreamResults)); n != 101 {
		t.Errorf("%d results, want 101", n)
	}
	r.wantMetric("deliveries_total", "ack", 101)
	r.wantMetric("requests_total", "created", 101)
	r.wantMetric("requests_total", "duplicate", 0)
	r.wantMetric("requests_in_flight", "", 0)
}

// TestReadAheadSharesEvenly: of many tenants behind a backlog each has one in hand before one has two.
func TestReadAheadSharesEvenly(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.submitMany("big", 50)
	const tenants = 8
	for i := range tenants {
		for n := range 3 {
			r.submit(fmt.Sprint("t", i), fmt.Sprintf("t%d-%d", i, n))
		}
	}
	c := r.reading(tenants + 1)
	w := r.run(c.Config)
	seen := map[string]int{}
	for range 2*tenants + 1 { // the places for deliveries, all of the backlog, and as many for what is read ahead
		seen[receive(r, c.begun, "request").Request.Key.Tenant]++
	}
	for i := range tenants {
		if n := seen[fmt.Sprint("t", i)]; n != 1 {
			t.Errorf("tenant %d has %d in hand: %v", i, n, seen)
		}
	}
	close(c.release)
	r.awaitEmpty()
	r.end(w)
	if n := len(r.stored(consumer.StreamResults)); n != 50+3*tenants {
		t.Errorf("%d results, want %d", n, 50+3*tenants)
	}
}

// TestTenantAtItsLimitIsReadPast: its messages fill the places for deliveries, and no more of them are read.
func TestTenantAtItsLimitIsReadPast(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.submitMany("throttled", 20)
	for n := range 20 {
		r.submit("other", fmt.Sprint("other-", n))
	}
	c := r.reading(4)
	c.Room = func(tenant string) int {
		if tenant == "throttled" {
			return 0
		}
		return 4
	}
	w := r.run(c.Config)
	for range 4 {
		receive(r, c.begun, "one that is throttled")
	}
	for range 2 {
		if d := receive(r, c.begun, "another's"); d.Request.Key.Tenant != "other" || !d.Direct {
			t.Errorf("%s, direct %v", d.Request.Key.Tenant, d.Direct)
		}
	}
	close(c.release)
	r.awaitEmpty()
	r.end(w)
}

// TestWhatRestsIsNotReadAgain: a message that was read and given back is left alone for as long as it was to rest.
func TestWhatRestsIsNotReadAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.submitMany("big", 10)
	let := make(chan struct{})
	var direct atomic.Int64
	seen := make(chan struct{}, 100)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		if d.Direct {
			direct.Add(1)
			seen <- struct{}{}
			return provision.Outcome{Delay: time.Hour, Why: "a test"}
		}
		<-let
		return created(d)
	})
	cfg.Concurrency, cfg.Room = 2, func(string) int { return 2 }
	w := r.run(cfg)
	r.submit("small", "small-1")
	receive(r, seen, "the first reading")
	looks := r.asked("$JS.API.STREAM.INFO.CONNECTION_REQUESTS")
	for range 5 {
		receive(r, looks, "another look")
	}
	if n := direct.Load(); n != 1 {
		t.Errorf("it was read %d times, want once", n)
	}
	close(let)
	r.awaitEmpty()
	r.end(w)
	r.wantMetric("deliveries_total", "nak", 0)
}

// asked receives a value whenever the broker is asked on a subject.
func (r *rig) asked(subject string) <-chan struct{} {
	r.t.Helper()
	ch := make(chan struct{}, 1000)
	nc := connect(r.t, r.server.ClientURL()).Conn()
	sub, err := nc.Subscribe(subject, func(m *nats.Msg) {
		select {
		case ch <- struct{}{}:
		default:
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := nc.Flush(); err != nil {
		r.t.Fatal(err)
	}
	return ch
}

// TestPauseHoldsForReadingAhead: while the consumer is paused nothing is read past it.
func TestPauseHoldsForReadingAhead(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.submitMany("big", 10)
	c := r.reading(2)
	w := r.run(c.Config)
	for range 2 {
		receive(r, c.begun, "one of the backlog")
	}
	if _, err := r.js.PauseConsumer(r.ctx, consumer.StreamRequests, consumer.ConsumerName, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	r.submit("small", "small-1")
	asked := r.asked("$JS.API.CONSUMER.INFO.CONNECTION_REQUESTS.flow-worker")
	for range 5 {
		receive(r, asked, "another look")
	}
	select {
	case d := <-c.begun:
		t.Errorf("%s is worked on amid a pause", d.Request.Key.Tenant)
	default:
	}
	if _, err := r.js.ResumeConsumer(r.ctx, consumer.StreamRequests, consumer.ConsumerName); err != nil {
		t.Fatal(err)
	}
	if d := receive(r, c.begun, "the other tenant's"); d.Request.Key.Tenant != "small" {
		t.Errorf("%s, want small", d.Request.Key.Tenant)
	}
	close(c.release)
	r.awaitEmpty()
	r.end(w)
}

// TestNearlyFullHandReadsAhead: with too little room for a pull to be worth asking for, other tenants are read.
func TestNearlyFullHandReadsAhead(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	c := r.reading(16)
	c.PullExpires = 5 * time.Second
	r.submitMany("big", 15)
	w := r.run(c.Config)
	for range 15 {
		receive(r, c.begun, "one of the backlog")
	}
	r.submit("small", "small-0") // by the pull that is still open, or read
	receive(r, c.begun, "the other tenant's first")
	r.submit("small", "small-1")
	if d := receive(r, c.begun, "the other tenant's second"); d.Request.Key.Tenant != "small" {
		t.Errorf("%s, want small", d.Request.Key.Tenant)
	}
	close(c.release)
	r.awaitEmpty()
	r.end(w)
}

// TestWhatIsToldIsNotReadAgain: a message whose outcome is told stays in the stream until its delivery, and is left
// alone there.
func TestWhatIsToldIsNotReadAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	r.submitMany("big", 10)
	let := make(chan struct{})
	told := make(chan uint64, 100)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		if !d.Direct && d.Request.Key.Tenant == "big" {
			<-let
			return created(d)
		}
		if !d.Direct {
			return provision.Outcome{Silent: true}
		}
		out := created(d)
		out.Published = func(context.Context) { told <- d.Seq }
		return out
	})
	cfg.Concurrency, cfg.Room = 2, func(string) int { return 2 }
	w := r.run(cfg)
	for i := range 3 {
		r.submit("small", fmt.Sprint("small-", i))
	}
	seen := map[uint64]int{}
	for range 3 {
		seen[receive(r, told, "outcome that is told")]++
	}
	gets := r.asked("$JS.API.STREAM.MSG.GET.CONNECTION_REQUESTS")
	looks := r.asked("$JS.API.STREAM.INFO.CONNECTION_REQUESTS")
	for range 6 {
		receive(r, looks, "another look")
	}
	if len(seen) != 3 || len(told) != 0 || len(gets) != 0 {
		t.Errorf("told %v, %d more, and %d messages were read since", seen, len(told), len(gets))
	}
	close(let)
	r.awaitEmpty()
	r.end(w)
	if n := len(r.stored(consumer.StreamResults)); n != 13 {
		t.Errorf("%d results, want 13", n)
	}
}
