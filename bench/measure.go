package main

import (
	"context"
	"fmt"
	"math"
	"slices"
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

const (
	poll        = 20 * time.Millisecond
	sampleEvery = 250 * time.Millisecond
	mebibyte    = 1 << 20
)

// measure runs a contender over a load that is queued when it starts.
func (b *bench) measure(ctx context.Context, c contender, l load) (f figures, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	w, err := b.newWorld(ctx, l)
	defer w.close()
	if err != nil {
		return f, err
	}
	if err := w.preload(ctx, "r", l.tenantOf); err != nil {
		return f, err
	}
	if f, err = b.finish(ctx, w, c); err != nil {
		return f, fmt.Errorf("%s, %v: %w", c.name, l, err)
	}
	return f, nil
}

// finish starts the contender and waits until all that is queued has its result.
func (b *bench) finish(ctx context.Context, w *world, c contender) (f figures, err error) {
	if err := w.start(ctx, c); err != nil {
		return f, err
	}
	first, err := w.traffic(ctx, 1)
	if err != nil {
		return f, err
	}
	before, err := used(w.contender)
	if err != nil {
		return f, err
	}
	defer b.profile(w)()
	last, err := w.awaitResults(ctx, &f, first.First)
	if err != nil {
		return f, err
	}
	after, err := used(w.contender)
	if err != nil {
		return f, err
	}
	seen, err := w.traffic(ctx, 0)
	if err != nil {
		return f, err
	}
	n := float64(w.load.requests)
	f.rate = n / last.Sub(seen.First).Seconds()
	f.cpu = (after.cpu - before.cpu).Seconds() * 1000 / n
	f.peak = float64(after.peak) / mebibyte
	f.busy = seen.Busy.Seconds() / seen.Last.Sub(seen.First).Seconds() / float64(w.load.slots*max(1, w.load.workers))
	f.most, f.gap = float64(seen.MaxInFlight), seen.Gap.Seconds()
	if seen.Posts != w.load.requests || seen.Duplicates > 0 || seen.Others > 0 {
		b.remark("%s, %v: %d POSTs for %d requests, %d of them for a connection that was there, %d other calls", c.name, w.load, seen.Posts, w.load.requests, seen.Duplicates, seen.Others)
	}
	return f, nil
}

// awaitResults waits until all results are there and returns when the last one was stored.
func (w *world) awaitResults(ctx context.Context, f *figures, began time.Time) (time.Time, error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var sampled time.Duration
	for {
		n, last, err := w.results(ctx)
		if err != nil {
			return last, err
		}
		if at := time.Since(began); at >= sampled {
			sampled = at + sampleEvery
			u, err := used(w.contender)
			if err != nil {
				return last, err
			}
			f.samples = append(f.samples, sample{at, n, float64(u.resident) / mebibyte})
		}
		if n >= w.load.requests {
			return last, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return last, fmt.Errorf("%d of %d results are there: %w", n, w.load.requests, context.Cause(ctx))
		}
	}
}

// outcome is what the runs of one contender over one load have shown, one after the other.
type outcome struct {
	contender contender
	load      load
	runs      []figures
}

// compare runs the contenders over a load, as many rounds as the bench is to make, each time in another order, so
// that whatever the machine does meanwhile is done to all.
func (b *bench) compare(ctx context.Context, l load, contenders ...contender) (map[string]outcome, error) {
	outcomes := map[string]outcome{}
	for round := range b.rounds {
		for i := range contenders {
			c := contenders[(i+round)%len(contenders)]
			f, err := b.measure(ctx, c, l)
			if err != nil {
				return nil, err
			}
			b.progress("%s, %v: %.0f/s, %.2f ms CPU, %.0f MiB, %.2f of the slots", c.name, l, f.rate, f.cpu, f.peak, f.busy)
			o := outcomes[c.name]
			o.contender, o.load, o.runs = c, l, append(o.runs, f)
			outcomes[c.name] = o
		}
	}
	for _, c := range contenders {
		b.outcomes = append(b.outcomes, outcomes[c.name])
	}
	return outcomes, nil
}

// values returns one figure of all runs.
func (o outcome) values(of func(figures) float64) (out []float64) {
	for _, f := range o.runs {
		out = append(out, of(f))
	}
	return out
}

func rate(f figures) float64 { return f.rate }
func cpu(f figures) float64  { return f.cpu }
func peak(f figures) float64 { return f.peak }
func busy(f figures) float64 { return f.busy }
func most(f figures) float64 { return f.most }
func gap(f figures) float64  { return f.gap }

// ratios divides a figure of o by that of the same round of another contender.
func (o outcome) ratios(by outcome, of func(figures) float64) (out []float64) {
	for i := range o.runs {
		out = append(out, of(o.runs[i])/of(by.runs[i]))
	}
	return out
}

// median returns NaN of nothing.
func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile returns the smallest value that q of all values do not exceed; of two in the middle, their mean.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	if q == 0.5 && len(sorted)%2 == 0 {
		return (sorted[len(sorted)/2-1] + sorted[len(sorted)/2]) / 2
	}
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}
