//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The bench starts itself in its roles, so this test binary has to be able to play them too.
func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	if played, err := playRole(ctx); played {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		stop()
		return
	}
	os.Exit(m.Run())
}

// runBench runs the command and returns its report.
func runBench(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, log bytes.Buffer
	err := command(t.Context(), args, &out, &log)
	t.Logf("%s%s", log.Bytes(), out.Bytes())
	return out.String(), err
}

// A few requests through every kind of contender, over both versions of HTTP. It says nothing about speed.
func TestSmoke(t *testing.T) {
	worker, folder := filepath.Join(t.TempDir(), "worker"), filepath.Join(t.TempDir(), "out")
	if text, err := exec.CommandContext(t.Context(), "go", "build", "-o", worker, "../cmd/worker").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	args := []string{"--worker", worker, "--rounds", "1", "--requests", "20", "--slots", "4", "--latency", "2ms"}
	peer := roleVariable + "=baseline exec " + os.Args[0]
	report, err := runBench(t, append(args, "--out", folder, "--peer", peer, "throughput", "wide")...)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		"| 2ms, 4 slots, 20 queued by 3 tenants | requests per second, of the baseline's | ≥ 0.6 | ",
		"| 2ms, 4 slots, 20 queued by 3 tenants | worker | ",
		"| 2ms, 4 slots, 20 queued by 3 tenants | baseline with two ledger writes | ",
		"| 2ms, 4 slots, 20 queued by 3 tenants | peer 1 | ",
		"| 2ms, 4 slots, 20 queued by 3 tenants, HTTP/2 | worker | ",
	} {
		if !strings.Contains(report, part) {
			t.Errorf("the report doesn't hold %q", part)
		}
	}
	if strings.Contains(report, "NaN") || strings.Contains(report, "Not as it should be") {
		t.Error("the report holds figures that are none, or the number of POSTs is wrong")
	}
	if kept, err := os.ReadFile(filepath.Join(folder, "report.md")); err != nil || string(kept) != report {
		t.Errorf("the report in the folder is another: %v", err)
	}
	if report, err = runBench(t, append(args, "behind", "tenants")...); err != nil || strings.Count(report, "wait of a single") != 2 {
		t.Errorf("%v", err)
	}

	// A worker that ends also ends the run, and what it said is in the error.
	fragile := worker + ".sh"
	if err := os.WriteFile(fragile, []byte("#!/bin/sh\n[ $1 = run ] && { echo it cannot go on; exit 1; }\nexec "+worker+" $*\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := runBench(t, "--worker", fragile, "--requests", "1", "stall"); err == nil || !strings.Contains(err.Error(), "it cannot go on") {
		t.Errorf("%v, want what the worker said", err)
	}
}

func TestWrongUse(t *testing.T) {
	for want, args := range map[string][]string{
		`there is no scenario "swim"`: {"swim"},
		"it takes a scenario":         {"--rounds", "2"},
		"--profile needs --out":       {"--profile", "cpu"},
	} {
		if _, err := runBench(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}

func TestUpstreamCounts(t *testing.T) {
	u := &upstream{marks: map[string]struct{}{}}
	for _, body := range []string{"x [flow-worker 0123456789abcdef0123456789abcdef]", "[flow-worker 0123456789abcdef0123456789abcdef]", "no mark", "[flow-worker short"} {
		u.arrive(markOf([]byte(body)))
	}
	u.leave()
	if s := u.seen; s.Posts != 4 || s.Duplicates != 1 || s.InFlight != 3 || s.MaxInFlight != 4 {
		t.Errorf("%+v", s)
	}
}

func TestStatistics(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.5: 2.5, 0.75: 3, 0.99: 4, 1: 4} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %g = %g, want %g", q, got, want)
		}
	}
	if !math.IsNaN(median(nil)) {
		t.Error("nothing has a median")
	}
	var samples []sample
	for i := range 101 {
		samples = append(samples, sample{time.Duration(i) * time.Second, 10 * i, float64(i)})
	}
	if f := tenth(samples, 1000, 9); f.rate != 10 || f.peak != 95 {
		t.Errorf("%+v", f)
	}
}

func TestChartIsXML(t *testing.T) {
	d := xml.NewDecoder(strings.NewReader(chart("T", "x", "y", []curve{{"a", []float64{8, 64}, []float64{0.2, 3000}}, {"b", []float64{8}, []float64{7}}})))
	lines := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "polyline" {
			lines++
		}
	}
	if lines != 2 {
		t.Errorf("%d curves", lines)
	}
}
