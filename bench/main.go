// Command bench measures the worker beside a baseline: a loop that pulls, POSTs, publishes and acknowledges, and keeps
// no promise. README.md, "How fast it is", says how to run it.
//
// Broker, Flow Service, Vault and contender are processes of their own on loopback addresses; all but the worker and
// --peer commands are this very program in another role. Each run has new ones, with an empty broker. Contenders
// run one after the other, in an order that changes from round to round, and are compared round by round.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

// bench is one call of the command.
type bench struct {
	out      io.Writer // the report
	log      io.Writer // what happens meanwhile
	folder   string    // for report, charts and profiles; empty means none is kept
	tmp      string    // for all that is removed at the end
	binary   string    // of the worker
	peers    []contender
	rounds   int
	patience time.Duration // for one run
	moderate bool          // the largest loads are made smaller
	profiles bool
	given    load // what flags say instead of a scenario's own; zero values say nothing

	outcomes []outcome
	targets  []target
	remarks  []string
	charts   map[string]string // :: file name → SVG
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	played, err := playRole(ctx)
	if !played {
		err = command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	stop()
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// command runs the scenarios that args name.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	b := &bench{out: stdout, log: stderr, charts: map[string]string{}}
	fs := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&b.given.requests, "requests", 0, "requests to queue, instead of the scenario's own number")
	fs.IntVar(&b.given.slots, "slots", 0, "POSTs under way at the same time, likewise")
	fs.IntVar(&b.given.tenants, "tenants", 0, "tenants, likewise")
	fs.IntVar(&b.given.workers, "workers", 0, "processes of each contender, likewise")
	latency := fs.String("latency", "", "of the Flow Service, such as 100ms, likewise")
	fs.IntVar(&b.rounds, "rounds", 3, "runs of each contender")
	fs.StringVar(&b.folder, "out", "", "folder for report, charts and profiles")
	fs.StringVar(&b.binary, "worker", "", "binary of the worker to measure; by default it is built")
	peers := fs.StringArray("peer", nil, "a shell command that does the baseline's work, to be measured too; what it finds in its environment is in bench/baseline.go")
	fs.BoolVar(&b.profiles, "profile", false, "keep CPU and allocation profiles of the worker, which cost some of its speed")
	fs.DurationVar(&b.patience, "patience", 10*time.Minute, "longest time for one run")
	fs.Usage = func() {
		fmt.Fprintf(stderr, "Usage: go run ./bench [flags] SCENARIO...\n\n%s\n%s", about(), fs.FlagUsages())
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *latency != "" {
		d, err := time.ParseDuration(*latency)
		if err != nil || d < 0 {
			return fmt.Errorf("--latency is %q; want a duration such as 100ms", *latency)
		}
		b.given.latency = cmp.Or(d, zeroLatency)
	}
	for i, shell := range *peers {
		b.peers = append(b.peers, contender{name: fmt.Sprintf("peer %d", i+1), shell: shell})
	}
	if b.rounds < 1 || fs.NArg() == 0 {
		fs.Usage()
		return errors.New("it takes a scenario, and at least one round")
	}
	return b.runAll(ctx, fs.Args())
}

// zeroLatency is the flag's "0s", which is no zero value.
const zeroLatency = time.Nanosecond

// runAll runs scenarios and prints the report, also of what was measured before an error.
func (b *bench) runAll(ctx context.Context, names []string) (err error) {
	todo, err := chosen(names)
	if err != nil {
		return err
	}
	b.moderate = len(names) == 1 && names[0] == "all"
	if b.tmp, err = os.MkdirTemp("", "flow-worker-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.tmp) //nolint:errcheck // what is left is in the system's folder for such things
	if b.binary, err = b.worker(ctx); err != nil {
		return err
	}
	for _, s := range todo {
		b.progress("scenario %s", s.name)
		if err = s.run(b, ctx); err != nil {
			err = fmt.Errorf("%s: %w", s.name, err)
			break
		}
	}
	return errors.Join(err, b.report())
}

// worker returns the path of the worker's binary, which it builds unless there is one.
func (b *bench) worker(ctx context.Context) (string, error) {
	if b.binary != "" {
		return filepath.Abs(b.binary)
	}
	path := filepath.Join(b.tmp, "worker")
	return path, run(ctx, nil, "go", "build", "-o", path, "github.com/flow-worker/flow-worker/cmd/worker")
}

// progress says what happens.
func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(b.log, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// remark notes for the report what should not have happened.
func (b *bench) remark(format string, args ...any) {
	b.remarks = append(b.remarks, fmt.Sprintf(format, args...))
	b.progress(format, args...)
}

// replaced returns texts with one part replaced by another.
func replaced(texts []string, part, by string) (out []string) {
	for _, t := range texts {
		out = append(out, strings.ReplaceAll(t, part, by))
	}
	return out
}
