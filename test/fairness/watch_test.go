//go:build soak && linux

package fairness

import (
	"context"
	"testing"
)

// watch shows what goes on for a while.
func (w *world) watch(ctx context.Context, t *testing.T) tally {
	t.Helper()
	before, used := w.tally(t), w.brokers.usage(t)
	pass(ctx, *watchFlag)
	after, now := w.tally(t), w.brokers.usage(t)
	d := after.since(before)
	show(t, row{"watched for", after.at.Sub(before.at)}, row{"created", after.rate(before, d.created)}, row{"in flight at its end", after.inFlight},
		row{"naks", after.rate(before, d.naks)}, row{"ledger writes", after.rate(before, d.stores)}, row{"ledger reads", after.rate(before, d.loads)},
		row{"POSTs", after.rate(before, d.posts)}, row{"429", after.rate(before, d.throttled)},
		row{"broker, cores", now.cores(used)}, row{"broker, memory", now.memory()})
	return d
}
