//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// figures is what one run of a contender has shown.
type figures struct {
	rate    float64 // requests per second, from the arrival of the first POST until the last result was stored
	cpu     float64 // ms of the contender for each request, user and system, in the same time
	peak    float64 // MiB, the most since the contender's start
	busy    float64 // the share of the slots with a POST under way, from the first arrival to the last answer
	most    float64 // POSTs under way at the same time
	gap     float64 // s, the longest between the arrivals of two POSTs
	samples []sample
}

// sample is what was seen at one moment of a run.
type sample struct {
	at       time.Duration // since the first POST
	results  int
	resident float64 // MiB
}

// How often a run is looked at, and how long it may stand still.
const (
	pollEvery   = 20 * time.Millisecond
	sampleEvery = 250 * time.Millisecond
	stuckAfter  = 90 * time.Second
)

// errSpoiled means that the worker looked something up: a connection broke, its POST's outcome was unknown, and
// waiting until that is settled takes minutes, which says nothing about speed.
var errSpoiled = errors.New("the worker looked for a connection, so a POST was not answered")

// measure runs a contender over a load that is queued when it starts, again where a run is spoiled.
func (b *bench) measure(ctx context.Context, c contender, l load) (f figures) {
	for try := 1; ; try++ {
		err := attempt(func() {
			w := b.newWorld(ctx, l)
			defer w.close()
			w.preload()
			f = b.finish(w, c)
		})
		if !errors.Is(err, errSpoiled) || try == 3 {
			check(err)
			return f
		}
		b.remark("%s: %v; the run was made again", c.name, err)
	}
}

// finish starts the contender and waits until all that is queued has its result.
func (b *bench) finish(w *world, c contender) (f figures) {
	w.start(c)
	began := w.traffic(1).First
	before := used(w.contender)
	if c.worker {
		defer b.profile(w)()
	}
	var last time.Time
	f.samples, last = w.awaitResults(began)
	after, seen := used(w.contender), w.traffic(0)
	n := float64(w.load.requests)
	f.rate = n / last.Sub(seen.First).Seconds()
	f.cpu = (after.cpu - before.cpu).Seconds() * 1000 / n
	f.peak = after.peak
	f.busy = seen.Busy.Seconds() / seen.Last.Sub(seen.First).Seconds() / float64(w.load.slots*max(1, w.load.workers))
	f.most, f.gap = float64(seen.MaxInFlight), seen.Gap.Seconds()
	if seen.Posts != w.load.requests || seen.Duplicates > 0 {
		b.remark("%s, %v: %d POSTs, %d of them for a connection that was there", c.name, w.load, seen.Posts, seen.Duplicates)
	}
	b.progress("%s, %v: %.0f/s, %.2f ms CPU, %.0f MiB, %.2f of the slots, longest gap %.2f s", c.name, w.load, f.rate, f.cpu, f.peak, f.busy, f.gap)
	return f
}

// awaitResults waits until all results are there and returns when the last one was stored.
func (w *world) awaitResults(began time.Time) (samples []sample, last time.Time) {
	var next time.Duration
	var before int
	changed := time.Now()
	for {
		n, last := w.results()
		if n > before {
			before, changed = n, time.Now()
		} else if time.Since(changed) > stuckAfter {
			seen := w.traffic(0)
			check(fmt.Errorf("no result came for %v; %d of %d are there, after %d POSTs, %d of them under way, and %d calls of other kinds; %w",
				stuckAfter, n, w.load.requests, seen.Posts, seen.InFlight, seen.Others, w.contender[0].failure()))
		}
		if at := time.Since(began); at >= next || n >= w.load.requests {
			next = at + sampleEvery
			if w.traffic(0).Others > 0 {
				check(errSpoiled)
			}
			samples = append(samples, sample{at, n, used(w.contender).resident})
		}
		if n >= w.load.requests {
			return samples, last
		}
		pause(w.ctx, pollEvery)
	}
}

// profileFor is how long a CPU profile runs, in seconds.
const profileFor = 8

// profile begins to take a CPU profile of the worker, where profiles are asked for. The function that it returns
// waits for that, takes one of allocations, and stores both.
func (b *bench) profile(w *world) (finish func()) {
	if !b.profiles || len(w.contender) != 1 {
		return func() {}
	}
	name := filepath.Join(b.folder, strings.NewReplacer(" ", "-", ",", "", "/", "").Replace(w.load.String()))
	keep := func(kind, path string) {
		err := attempt(func() {
			check(os.WriteFile(name+"-"+kind+".pprof", w.get("http://"+w.status+"/debug/pprof/"+path), 0o644))
		})
		if err != nil {
			b.progress("no profile: %v", err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		keep("cpu", fmt.Sprintf("profile?seconds=%d", profileFor))
	}()
	return func() {
		<-done
		keep("allocs", "allocs")
	}
}

// outcome is what the runs of one contender over one load have shown, one after the other.
type outcome struct {
	contender contender
	load      load
	runs      []figures
}

// compare runs contenders over a load, as many rounds as the bench is to make, each time in another order, so that
// whatever the machine does meanwhile is done to all. It returns their outcomes in the order of the contenders.
func (b *bench) compare(ctx context.Context, l load, contenders ...contender) []outcome {
	outcomes := make([]outcome, len(contenders))
	for round := range b.rounds {
		for i := range contenders {
			i = (i + round) % len(contenders)
			o := &outcomes[i]
			o.contender, o.load, o.runs = contenders[i], l, append(o.runs, b.measure(ctx, contenders[i], l))
		}
	}
	b.outcomes = append(b.outcomes, outcomes...)
	return outcomes
}

// values returns one figure of all runs.
func (o outcome) values(of func(figures) float64) (out []float64) {
	for _, f := range o.runs {
		out = append(out, of(f))
	}
	return out
}

// ratios divides a figure of each run by that of the same round of another contender.
func (o outcome) ratios(by outcome, of func(figures) float64) (out []float64) {
	for i := range o.runs {
		out = append(out, of(o.runs[i])/of(by.runs[i]))
	}
	return out
}

func rate(f figures) float64 { return f.rate }
func cpu(f figures) float64  { return f.cpu }
func peak(f figures) float64 { return f.peak }
func busy(f figures) float64 { return f.busy }
func most(f figures) float64 { return f.most }
func gap(f figures) float64  { return f.gap }

func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile returns the smallest value that q of all values do not exceed; of two in the middle, their mean; of
// nothing, NaN.
func quantile(values []float64, q float64) float64 {
	n := len(values)
	if n == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	if q == 0.5 && n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[max(0, int(math.Ceil(q*float64(n)))-1)]
}
