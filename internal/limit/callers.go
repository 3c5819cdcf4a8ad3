package limit

import (
	"slices"
	"sync"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// callers remembers which tenants called a target of late, and for which of them it failed.
type callers struct {
	window time.Duration
	mu     sync.Mutex
	last   map[string]lastCalls // :: tenant → its last calls; guarded by mu
}

type lastCalls struct {
	any, failed, served time.Time
	bad                 bool // the last one that showed something failed
}

// awhile is how many windows a tenant's last call counts: longer than a call that hangs.
const awhile = 12

// ended takes down a call of the tenant, unless it was none.
func (c *callers) ended(tenant string, end provision.CallEnd, now time.Time) {
	if end == provision.CallVoid {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last = map[string]lastCalls{}
	}
	if len(c.last) >= forgetFrom {
		c.forget(now)
	}
	last := c.last[tenant]
	last.any = now
	switch end {
	case provision.CallFailed:
		last.failed, last.bad = now, true
	case provision.CallServed:
		last.served, last.bad = now, false
	}
	c.last[tenant] = last
}

// lately is how many windows it counts that a tenant was served.
const lately = 3

// health returns the tenants whose last calls failed, within the window, and whether there are others
// who were served lately.
func (c *callers) health(now time.Time) (sick []string, others bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(now)
	for tenant, last := range c.last {
		switch {
		case last.bad:
			if now.Sub(last.failed) <= c.window {
				sick = append(sick, tenant)
			}
		case now.Sub(last.served) <= lately*c.window:
			others = true
		}
	}
	slices.Sort(sick)
	return sick, others
}

// sick reports whether the tenant's last call failed.
func (c *callers) sick(tenant string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(now)
	return c.last[tenant].bad
}

// count returns how many tenants have called of late.
func (c *callers) count(now time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(now)
	return len(c.last)
}

// forget drops who hasn't called for a while. The caller holds mu.
func (c *callers) forget(now time.Time) {
	for tenant, last := range c.last {
		if now.Sub(last.any) > awhile*c.window {
			delete(c.last, tenant)
		}
	}
}
