//go:build soak && linux

package fairness

import (
	"fmt"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

// TestRateLimit is what a fleet gets out of a Flow Service that bears only so much of a tenant.
func TestRateLimit(t *testing.T) {
	for _, limit := range []int{20, 60} {
		for _, after := range []time.Duration{0, time.Second} {
			t.Run(fmt.Sprintf("limit=%d/retryAfter=%v", limit, after), func(t *testing.T) {
				ctx := patient(t)
				w := newWorld(ctx, t, 1)
				w.flow.SetFaults(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectRateLimit, PerSecond: limit, RetryAfter: after})
				for range 3 {
					w.startWorker(ctx, t, without{})
				}
				w.publish(ctx, t, big, min(*queuedFlag, 10_000))
				pass(ctx, *watchFlag) // to settle
				before := w.tally(t)
				d := w.watch(ctx, t)
				reached := float64(d.created) / d.at.Sub(before.at).Seconds() / float64(limit)
				show(t, row{"of the limit", fmt.Sprintf("%.0f %%", 100*reached)},
					row{"429s per success", fmt.Sprintf("%.2f", float64(d.throttled)/float64(max(d.created, 1)))},
					row{"room left", fmt.Sprint(w.workers[0].slots.Room(big), w.workers[1].slots.Room(big), w.workers[2].slots.Room(big))})
				if *watchFlag >= 20*time.Second && reached < 0.7 || d.created == 0 {
					t.Errorf("%.0f %% of the limit reached", 100*reached)
				}
			})
		}
	}
}
