//go:build soak && linux

package fairness

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

// TestTrouble is the wait behind a tenant that has a backlog and whose requests don't go well, or
// behind two that have one each.
func TestTrouble(t *testing.T) {
	org := orgOf(big)
	for name, c := range map[string]struct {
		faults  []flowtest.Fault
		bigs    int
		workers int
	}{
		"well":          {bigs: 1, workers: 1},
		"two backlogs":  {bigs: 2, workers: 1},
		"five backlogs": {bigs: 5, workers: 1},
		"three workers": {bigs: 1, workers: 3},
		"throttled":     {[]flowtest.Fault{{Operation: flowtest.OpCreate, OrgID: org, Effect: flowtest.EffectRateLimit, PerSecond: 5}}, 1, 1},
		"all refused for now": {[]flowtest.Fault{{Operation: flowtest.OpCreate, OrgID: org, Effect: flowtest.EffectStatus,
			Status: http.StatusTooManyRequests, RetryAfter: 10 * time.Second}}, 1, 1},
		"hangs": {[]flowtest.Fault{{Operation: flowtest.OpCreate, OrgID: org, Effect: flowtest.EffectHang}}, 1, 1},
		"fails": {[]flowtest.Fault{{Operation: flowtest.OpAny, OrgID: org, Effect: flowtest.EffectStatus, Status: http.StatusServiceUnavailable}}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := patient(t)
			w := newWorld(ctx, t, 1)
			w.flowTimeout = 10 * time.Second
			w.flow.SetFaults(c.faults...)
			for range c.workers {
				w.startWorker(ctx, t, slots, true)
			}
			before := w.tally(t)
			for i := range c.bigs {
				tenant := big
				if i > 0 {
					tenant = fmt.Sprintf("%s-%d", big, i+1)
				}
				w.publish(ctx, t, tenant, *queuedFlag/c.bigs)
			}
			pass(ctx, time.Second)
			rows := []row{{"queued", *queuedFlag}}
			for i := range 4 {
				rows = append(rows, row{fmt.Sprintf("small %d waited", i+1), w.ask(ctx, t, small)})
				pass(ctx, 2*time.Second)
			}
			d := w.tally(t).since(before)
			show(t, append(rows, row{"naks", d.naks}, row{"ledger writes", d.stores}, row{"POSTs", d.posts}, row{"429", d.throttled}, row{"in flight", d.inFlight})...)
		})
	}
}
