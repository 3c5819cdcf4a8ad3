//go:build soak && linux

package fairness

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

var (
	queuedFlag   = flag.Int("fairness.queued", 5000, "requests that the big tenant has queued")
	watchFlag    = flag.Duration("fairness.watch", 2*time.Second, "how long rates are watched")
	patienceFlag = flag.Duration("fairness.patience", 15*time.Minute, "how long one test may wait")
)

// binDir holds the NATS server while the tests run.
var binDir string

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if binDir, err = os.MkdirTemp("", "fairness-bin-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // this is the test binary's main
	}
	code := m.Run()
	_ = os.RemoveAll(binDir)
	os.Exit(code) //nolint:forbidigo // this is the test binary's main
}

// natsBinary is the server that go.mod names.
var natsBinary = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	path := filepath.Join(binDir, "nats-server")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// patient lets others run beside the test, unless -parallel 1 is given, and bounds its waits.
func patient(t *testing.T) context.Context {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), *patienceFlag)
	t.Cleanup(cancel)
	return ctx
}

// pass waits for d, which a measurement takes, or until ctx ends.
func pass(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// poll asks cond until it holds. It is for what sends no event.
func poll(ctx context.Context, t *testing.T, what string, cond func() bool) {
	t.Helper()
	for !cond() {
		if pass(ctx, 20*time.Millisecond); ctx.Err() != nil {
			t.Fatalf("%s: %v", what, context.Cause(ctx))
		}
	}
}

// row is a line of a table of figures.
type row struct {
	name  string
	value any
}

func show(t *testing.T, rows ...row) {
	t.Helper()
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		if d, ok := r.value.(time.Duration); ok {
			r.value = d.Round(100 * time.Microsecond)
		}
		fmt.Fprintf(tw, "  %s\t%v\n", r.name, r.value)
	}
	_ = tw.Flush() // a Builder takes everything
	t.Logf("%s:\n%s", t.Name(), b.String())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
