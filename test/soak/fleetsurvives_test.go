//go:build soak

package soak

import (
	"context"
	"sync"
	"testing"
	"time"
)

// Three workers, one broker, and everything that can go wrong at once.
func TestFleetSurvives(t *testing.T) {
	t.Parallel()
	seed, d := newSeed(t), *durationFlag
	ctx, cancel := context.WithTimeout(t.Context(), d+*patienceFlag+2*time.Minute)
	defer cancel()
	w := newWorld(ctx, t, seed, 1, quick...)
	w.setFaults()
	w.startWorkers(ctx, 3)
	asks := newAsks(newRand(seed, 1), *requestsFlag, mixed)
	var chaos sync.WaitGroup
	chaos.Go(func() { w.disturb(ctx, d) })
	err := w.publish(ctx, asks, d*3/5)
	chaos.Wait()
	calm := time.Now()
	if err == nil {
		err = w.clear(ctx, asks)
	}
	s := w.conclude(ctx, asks, row{"told while disturbed", len(asks) - w.open(calm, asks)}, row{"time to clear afterwards", time.Since(calm).Round(time.Second / 10)})
	if err != nil {
		w.fail(err)
	}
	if w.fleet.kills == 0 || w.fleet.freezes == 0 || w.brokers[0].starts < 4 || w.struck == 0 || s.outcomes["created"] == 0 {
		t.Errorf("this was no disturbance: %d kills, %d freezes, %d starts of the broker, %d faults",
			w.fleet.kills, w.fleet.freezes, w.brokers[0].starts, w.struck)
	}
}

// clear waits until everything is told and the queue is empty.
func (w *world) clear(ctx context.Context, asks []*ask) error {
	ctx, cancel := context.WithTimeout(ctx, *patienceFlag)
	defer cancel()
	return w.awaitEnd(ctx, asks)
}

// open returns how many requests were not told by then.
func (w *world) open(then time.Time, asks []*ask) int {
	n := 0
	for _, a := range asks {
		if own, _ := w.told.outcomes(a.key); len(own) == 0 || own[0].CompletedAt.After(then) {
			n++
		}
	}
	return n
}
