//go:build linux

// Command bench measures the worker beside a baseline: a loop that pulls, POSTs, publishes and acknowledges, and keeps
// no promise.
//
// Broker, Flow Service, Vault and contender are processes of their own on loopback addresses; all but the worker and
// --peer commands are this very program in another role. Each run has new ones, with an empty broker. Contenders
// run one after the other, in an order that changes from round to round, and are compared round by round.
// CPU time and memory are read from /proc.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

// bench is one call of the command.
type bench struct {
	out      io.Writer // the report
	log      io.Writer // what happens meanwhile
	folder   string    // for report, charts and profiles; empty means that none is kept
	tmp      string    // for all that is removed at the end
	binary   string    // of the worker
	peers    []contender
	rounds   int
	patience time.Duration // for one run
	moderate bool          // the largest loads are made smaller
	profiles bool
	given    load          // what flags say instead of a scenario's own; zero values say nothing
	latency  time.Duration // likewise; below zero says nothing

	outcomes []outcome
	targets  []target
	remarks  []string          // what should not have happened
	files    map[string]string // :: name → what goes into the folder at the end
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
	b := &bench{out: stdout, log: stderr, files: map[string]string{}}
	fs := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&b.given.requests, "requests", 0, "requests to queue, instead of the scenario's own number")
	fs.IntVar(&b.given.slots, "slots", 0, "POSTs under way at the same time, likewise")
	fs.IntVar(&b.given.tenants, "tenants", 0, "tenants, likewise")
	fs.IntVar(&b.given.workers, "workers", 0, "processes of each contender, likewise")
	fs.DurationVar(&b.latency, "latency", -1, "time of the Flow Service, likewise")
	fs.Lookup("latency").DefValue = ""
	fs.IntVar(&b.rounds, "rounds", 3, "runs of each contender")
	fs.StringVar(&b.folder, "out", "", "folder for report, charts and profiles")
	fs.StringVar(&b.binary, "worker", "", "binary of the worker to measure; by default it is built")
	peers := fs.StringArray("peer", nil, "shell command that does the baseline's work, to be measured too; bench/baseline.go says what its environment holds")
	fs.BoolVar(&b.profiles, "profile", false, "keep profiles of the worker in the folder; taking them costs some of its speed")
	fs.DurationVar(&b.patience, "patience", 20*time.Minute, "longest time for one run")
	fs.Usage = func() {
		fmt.Fprintf(stderr, "Usage: go run ./bench [flags] SCENARIO...\n\n%s\n%s", about(), fs.FlagUsages())
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	for i, shell := range *peers {
		b.peers = append(b.peers, contender{name: fmt.Sprintf("peer %d", i+1), shell: shell})
	}
	switch {
	case fs.NArg() == 0 || b.rounds < 1:
		fs.Usage()
		return errors.New("it takes a scenario, and at least one round")
	case b.profiles && b.folder == "":
		return errors.New("--profile needs --out, the folder to keep the profiles in")
	}
	return b.run(ctx, fs.Args())
}

// run runs scenarios and prints the report, also of what was measured before a failure.
func (b *bench) run(ctx context.Context, names []string) (err error) {
	todo, err := chosen(names)
	if err != nil {
		return err
	}
	b.moderate = names[0] == "all"
	if b.tmp, err = os.MkdirTemp("", "flow-worker-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.tmp) //nolint:errcheck // what is left is in the system's folder for such things
	err = attempt(func() {
		if b.folder != "" {
			check(os.MkdirAll(b.folder, 0o755))
		}
		b.findWorker(ctx)
		for _, s := range todo {
			b.progress("%s: %s", s.name, s.about)
			s.run(b, ctx)
		}
	})
	return errors.Join(err, b.report())
}

// findWorker builds the worker, unless there is a binary.
func (b *bench) findWorker(ctx context.Context) {
	if b.binary != "" {
		b.binary = must(filepath.Abs(b.binary))
		return
	}
	b.binary = filepath.Join(b.tmp, "worker")
	build := exec.CommandContext(ctx, "go", "build", "-o", b.binary, "github.com/flow-worker/flow-worker/cmd/worker")
	if text, err := build.CombinedOutput(); err != nil {
		check(fmt.Errorf("build the worker: %w\n%s", err, text))
	}
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
