//go:build soak

package soak

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

const outageWorkers = 2

// outageSettings are the product's own paces, but for the longest waits, which would only make the
// test longer: the worker must not flood a target however short they are.
var outageSettings = []string{
	"FLOW_TIMEOUT=5s", "WORKER_SETTLE=3s", "WORKER_ACK_WAIT=5s", "WORKER_RETRY_DELAY_MAX=2s", "WORKER_RETRY_ELAPSED=20s",
	"WORKER_REDELIVERY_DELAY_MAX=10s", "WORKER_SHUTDOWN_TIMEOUT=20s", "VAULT_CACHE_TTL=0s",
}

// A target that is down is left alone, and no request suffers from it.
func TestOutage(t *testing.T) {
	t.Parallel()
	down := func(op flowtest.Operation) func(*world) func() {
		return func(w *world) func() {
			end := w.flow.AddFault(flowtest.Fault{Operation: op, Effect: flowtest.EffectStatus, Status: http.StatusServiceUnavailable})
			return func() {
				w.struck += w.striking()
				end()
			}
		}
	}
	for _, tc := range []struct {
		name   string
		begin  func(*world) (end func())
		saw    func(*world) *meter
		spared string // a tenant that may go on
	}{
		{"flow", down(flowtest.OpAny), func(w *world) *meter { return w.flowSaw }, ""},
		{"ims", down(flowtest.OpToken), func(w *world) *meter { return w.flowSaw }, staticTenant},
		{"vault", func(w *world) func() { w.vault.Seal(); return w.vault.Unseal }, func(w *world) *meter { return w.vaultSaw }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), *outageFlag+*patienceFlag+2*time.Minute)
			defer cancel()
			w := newWorld(ctx, t, newSeed(t), 1, outageSettings...)
			w.setFaults()
			w.startWorkers(ctx, outageWorkers)
			w.outage(ctx, tc.begin, tc.saw(w), tc.spared)
		})
	}
}

// outage begins an outage, fills the queue, and measures what saw sees, until all is well again.
func (w *world) outage(ctx context.Context, begin func(*world) func(), saw *meter, spared string) {
	w.t.Helper()
	end := begin(w)
	asks := newAsks(newRand(w.seed, 1), share(1000), askMix{})
	began := time.Now()
	if err := w.publish(ctx, asks, 0); err != nil {
		w.fail(err)
	}
	if err := wait(ctx, time.Until(began.Add(*outageFlag))); err != nil {
		w.fail(err)
	}
	over := time.Now()
	early := slices.DeleteFunc(w.told.told(asks), func(a *ask) bool { return a.key.Tenant == spared })
	waiting := len(w.told.missing(asks))
	end()
	err := w.clear(ctx, asks)
	cleared := time.Since(over)
	const opening = 5 * time.Second // in which the breaker may still be learning
	rates := saw.rates(began.Add(opening), over)
	mean, most := meanAndMax(rates)
	w.conclude(ctx, asks,
		row{"outage", over.Sub(began).Round(time.Second / 10)},
		row{"requests waiting at its end", waiting},
		row{"seen per second in its first seconds", saw.rates(began, began.Add(opening))},
		row{"seen per second after these", fmt.Sprintf("mean %.1f, max %d", mean, most)},
		row{"time to clear afterwards", cleared.Round(time.Second / 10)},
		row{"seen per second while clearing", saw.rates(over, over.Add(cleared))})
	if err != nil {
		w.fail(err)
	}
	if len(early) > 0 {
		w.t.Errorf("seed %d: %d of %d requests ended during the outage, such as %s", w.seed, len(early), len(asks), early[0].key)
	}
	if limit := 5.0 * outageWorkers; mean >= limit {
		w.t.Errorf("seed %d: %.1f calls a second in the outage, want less than %.0f; per second: %d", w.seed, mean, limit, rates)
	}
}

func meanAndMax(rates []int) (mean float64, most int) {
	if len(rates) == 0 {
		return 0, 0
	}
	sum := 0
	for _, n := range rates {
		sum += n
	}
	return float64(sum) / float64(len(rates)), slices.Max(rates)
}
