//go:build soak && linux

package fairness

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

// trouble is what one tenant's requests meet, or how many tenants there are with a backlog.
type trouble struct {
	name    string
	fault   flowtest.Fault // of the big tenant; without an effect all goes well
	backlog int            // tenants with one; 0 means 1
	workers int            // 0 means 1
	lacks   without
}

// patience is how long small's wait may be.
func (c trouble) patience() time.Duration {
	return max(20*time.Second, time.Duration(*queuedFlag)*time.Millisecond)
}

var troubles = []trouble{
	{name: "three workers", workers: 3},
	{name: "two backlogs", backlog: 2},
	{name: "five backlogs", backlog: 5},
	{name: "throttled", fault: flowtest.Fault{Effect: flowtest.EffectRateLimit, PerSecond: 5}},
	{name: "refused for 10 s", fault: flowtest.Fault{Effect: flowtest.EffectStatus, Status: http.StatusTooManyRequests, RetryAfter: 10 * time.Second}},
	{name: "hangs", fault: flowtest.Fault{Effect: flowtest.EffectHang}},
	{name: "hangs, no breaker", fault: flowtest.Fault{Effect: flowtest.EffectHang}, lacks: without{breakers: true}},
	{name: "fails", fault: flowtest.Fault{Effect: flowtest.EffectStatus, Status: http.StatusServiceUnavailable}},
	{name: "fails, no breaker", fault: flowtest.Fault{Effect: flowtest.EffectStatus, Status: http.StatusServiceUnavailable}, lacks: without{breakers: true}},
}

// TestTrouble is the wait behind tenants that have a backlog and whose requests don't go well.
func TestTrouble(t *testing.T) {
	for _, c := range troubles {
		t.Run(c.name, func(t *testing.T) {
			ctx := patient(t)
			w := newWorld(ctx, t, 1)
			w.flowTimeout = 10 * time.Second
			if c.fault.Effect != "" {
				c.fault.OrgID = orgOf(big)
				w.flow.SetFaults(c.fault)
			}
			for range max(c.workers, 1) {
				w.startWorker(ctx, t, c.lacks)
			}
			w.testTrouble(ctx, t, c)
		})
	}
}

func (w *world) testTrouble(ctx context.Context, t *testing.T, c trouble) {
	t.Helper()
	before, n := w.tally(t), max(c.backlog, 1)
	w.publish(ctx, t, big, *queuedFlag/n)
	for i := 1; i < n; i++ {
		w.publish(ctx, t, fmt.Sprintf("%s-%d", big, i+1), *queuedFlag/n)
	}
	rows := []row{{"queued", *queuedFlag}}
	for _, pause := range []time.Duration{time.Second, time.Second, *watchFlag} {
		pass(ctx, pause)
		wait, ok := w.askFor(ctx, t, small, c.patience())
		rows = append(rows, row{fmt.Sprintf("small waited, asked after %v", pause), wait})
		if !ok {
			rows = append(rows, row{"", "and had no result then"})
			t.Errorf("no result after %v", wait)
		}
	}
	d := w.tally(t).since(before)
	show(t, append(rows, row{"naks", d.naks}, row{"ledger writes", d.stores}, row{"ledger reads", d.loads}, row{"POSTs", d.posts},
		row{"created", d.created}, row{"429", d.throttled}, row{"in flight", d.inFlight})...)
}
