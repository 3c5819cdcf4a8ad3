//go:build soak

package soak

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

var (
	requestsFlag = flag.Int("soak.requests", 500, "requests of TestFleetSurvives; the other tests take their share of it")
	durationFlag = flag.Duration("soak.duration", 25*time.Second, "how long TestFleetSurvives and TestClusterLosesItsLeader disturb")
	outageFlag   = flag.Duration("soak.outage", 15*time.Second, "how long each outage of TestOutage lasts")
	patienceFlag = flag.Duration("soak.patience", 4*time.Minute, "how long everything may take to be told after the last disturbance")
	seedFlag     = flag.Int64("soak.seed", 0, "seed of requests, faults and disturbances; 0 picks one")
	raceFlag     = flag.Bool("soak.race", true, "build the worker with the race detector")
)

// binDir holds the binaries while the tests run.
var binDir string

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if binDir, err = os.MkdirTemp("", "soak-bin-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // this is the test binary's main
	}
	code := m.Run()
	_ = os.RemoveAll(binDir)
	os.Exit(code) //nolint:forbidigo // this is the test binary's main
}

// The programs under test, built once: from this module, so that go.mod says which NATS server.
var (
	workerBinary = sync.OnceValues(func() (string, error) {
		args := []string{"./../../cmd/worker"}
		if *raceFlag {
			args = append([]string{"-race"}, args...)
		}
		return build("worker", args...)
	})
	natsBinary = sync.OnceValues(func() (string, error) { return build("nats-server", "github.com/nats-io/nats-server/v2") })
)

func build(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	path := filepath.Join(binDir, name)
	out, err := exec.CommandContext(ctx, "go", append([]string{"build", "-o", path}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build %q: %w\n%s", args, err, out)
	}
	return path, nil
}

func mustBuild(t *testing.T, binary func() (string, error)) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// newSeed returns the seed of one test, and prints it.
func newSeed(t *testing.T) int64 {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Int64()
	}
	t.Logf("seed: repeat with -soak.seed %d", seed)
	return seed
}

func newRand(seed int64, stream uint64) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(seed), stream))
}

// share returns n for -soak.requests=2000, and as much less as that is less; at least 20.
func share(n int) int { return max(20, n**requestsFlag/2000) }

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// poll asks cond until it holds or ctx ends. It is for what sends no event.
func poll(ctx context.Context, what string, cond func() bool) error {
	for !cond() {
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}
