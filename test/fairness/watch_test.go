//go:build soak && linux

package fairness

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// watch shows what goes on for a while.
func (w *world) watch(ctx context.Context, t *testing.T) tally {
	t.Helper()
	before, used := w.tally(t), w.brokers.usage(t)
	inFlight := 0.0
	const samples = 100
	for range samples {
		pass(ctx, *watchFlag/samples)
		for _, k := range w.workers {
			inFlight += k.metric(t, "requests_in_flight") / samples
		}
	}
	after, now := w.tally(t), w.brokers.usage(t)
	d := after.since(before)
	show(t, row{"watched for", after.at.Sub(before.at).Round(time.Second)}, row{"created", after.rate(before, d.created)}, row{"in flight, mean", fmt.Sprintf("%.1f", inFlight)},
		row{"naks", after.rate(before, d.naks)}, row{"ledger writes", after.rate(before, d.stores)}, row{"ledger reads", after.rate(before, d.loads)},
		row{"POSTs", after.rate(before, d.posts)}, row{"429", after.rate(before, d.throttled)},
		row{"broker, cores", now.cores(used)}, row{"broker, memory", now.memory()})
	return d
}
