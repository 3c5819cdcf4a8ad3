//go:build soak && linux

package fairness

import (
	"testing"
	"time"
)

// TestNoLookAhead is one consumer, in order: what is asked last waits for all before it.
func TestNoLookAhead(t *testing.T) {
	ctx := patient(t)
	w := newWorld(ctx, t, 1)
	w.startWorker(ctx, t, slots, false)
	n := min(*queuedFlag, 5000)
	w.publish(ctx, t, big, n)
	pass(ctx, time.Second)
	wait := w.ask(ctx, t, small)
	show(t, row{"queued", n}, row{"small waited", wait},
		row{"for 50,000", wait * time.Duration(50_000) / time.Duration(n)})
}

// TestLookAhead is the worker as it is built.
func TestLookAhead(t *testing.T) {
	ctx := patient(t)
	w := newWorld(ctx, t, 1)
	w.startWorker(ctx, t, slots, true)
	before, empty := w.tally(t), w.brokers.usage(t)
	w.publish(ctx, t, big, *queuedFlag)
	pass(ctx, time.Second)
	asked := w.brokers.usage(t)
	wait := w.ask(ctx, t, small)
	told := w.tally(t)
	during := told.since(before)
	used := w.brokers.usage(t)
	second := w.ask(ctx, t, "another")
	show(t, row{"queued", *queuedFlag}, row{"small waited", wait}, row{"another, afterwards, waited", second},
		row{"big meanwhile", told.rate(before, during.created)}, row{"naks", during.naks}, row{"ledger writes", during.stores},
		row{"ledger reads", during.loads}, row{"broker, cores", used.cores(asked)}, row{"broker, before", empty.memory()}, row{"broker, after", used.memory()})
	w.watch(ctx, t)
}
