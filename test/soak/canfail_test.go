//go:build soak

package soak

import (
	"context"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/ledger"
)

// The sums see duplicates: without a ledger, while answers are lost and lists lag, there must be some.
// No setting switches the ledger off, so it is emptied from outside all the time.
func TestSoakCanFail(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	ctx, cancel := context.WithTimeout(t.Context(), *patienceFlag)
	defer cancel()
	w := newWorld(ctx, t, seed, 1, append(quick, "WORKER_RETRY_DELAY_MAX=200ms")...)
	w.setFaults(
		flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectListLag, Delay: 2 * time.Second},
		flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectReset, When: flowtest.StageAfter, Probability: 0.5},
	)
	w.startWorkers(ctx, 2)
	forgetful, stop := context.WithCancel(ctx)
	forgotten := make(chan int)
	go func() { forgotten <- w.emptyLedger(forgetful) }()
	asks := newAsks(newRand(seed, 1), 40, askMix{})
	if err := w.publish(ctx, asks, time.Second); err != nil {
		w.fail(err)
	}
	twice := func(e *flowtest.Emulator) bool {
		for _, ids := range e.Marks() {
			if len(ids) > 1 {
				return true
			}
		}
		return false
	}
	if err := w.flow.Wait(ctx, twice); err != nil {
		w.fail(err)
	}
	stop()
	purges := <-forgotten
	w.setFaults()
	if err := w.clear(ctx, asks); err != nil {
		w.fail(err)
	}
	w.fleet.endAll(ctx)
	s := w.sum(asks)
	t.Logf("%s, seed %d:\n%s", t.Name(), seed, s.table(w, asks, row{"times the ledger was emptied", purges}))
	if len(s.duplicates) == 0 || len(s.orphans) == 0 {
		t.Errorf("seed %d: the sums see %d duplicates and %d orphans, want some of each", seed, len(s.duplicates), len(s.orphans))
	}
}

// emptyLedger forgets every record, over and over, until ctx ends. It returns how often.
func (w *world) emptyLedger(ctx context.Context) (times int) {
	for wait(ctx, 20*time.Millisecond) == nil {
		bucket, err := w.js.Stream(ctx, "KV_"+ledger.DefaultBucket)
		if err == nil {
			err = bucket.Purge(ctx)
		}
		if err == nil {
			times++
		} else if ctx.Err() == nil {
			w.t.Errorf("the ledger can't be emptied: %v", err)
			return times
		}
	}
	return times
}
