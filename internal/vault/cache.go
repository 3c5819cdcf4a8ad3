package vault

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/flow-worker/flow-worker/internal/provision"
)

const (
	cacheSize   = 16_384           // secrets kept at most: two of each of 8,000 tenants
	negativeTTL = 2 * time.Second  // how old a "not found" may be
	readBudget  = 35 * time.Second // of a read with its retries, also when nobody waits for it any more
)

// slot is a secret's name in the cache.
type slot struct {
	place   place
	version int
}

// entry is what the cache knows of a slot: a secret or that there is none. One with neither was
// dropped.
type entry struct {
	got  *stored
	err  *failure
	at   time.Time // when the read began
	turn uint64    // of the read, or of the drop
}

// cache remembers reads for a while, and lets those who want the same at the same time share one.
type cache struct {
	read  func(context.Context, place, int) (*stored, *failure)
	ttl   time.Duration // 0: it remembers nothing
	clock provision.Clock

	flights singleflight.Group
	life    context.Context // ends the flights; see close
	end     context.CancelFunc
	flying  sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	turn    uint64 // orders reads and drops by their beginning
	entries map[slot]entry
	past    map[slot]*passage // the latest read past the cache that has begun and not ended
	next    map[slot]*passage // the one that begins when that has ended
}

// passage is a read past the cache.
type passage struct {
	done chan struct{} // closed when out is there
	out  outcome
}

func newCache(read func(context.Context, place, int) (*stored, *failure), ttl time.Duration, clock provision.Clock) *cache {
	c := &cache{
		read: read, ttl: ttl, clock: clock,
		entries: make(map[slot]entry), past: make(map[slot]*passage), next: make(map[slot]*passage),
	}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// close ends the reads under way, waits for them and lets no new one begin.
func (c *cache) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	c.flying.Wait()
}

// outcome is what a flight brings back.
type outcome struct {
	entry
	panicked any
}

// get returns the secret in k. Check says whether it can be used: a useless one is read again unless
// it is fresh, so that a mended secret isn't refused for a TTL. With fresh the cache is passed by, and
// what it held is dropped even if the read fails. The end of ctx ends only this
// caller's waiting. Cached says that nothing was read for this answer, be it a secret or a failure.
func (c *cache) get(ctx context.Context, k slot, fresh bool, check func(*stored) *failure) (cached bool, err *failure) {
	if fresh {
		p := c.board(ctx, k)
		select {
		case <-p.done:
			return false, p.out.settle(check)
		case <-ctx.Done():
			return false, cutOff(ctx, k)
		}
	}
	if e, ok := c.lookup(k); ok {
		err := e.verdict(check)
		if err == nil || c.clock.Now().Sub(e.at) < negativeTTL {
			return true, err
		}
	}
	select {
	case r := <-c.share(ctx, k):
		o, _ := r.Val.(outcome)
		return false, o.settle(check)
	case <-ctx.Done():
		return false, cutOff(ctx, k)
	}
}

func cutOff(ctx context.Context, k slot) *failure {
	return newFailure(provision.SecretUnavailable, provision.CauseTimeout, fmt.Errorf("read %s: %w", k.place.path, ctx.Err()))
}

// share joins the read of k under way, or begins one.
func (c *cache) share(ctx context.Context, k slot) <-chan singleflight.Result {
	return c.flights.DoChan(k.String(), func() (any, error) { return c.fly(ctx, k), nil })
}

// board returns a read of k past the cache that has yet to begin, so that it tells of nothing that was so
// only before. There is one at a time: all who come while it is under way share the next, for many
// requests may be refused at the same moment for the same secret.
func (c *cache) board(ctx context.Context, k slot) *passage {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.next[k]
	switch {
	case ok:
		return p
	case c.closed:
		p = &passage{done: make(chan struct{}), out: outcome{entry: entry{err: stopped()}}}
		close(p.done)
		return p
	}
	p = &passage{done: make(chan struct{})}
	before := c.past[k]
	c.next[k] = p
	c.flying.Go(func() { c.pass(ctx, k, p, before) })
	return p
}

// pass reads k past the cache as soon as the one before has done so.
func (c *cache) pass(ctx context.Context, k slot, p, before *passage) {
	if before != nil {
		<-before.done
	}
	c.mu.Lock()
	delete(c.next, k)
	c.past[k] = p
	c.mu.Unlock()
	c.drop(k)
	r := <-c.share(ctx, k)
	p.out, _ = r.Val.(outcome)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.past[k] == p {
		delete(c.past, k)
	}
	close(p.done)
}

func stopped() *failure { return unavailable("", "the Vault client has been stopped") }

// settle returns what a flight's outcome means for one of those who waited for it.
func (o outcome) settle(check func(*stored) *failure) *failure {
	if o.panicked != nil {
		panic(o.panicked) // in the goroutine of the request, whose failure it is
	}
	return o.verdict(check)
}

func (e entry) verdict(check func(*stored) *failure) *failure {
	if e.err != nil {
		return e.err
	}
	return check(e.got)
}

// String returns the slot's name for a flight.
func (k slot) String() string { return fmt.Sprintf("%s?%d", k.place.path, k.version) }

// fly reads k, on behalf of all who wait for it, so not under the context of the one who came first.
func (c *cache) fly(ctx context.Context, k slot) (o outcome) {
	turn, ok := c.begin()
	if !ok {
		o.err = stopped()
		return o
	}
	defer c.flying.Done()
	defer func() { o.panicked = recover() }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readBudget)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	o.turn, o.at = turn, c.clock.Now()
	o.got, o.err = c.read(ctx, k.place, k.version)
	c.put(k, o.entry)
	return o
}

// begin takes the flight's turn, unless the cache is closed.
func (c *cache) begin() (turn uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, false
	}
	c.flying.Add(1)
	c.turn++
	return c.turn, true
}

// lookup returns the entry of k unless it is too old.
func (c *cache) lookup(k slot) (entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[k]
	if !ok || e.got == nil && e.err == nil || c.clock.Now().Sub(e.at) >= c.lifetime(e) {
		return entry{}, false
	}
	return e, true
}

func (c *cache) lifetime(e entry) time.Duration {
	if e.err != nil {
		return min(negativeTTL, c.ttl)
	}
	return c.ttl
}

// drop forgets k, and that for good: a read which began before can't bring it back, nor is it waited
// for by those who come after.
func (c *cache) drop(k slot) {
	c.flights.Forget(k.String())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ttl > 0 {
		c.turn++
		c.store(k, entry{turn: c.turn, at: c.clock.Now()})
	}
}

// put remembers a read, unless it failed in a way that may pass or k was dropped or read later.
func (c *cache) put(k slot, e entry) {
	if c.ttl == 0 || e.err != nil && e.err.Problem != provision.SecretMissing {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.entries[k]; !ok || known.turn < e.turn {
		c.store(k, e)
	}
}

// store makes room by forgetting the oldest. The caller holds mu.
func (c *cache) store(k slot, e entry) {
	if _, known := c.entries[k]; !known && len(c.entries) >= cacheSize {
		var oldest slot
		first := true
		for other, o := range c.entries {
			if first || o.turn < c.entries[oldest].turn {
				oldest, first = other, false
			}
		}
		delete(c.entries, oldest)
	}
	c.entries[k] = e
}
