package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// scenario measures what some targets are about.
type scenario struct {
	name  string
	about string
	run   func(*bench, context.Context) error
}

// scenarios are listed in the order of "all".
var scenarios = []scenario{
	{"throughput", "the Flow Service answers at once: requests per second, CPU time of each", (*bench).throughput},
	{"busy", "it takes 100 ms: are the slots kept busy?", (*bench).busySlots},
	{"cpu", "it takes 1 s, 64 slots: CPU time of a request", (*bench).cpuTime},
	{"wide", "it takes 2 s, 2,000 slots: rate and memory, over HTTP/1.1 and HTTP/2", (*bench).wide},
	{"behind", "a single request behind another tenant's backlog", (*bench).behind},
	{"tenants", "many tenants with 20 requests each: does one wait longer than the others?", (*bench).manyTenants},
	{"latency", "100 requests a second: what is added to the time of the Flow Service", (*bench).addedLatency},
	{"idle", "the CPU time of a worker that has nothing to do", (*bench).idle},
	{"scale", "two workers beside one, where the Flow Service's time is the limit", (*bench).scale},
	{"tracing", "what exporting spans costs", (*bench).tracing},
	{"drain", "a million queued: does rate or memory change on the way?", (*bench).drain},
	{"stall", "the longest time without a POST while requests are queued", (*bench).stall},
	{"charts", "throughput over slots, memory over requests in flight, waiting time behind a backlog, as SVG", (*bench).drawCharts},
}

// about lists the scenarios.
func about() string {
	var b strings.Builder
	for _, s := range scenarios {
		fmt.Fprintf(&b, "  %-11s %s\n", s.name, s.about)
	}
	return b.String() + "  all         all of them, the largest loads made smaller\n"
}

func chosen(names []string) ([]scenario, error) {
	if len(names) == 1 && names[0] == "all" {
		return scenarios, nil
	}
	var out []scenario
	for _, name := range names {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no scenario %q; want one of these, or all:\n%s", name, about())
		}
		out = append(out, scenarios[i])
	}
	return out, nil
}

// load returns a scenario's load as the flags change it.
func (b *bench) load(l load) load {
	g := b.given
	l.requests, l.slots = cmp.Or(g.requests, l.requests), cmp.Or(g.slots, l.slots)
	l.tenants, l.workers = cmp.Or(g.tenants, l.tenants), cmp.Or(g.workers, l.workers)
	if l.latency = cmp.Or(g.latency, l.latency); l.latency == zeroLatency {
		l.latency = 0
	}
	return l
}

// size returns how many requests a large load has.
func (b *bench) size(full, moderate int) int {
	if b.moderate {
		return moderate
	}
	return full
}

// everyone is the worker beside all that it is compared with.
func (b *bench) everyone() []contender {
	return append([]contender{theWorker, theBaseline, withLedger}, b.peers...)
}

func (b *bench) throughput(ctx context.Context) error {
	for _, slots := range []int{32, 64} {
		l := b.load(load{requests: 6000, tenants: 3, slots: slots})
		o, err := b.compare(ctx, l, b.everyone()...)
		if err != nil {
			return err
		}
		worker := o[theWorker.name]
		b.atLeast(l, "requests per second, of the baseline's", 0.6, worker.ratios(o[theBaseline.name], rate))
		b.atMost(l, "CPU of a request, ms", 0.35, worker.values(cpu))
	}
	return nil
}

func (b *bench) busySlots(ctx context.Context) error {
	for _, l := range []load{
		{requests: 640, tenants: 3, slots: 32, latency: 100 * time.Millisecond},
		{requests: 6000, tenants: 3, slots: 64, latency: 100 * time.Millisecond},
	} {
		l = b.load(l)
		o, err := b.compare(ctx, l, b.everyone()...)
		if err != nil {
			return err
		}
		b.atLeast(l, "slots busy, of the baseline's share", 0.98, o[theWorker.name].ratios(o[theBaseline.name], busy))
	}
	l := b.load(load{requests: 1000, tenants: 2, slots: 50, latency: 100 * time.Millisecond})
	o, err := b.compare(ctx, l, theWorker)
	if err != nil {
		return err
	}
	b.atLeast(l, "POSTs under way at the same time", float64(l.slots), o[theWorker.name].values(most))
	b.atMost(l, "POSTs under way at the same time", float64(l.slots), o[theWorker.name].values(most))
	return nil
}

func (b *bench) cpuTime(ctx context.Context) error {
	l := b.load(load{requests: 1500, tenants: 3, slots: 64, latency: time.Second})
	o, err := b.compare(ctx, l, theWorker, theBaseline)
	if err != nil {
		return err
	}
	b.atMost(l, "CPU of a request, ms", 0.5, o[theWorker.name].values(cpu))
	b.atLeast(l, "requests per second, of the baseline's", 0.95, o[theWorker.name].ratios(o[theBaseline.name], rate))
	return nil
}

func (b *bench) wide(ctx context.Context) error {
	for _, http2 := range []bool{false, true} {
		l := b.load(load{requests: 10_000, tenants: 3, slots: 2000, latency: 2 * time.Second, http2: http2})
		o, err := b.compare(ctx, l, theWorker, theBaseline)
		if err != nil {
			return err
		}
		worker, base := o[theWorker.name], o[theBaseline.name]
		b.atLeast(l, "requests per second, of the baseline's", 0.95, worker.ratios(base, rate))
		if http2 {
			b.atMost(l, "peak memory, MiB", 40+float64(l.slots)*24/1024, worker.values(peak))
		} else {
			b.atMost(l, "peak memory, of the baseline's", 1.2, worker.ratios(base, peak))
		}
	}
	return nil
}

func (b *bench) scale(ctx context.Context) error {
	one := b.load(load{requests: 3000, tenants: 3, slots: 32, latency: 200 * time.Millisecond})
	two := one
	two.workers, two.requests = 2, 2*one.requests
	var ratios []float64
	for range b.rounds {
		first, err := b.measure(ctx, theWorker, one)
		if err != nil {
			return err
		}
		second, err := b.measure(ctx, theWorker, two)
		if err != nil {
			return err
		}
		b.progress("one worker %.0f/s, two %.0f/s", first.rate, second.rate)
		ratios = append(ratios, second.rate/first.rate)
	}
	b.atLeast(two, "requests per second, of one worker's", 1.9, ratios)
	return nil
}

func (b *bench) tracing(ctx context.Context) error {
	l := b.load(load{requests: 6000, tenants: 3, slots: 64})
	o, err := b.compare(ctx, l, theWorker, tracedWorker)
	if err != nil {
		return err
	}
	b.atLeast(l, "requests per second with tracing, of those without", 0.9, o[tracedWorker.name].ratios(o[theWorker.name], rate))
	return nil
}

func (b *bench) drain(ctx context.Context) error {
	l := b.load(load{requests: b.size(1_000_000, 50_000), tenants: 3, slots: 64})
	f, err := b.measure(ctx, theWorker, l)
	if err != nil {
		return err
	}
	b.outcomes = append(b.outcomes, outcome{theWorker, l, []figures{f}})
	first, last := tenth(f.samples, l.requests, 0), tenth(f.samples, l.requests, 9)
	b.atLeast(l, "rate of the last tenth, of the first one's", 0.9, []float64{last.rate / first.rate})
	b.atMost(l, "rate of the last tenth, of the first one's", 1.1, []float64{last.rate / first.rate})
	b.atMost(l, "memory of the last tenth, of the first one's", 1.1, []float64{last.peak / first.peak})
	return nil
}

// tenth returns rate and median memory of the i-th tenth of a run's results.
func tenth(samples []sample, requests, i int) figures {
	from := slices.IndexFunc(samples, func(s sample) bool { return s.results >= requests*i/10 })
	to := slices.IndexFunc(samples, func(s sample) bool { return s.results >= requests*(i+1)/10 })
	if from < 0 || to <= from {
		return figures{} // too few samples: the ratio is no number, and no target is met
	}
	var memory []float64
	for _, s := range samples[from : to+1] {
		memory = append(memory, s.resident)
	}
	n := samples[to].results - samples[from].results
	return figures{rate: float64(n) / (samples[to].at - samples[from].at).Seconds(), peak: median(memory)}
}

func (b *bench) stall(ctx context.Context) error {
	l := b.load(load{requests: 6000, tenants: 3, slots: 64})
	var gaps []float64
	for range max(5, b.rounds) {
		f, err := b.measure(ctx, theWorker, l)
		if err != nil {
			return err
		}
		b.progress("%.0f/s, longest gap %.3f s", f.rate, f.gap)
		gaps = append(gaps, f.gap)
	}
	b.all(l, "longest time without a POST, s", 0.5, gaps)
	return nil
}
