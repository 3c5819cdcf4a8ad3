package pace

import (
	"sync"
	"time"
)

// callers remembers which tenants called a target of late, and for which of them it failed.
type callers struct {
	window time.Duration
	mu     sync.Mutex
	last   map[string]lastCalls // :: tenant → its last calls; guarded by mu
}

type lastCalls struct{ any, failed time.Time }

// awhile is how many windows a tenant's last call counts: longer than a call that hangs.
const awhile = 12

func (c *callers) called(tenant string, served bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last = map[string]lastCalls{}
	}
	if len(c.last) >= sweepAt {
		c.forget(now)
	}
	last := c.last[tenant]
	last.any = now
	if !served {
		last.failed = now
	}
	c.last[tenant] = last
}

// agree reports whether the failures within the window are those of two tenants at least, or of the
// only tenant there is.
func (c *callers) agree(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(now)
	failing := 0
	for _, last := range c.last {
		if !last.failed.IsZero() && now.Sub(last.failed) <= c.window {
			failing++
		}
	}
	return failing >= min(len(c.last), 2)
}

// forget drops who hasn't called for a while. The caller holds mu.
func (c *callers) forget(now time.Time) {
	for tenant, last := range c.last {
		if now.Sub(last.any) > awhile*c.window {
			delete(c.last, tenant)
		}
	}
}
