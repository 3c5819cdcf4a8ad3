//go:build soak

package soak

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

// lossy returns faults that fail three creates in ten, half of these after the connection was made,
// every sixth look-up, and let lists lag up to two seconds.
func lossy() []flowtest.Fault {
	const each = 0.0436 // of eight in a row: 1 − (1 − each)⁸ = 0.3
	create := func(e flowtest.Effect, when flowtest.Stage, status int, body flowtest.BodyKind) flowtest.Fault {
		return flowtest.Fault{Operation: flowtest.OpCreate, Effect: e, When: when, Status: status, Body: body, Probability: each}
	}
	list := func(e flowtest.Effect, when flowtest.Stage, status int, body flowtest.BodyKind) flowtest.Fault {
		return flowtest.Fault{Operation: flowtest.OpList, Effect: e, When: when, Status: status, Body: body, Probability: 0.055}
	}
	return []flowtest.Fault{
		{Operation: flowtest.OpCreate, Effect: flowtest.EffectListLag, Delay: 500 * time.Millisecond},
		{Operation: flowtest.OpCreate, Effect: flowtest.EffectListLag, Delay: 2 * time.Second, Probability: 0.5},
		create(flowtest.EffectReset, flowtest.StageBefore, 0, ""),
		create(flowtest.EffectReset, flowtest.StageAfter, 0, ""),
		create(flowtest.EffectStatus, flowtest.StageBefore, http.StatusServiceUnavailable, ""),
		create(flowtest.EffectStatus, flowtest.StageAfter, http.StatusInternalServerError, ""),
		create(flowtest.EffectHang, flowtest.StageBefore, 0, ""),
		create(flowtest.EffectHang, flowtest.StageAfter, 0, ""),
		create(flowtest.EffectStatus, flowtest.StageBefore, http.StatusBadGateway, flowtest.BodyHTML),
		create(flowtest.EffectStatus, flowtest.StageAfter, http.StatusCreated, flowtest.BodyGarbage),
		{Operation: flowtest.OpCreate, Effect: flowtest.EffectStatus, Status: http.StatusTooManyRequests, RetryAfter: time.Second, Probability: 0.02},
		list(flowtest.EffectReset, flowtest.StageBefore, 0, ""),
		list(flowtest.EffectStatus, flowtest.StageBefore, http.StatusInternalServerError, ""),
		list(flowtest.EffectStatus, flowtest.StageAfter, http.StatusOK, flowtest.BodyGarbage),
		{Operation: flowtest.OpToken, Effect: flowtest.EffectStatus, Status: http.StatusServiceUnavailable, Probability: 0.1},
	}
}

// quick are settings under which leases, waits and redeliveries take seconds.
var quick = []string{
	"FLOW_TIMEOUT=3s", "WORKER_SETTLE=4s", "WORKER_ACK_WAIT=3s", "WORKER_RETRY_INITIAL=50ms", "WORKER_RETRY_DELAY_MAX=1s",
	"WORKER_RETRY_ELAPSED=5s", "WORKER_REDELIVERY_DELAY_MAX=5s", "WORKER_SHUTDOWN_TIMEOUT=20s", "VAULT_CACHE_TTL=2s", "WORKER_SECRET_GRACE=1s",
}

// disturb does everything bad until d is over, and then leaves all well.
func (w *world) disturb(ctx context.Context, d time.Duration) {
	w.setFaults(lossy()...)
	ctx, cancel := context.WithTimeout(ctx, d)
	var all sync.WaitGroup
	for i, f := range []func(context.Context, *rand.Rand, time.Duration){w.killWorkers, w.freezeWorkers, w.restartBroker, w.sealVault} {
		all.Go(func() { f(ctx, newRand(w.seed, uint64(10+i)), d) })
	}
	all.Wait()
	cancel()
	w.setFaults()
}

// killWorkers kills a random worker every second or so.
func (w *world) killWorkers(ctx context.Context, rng *rand.Rand, _ time.Duration) {
	for wait(ctx, time.Duration(800+rng.IntN(400))*time.Millisecond) == nil {
		if p := w.fleet.pick(rng); p != nil {
			if err := w.fleet.replace(p); err != nil {
				w.t.Errorf("a worker can't be replaced: %v", err)
			}
		}
	}
}

// freezeWorkers freezes one worker after the other past its lease: the first time so long that others
// have taken over and posted again, then for a shorter time.
func (w *world) freezeWorkers(ctx context.Context, rng *rand.Rand, d time.Duration) {
	defer w.fleet.thaw()
	for n := 0; wait(ctx, time.Duration(1+rng.IntN(3))*time.Second) == nil; n++ {
		p := w.fleet.pick(rng)
		if p == nil {
			continue
		}
		w.fleet.freeze(p)
		length := time.Duration(3500+rng.IntN(3000)) * time.Millisecond
		if n%3 == 0 {
			length = min(21*time.Second, d*4/5)
		}
		_ = wait(ctx, length)
		w.fleet.thaw()
	}
}

// restartBroker restarts the first broker three times, once by kill -9.
func (w *world) restartBroker(ctx context.Context, rng *rand.Rand, d time.Duration) {
	signals := []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM, syscall.SIGKILL}
	rng.Shuffle(len(signals), func(i, j int) { signals[i], signals[j] = signals[j], signals[i] })
	for _, sig := range signals {
		if wait(ctx, d/8+time.Duration(rng.Int64N(int64(d/8)))) != nil {
			return
		}
		if err := w.brokers[0].restart(context.WithoutCancel(ctx), sig); err != nil {
			w.t.Errorf("the broker does not come back: %v", err)
		}
	}
}

// sealVault seals Vault twice for a few seconds.
func (w *world) sealVault(ctx context.Context, rng *rand.Rand, d time.Duration) {
	for range 2 {
		if wait(ctx, d/8+time.Duration(rng.Int64N(int64(d/4)))) != nil {
			return
		}
		w.vault.Seal()
		_ = wait(ctx, time.Duration(2000+rng.IntN(2000))*time.Millisecond)
		w.vault.Unseal()
	}
}
