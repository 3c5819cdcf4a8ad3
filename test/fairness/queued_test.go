//go:build soak && linux

package fairness

import (
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/consumer"
)

// TestInOrder is one consumer, in order: what is asked last waits for all before it.
func TestInOrder(t *testing.T) {
	ctx := patient(t)
	w := newWorld(ctx, t, 1)
	w.startWorker(ctx, t, without{ahead: true})
	const n = 1000 // the wait is in proportion
	before := w.tally(t)
	w.publish(ctx, t, big, n)
	pass(ctx, time.Second)
	wait := w.ask(ctx, t, small, *patienceFlag)
	after := w.tally(t)
	show(t, row{"queued", n}, row{"small waited", wait}, row{"for 50,000", wait * time.Duration(50_000) / n},
		row{"created", after.rate(before, after.since(before).created)}, row{"ledger writes", after.since(before).stores})
}

// TestReadAhead is the worker as it is built.
func TestReadAhead(t *testing.T) {
	ctx := patient(t)
	w := newWorld(ctx, t, 1)
	empty := w.brokers.usage(t)
	_, err := consumer.EnsureObjects(ctx, w.js, consumer.ObjectsConfig{Manage: true})
	must(t, err)
	w.publish(ctx, t, big, *queuedFlag)
	full := w.brokers.usage(t)
	before := w.tally(t)
	w.startWorker(ctx, t, without{})
	pass(ctx, time.Second)
	asked := w.brokers.usage(t)
	wait := w.ask(ctx, t, small, max(10*time.Second, time.Duration(*queuedFlag)*time.Millisecond))
	told := w.tally(t)
	during := told.since(before)
	used := w.brokers.usage(t)
	second := w.ask(ctx, t, "another", 10*time.Second)
	show(t, row{"queued", *queuedFlag}, row{"small waited", wait}, row{"another, afterwards, waited", second},
		row{"big meanwhile", told.rate(before, during.created)}, row{"naks", during.naks}, row{"ledger writes", during.stores},
		row{"ledger reads", during.loads}, row{"broker, cores", used.cores(asked)}, row{"broker, empty", empty.memory()},
		row{"broker, all queued", full.memory()}, row{"broker, afterwards", used.memory()})
	w.watch(ctx, t)
}
