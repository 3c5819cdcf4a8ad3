//go:build soak

package soak

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

// versionBefore is the commit before the hub became one function that decides and one loop that acts.
const versionBefore = "c7fedf6"

// olderBinary is the worker of versionBefore; "" where the repository's history doesn't have it.
var olderBinary = sync.OnceValues(func() (string, error) {
	if exec.Command("git", "cat-file", "-e", versionBefore+"^{commit}").Run() != nil {
		return "", nil
	}
	dir := filepath.Join(binDir, "before")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tree := filepath.Join(dir, "tree.tar")
	for _, args := range [][]string{{"git", "-C", "../..", "archive", "--output=" + tree, versionBefore}, {"tar", "-x", "-C", dir, "-f", tree}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%q: %w\n%s", args, err, out)
		}
	}
	path := filepath.Join(binDir, "worker-before")
	compile := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./cmd/worker")
	compile.Dir = dir
	if out, err := compile.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build of %s: %w\n%s", versionBefore, err, out)
	}
	return path, nil
})

// TestUpdateFromTheVersionBefore lets workers of two versions work on the same requests, under faults, kills and
// freezes, while the older ones are replaced, and some of the newer ones by older ones again.
func TestUpdateFromTheVersionBefore(t *testing.T) {
	t.Parallel()
	older := mustBuild(t, olderBinary)
	if older == "" {
		t.Skip("the history of this clone has no commit " + versionBefore)
	}
	seed := newSeed(t)
	ctx, cancel := context.WithTimeout(t.Context(), *durationFlag+*patienceFlag+2*time.Minute)
	defer cancel()
	w := newWorld(ctx, t, seed, 1, quick...)
	var updated atomic.Bool
	w.fleet.which = func(n int) string {
		if n <= 3 || n%2 == 0 && !updated.Load() {
			return older
		}
		return w.fleet.binary
	}
	w.startWorkers(ctx, 3)

	asks := newAsks(newRand(seed, 1), share(600), askMix{})
	third := len(asks) / 3
	publish := func(some []*ask, over time.Duration) {
		if err := w.publish(ctx, some, over); err != nil {
			w.fail(err)
		}
	}
	publish(asks[:third], time.Second)
	if err := w.told.await(ctx, func() bool { return len(w.told.missing(asks[:third])) < third/2 }); err != nil {
		w.fail(err)
	}
	byOlder := third - len(w.told.missing(asks[:third]))

	w.setFaults(lossy()...) // both versions, in turn: whoever is killed is followed by one of the other
	mixed, stop := context.WithTimeout(ctx, *durationFlag)
	var all sync.WaitGroup
	all.Go(func() { w.killWorkers(mixed, newRand(seed, 10), *durationFlag) })
	all.Go(func() { w.freezeWorkers(mixed, newRand(seed, 11), *durationFlag) })
	publish(asks[third:2*third], *durationFlag)
	all.Wait()
	stop()
	w.setFaults(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectLatency, Delay: 100 * time.Millisecond})

	updated.Store(true)
	for _, p := range w.fleet.workers() {
		if code := p.end(ctx); code != 0 {
			t.Errorf("%s: exit code %d after SIGTERM:\n%s", p.name, code, p.log.tail(30))
		}
		w.fleet.remove(p)
		if err := w.fleet.add(ctx); err != nil {
			w.fail(err)
		}
	}
	publish(asks[2*third:], time.Second)
	err := w.clear(ctx, asks)
	w.conclude(ctx, asks, row{"told while all were older", byOlder}, row{"workers started", w.fleet.started}, row{"kills", w.fleet.kills}, row{"freezes", w.fleet.freezes})
	if err != nil {
		w.fail(err)
	}
	if byOlder == 0 || w.fleet.kills < 2 {
		t.Errorf("seed %d: %d outcomes by the version before, %d kills", seed, byOlder, w.fleet.kills)
	}
}
