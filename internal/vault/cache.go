package vault

import (
	"context"
	"sync"
	"time"

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

// cache remembers reads for a while, and lets those who want the same at the same time share one.
type cache struct {
	fetch func(context.Context, place, int) (*stored, *failure)
	ttl   time.Duration   // 0: it remembers nothing
	life  context.Context // ends the reads; see close
	end   context.CancelFunc
	reads sync.WaitGroup

	mu      sync.Mutex
	entries map[slot]*read // what has been read
	current map[slot]*read // under way, for others to share
	next    map[slot]*read // fresh, and begun when the current one has ended
}

// read is one read of a slot, under way or ended.
type read struct {
	ctx      context.Context // of whoever asked first: what it carries is used, its end is not
	fresh    bool            // asked for by somebody who knows that what is cached no longer works
	begun    time.Time
	done     chan struct{} // closed when the fields below are set
	got      *stored
	err      *failure
	panicked any
}

func newCache(fetch func(context.Context, place, int) (*stored, *failure), ttl time.Duration) *cache {
	c := &cache{fetch: fetch, ttl: ttl, entries: make(map[slot]*read), current: make(map[slot]*read), next: make(map[slot]*read)}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// close ends the reads under way, waits for them and lets no new one begin.
func (c *cache) close() {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.reads.Wait()
}

// get returns the secret in k. Check says whether it can be used: a useless one is read again once it is older
// than negativeTTL, so that a mended secret isn't refused for a TTL. Fresh passes the cache by and drops its
// entry, even if the read fails. The end of ctx ends only this caller's waiting. Cached says that nothing was read
// for this answer, be it a secret or a failure.
func (c *cache) get(ctx context.Context, k slot, fresh bool, check func(*stored) *failure) (cached bool, err *failure) {
	c.mu.Lock()
	known := c.entries[k]
	c.mu.Unlock()
	if known != nil && !fresh {
		age, err := time.Since(known.begun), known.verdict(check)
		if age < c.ttl && (err == nil || age < negativeTTL) {
			return true, err
		}
	}
	c.mu.Lock()
	r := c.join(ctx, k, fresh)
	c.mu.Unlock()
	if r == nil {
		return false, unavailable("", "the Vault client has been stopped")
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		return false, unavailable(provision.CauseTimeout, "read %s: %w", k.place.path, ctx.Err())
	}
	if r.panicked != nil {
		panic(r.panicked) // in the goroutine of the request, whose failure it is
	}
	return false, r.verdict(check)
}

func (r *read) verdict(check func(*stored) *failure) *failure {
	if r.err != nil {
		return r.err
	}
	return check(r.got)
}

// join returns the read to wait for, nil once the cache is closed. A fresh one begins after the asking. There is
// one fresh read at a time: all who ask while it is under way share the next, for many requests may be refused at
// the same moment for the same secret. The caller holds mu.
func (c *cache) join(ctx context.Context, k slot, fresh bool) *read {
	now := c.current[k]
	switch {
	case c.life.Err() != nil:
		return nil
	case !fresh && now != nil:
		return now
	case fresh && c.next[k] != nil:
		return c.next[k]
	}
	r := &read{ctx: context.WithoutCancel(ctx), fresh: fresh, done: make(chan struct{})}
	if fresh && now != nil && now.fresh {
		c.next[k] = r
	} else {
		c.begin(k, r)
	}
	return r
}

// begin has r take the place of the current read of k, if any: what is older than a fresh read is never cached
// after it. The caller holds mu.
func (c *cache) begin(k slot, r *read) {
	if r.fresh {
		delete(c.entries, k)
	}
	c.current[k], r.begun = r, time.Now()
	c.reads.Go(func() {
		c.run(k, r)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.current[k] == r {
			c.conclude(k, r)
		}
		close(r.done)
	})
}

// run fills r in.
func (c *cache) run(k slot, r *read) {
	ctx, cancel := context.WithTimeout(r.ctx, readBudget)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	defer func() { r.panicked = recover() }()
	r.got, r.err = c.fetch(ctx, k.place, k.version)
}

// conclude remembers a read that has ended, unless it failed in a way that may pass, and begins the next one. The
// caller holds mu.
func (c *cache) conclude(k slot, r *read) {
	r.ctx = nil // an entry has no use for it
	delete(c.current, k)
	if c.ttl > 0 && (r.got != nil || r.err != nil && r.err.Problem == provision.SecretMissing) {
		if _, known := c.entries[k]; !known && len(c.entries) >= cacheSize {
			c.forgetOldest()
		}
		c.entries[k] = r
	}
	if next := c.next[k]; next != nil {
		delete(c.next, k)
		c.begin(k, next)
	}
}

func (c *cache) forgetOldest() {
	var oldest slot
	var since time.Time
	for k, r := range c.entries {
		if since.IsZero() || r.begun.Before(since) {
			oldest, since = k, r.begun
		}
	}
	delete(c.entries, oldest)
}
