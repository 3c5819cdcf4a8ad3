package pace

import (
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

type lastCalls struct{ any, failed time.Time }

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
	if len(c.last) >= sweepAt {
		c.forget(now)
	}
	last := c.last[tenant]
	last.any = now
	if end == provision.CallFailed {
		last.failed = now
	}
	c.last[tenant] = last
}

// culprit returns the only tenant that calls failed for within the window, empty if there are several.
func (c *callers) culprit(now time.Time) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(now)
	found := ""
	for tenant, last := range c.last {
		if last.failed.IsZero() || now.Sub(last.failed) > c.window {
			continue
		}
		if found != "" {
			return ""
		}
		found = tenant
	}
	return found
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
