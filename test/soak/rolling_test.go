//go:build soak

package soak

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

// Each of three workers is ended by SIGTERM in turn, and another one started, while requests flow.
func TestRollingUpdate(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	ctx, cancel := context.WithTimeout(t.Context(), *patienceFlag+2*time.Minute)
	defer cancel()
	w := newWorld(ctx, t, seed, 1, "FLOW_TIMEOUT=30s", "WORKER_SHUTDOWN_TIMEOUT=60s", "WORKER_ACK_WAIT=10s", "WORKER_RETRY_DELAY_MAX=2s")
	w.setFaults(
		flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectLatency, Delay: 200 * time.Millisecond},
		flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectLatency, Delay: time.Second, When: flowtest.StageAfter, Probability: 0.3},
	)
	w.startWorkers(ctx, 3)
	asks := newAsks(newRand(seed, 1), share(500), askMix{})
	var publishing sync.WaitGroup
	var failed error
	publishing.Go(func() { failed = w.publish(ctx, asks, 12*time.Second) })
	before := w.fleet.workers()
	busy := 0
	for i, p := range before {
		due := (i + 1) * len(asks) / (len(before) + 2)
		if err := w.flow.Wait(ctx, func(e *flowtest.Emulator) bool { return e.Count(flowtest.OpCreate) >= due }); err != nil {
			w.fail(err)
		}
		busy += w.flow.Count(flowtest.OpCreate) - len(w.told.told(asks))
		if code := p.end(ctx); code != 0 {
			t.Errorf("%s: exit code %d after SIGTERM:\n%s", p.name, code, p.log.tail(30))
		}
		w.fleet.remove(p)
		if err := w.fleet.add(ctx); err != nil {
			w.fail(err)
		}
	}
	publishing.Wait()
	if failed != nil {
		w.fail(failed)
	}
	err := w.clear(ctx, asks)
	var again []string
	for _, a := range asks {
		if own, _ := w.told.outcomes(a.key); len(own) == 1 && (own[0].Attempts != 1 || own[0].Adopted) {
			again = append(again, fmt.Sprintf("%s took %d POSTs, adopted %v", a.key, own[0].Attempts, own[0].Adopted))
		}
	}
	w.conclude(ctx, asks, row{"workers replaced", len(before)}, row{"POSTs under way at a SIGTERM", busy},
		row{"POSTs cut by a worker", w.flowSaw.cut()}, row{"requests processed twice", len(again)})
	if err != nil {
		w.fail(err)
	}
	if posts := w.flow.Count(flowtest.OpCreate); posts != len(asks) || w.flowSaw.cut() != 0 {
		t.Errorf("seed %d: %d POSTs for %d requests, %d of them cut", seed, posts, len(asks), w.flowSaw.cut())
	}
	if len(again) > 0 {
		t.Errorf("seed %d: %d requests were processed twice:\n\t%s", seed, len(again), strings.Join(again[:min(len(again), 10)], "\n\t"))
	}
	if busy == 0 {
		t.Errorf("seed %d: no POST was under way when a worker was asked to end", seed)
	}
}
