//go:build linux

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
	run   func(*bench, context.Context)
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
	{"drain", "a million queued: do rate and memory change on the way?", (*bench).drain},
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

func chosen(names []string) (out []scenario, err error) {
	if len(names) == 1 && names[0] == "all" {
		return scenarios, nil
	}
	for _, name := range names {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no scenario %q; want some of these, or all:\n%s", name, about())
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
	if b.latency >= 0 {
		l.latency = b.latency
	}
	return l
}

// size returns how many there are of what is many in a scenario.
func (b *bench) size(full, moderate int) int {
	if b.moderate {
		return moderate
	}
	return full
}

// everyone is the worker, first, the baseline, second, and all else that they are compared with.
func (b *bench) everyone() []contender {
	return append([]contender{theWorker, theBaseline, withLedger}, b.peers...)
}

const (
	rateOfBaseline = "requests per second, of the baseline's"
	cpuOfRequest   = "CPU of a request, ms"
)

func (b *bench) throughput(ctx context.Context) {
	for _, slots := range []int{32, 64} {
		l := b.load(load{requests: 6000, tenants: 3, slots: slots})
		o := b.compare(ctx, l, b.everyone()...)
		b.atLeast(l, rateOfBaseline, 0.6, o[0].ratios(o[1], rate))
		b.atMost(l, cpuOfRequest, 0.35, o[0].values(cpu))
	}
}

func (b *bench) busySlots(ctx context.Context) {
	for _, l := range []load{{requests: 640, tenants: 3, slots: 32}, {requests: 6000, tenants: 3, slots: 64}} {
		l.latency = 100 * time.Millisecond
		l = b.load(l)
		o := b.compare(ctx, l, b.everyone()...)
		b.atLeast(l, "slots busy, of the baseline's share", 0.98, o[0].ratios(o[1], busy))
	}
	l := b.load(load{requests: 1000, tenants: 2, slots: 50, latency: 100 * time.Millisecond})
	o := b.compare(ctx, l, theWorker)
	b.within(l, "POSTs under way at the same time", float64(l.slots), float64(l.slots), o[0].values(most))
}

func (b *bench) cpuTime(ctx context.Context) {
	l := b.load(load{requests: 1500, tenants: 3, slots: 64, latency: time.Second})
	o := b.compare(ctx, l, theWorker, theBaseline)
	b.atMost(l, cpuOfRequest, 0.5, o[0].values(cpu))
	b.atLeast(l, rateOfBaseline, 0.95, o[0].ratios(o[1], rate))
}

func (b *bench) wide(ctx context.Context) {
	for _, http2 := range []bool{false, true} {
		l := b.load(load{requests: 10_000, tenants: 3, slots: 2000, latency: 2 * time.Second, http2: http2})
		o := b.compare(ctx, l, theWorker, theBaseline)
		b.atLeast(l, rateOfBaseline, 0.95, o[0].ratios(o[1], rate))
		if http2 {
			b.atMost(l, "peak memory, MiB", 40+float64(l.slots)*24/1024, o[0].values(peak))
		} else {
			b.atMost(l, "peak memory, of the baseline's", 1.2, o[0].ratios(o[1], peak))
		}
	}
}

func (b *bench) scale(ctx context.Context) {
	one := b.load(load{requests: 3000, tenants: 3, slots: 32, latency: 200 * time.Millisecond, workers: 1})
	two := one
	two.workers, two.requests = 2*one.workers, 2*one.requests
	var ratios []float64
	for range b.rounds {
		half := b.measure(ctx, theWorker, one)
		ratios = append(ratios, b.measure(ctx, theWorker, two).rate/half.rate)
	}
	b.atLeast(two, "requests per second, of those of half as many workers", 1.9, ratios)
}

func (b *bench) tracing(ctx context.Context) {
	l := b.load(load{requests: 6000, tenants: 3, slots: 64})
	o := b.compare(ctx, l, theWorker, tracedWorker)
	b.atLeast(l, "requests per second with tracing, of those without", 0.9, o[1].ratios(o[0], rate))
}

func (b *bench) drain(ctx context.Context) {
	l := b.load(load{requests: b.size(1_000_000, 50_000), tenants: 3, slots: 64})
	f := b.measure(ctx, theWorker, l)
	b.outcomes = append(b.outcomes, outcome{theWorker, l, []figures{f}})
	first, last := tenth(f.samples, l.requests, 0), tenth(f.samples, l.requests, 9)
	b.within(l, "rate of the last tenth, of the first one's", 0.9, 1.1, []float64{last.rate / first.rate})
	b.atMost(l, "memory of the last tenth, of the first one's", 1.1, []float64{last.peak / first.peak})
}

// tenth returns rate and median memory of the i-th tenth of a run's results.
func tenth(samples []sample, requests, i int) figures {
	from := slices.IndexFunc(samples, func(s sample) bool { return s.results >= requests*i/10 })
	to := slices.IndexFunc(samples, func(s sample) bool { return s.results >= requests*(i+1)/10 })
	var memory []float64
	for _, s := range samples[from : to+1] {
		memory = append(memory, s.resident)
	}
	n, took := samples[to].results-samples[from].results, samples[to].at-samples[from].at
	return figures{rate: float64(n) / took.Seconds(), peak: median(memory)}
}

func (b *bench) stall(ctx context.Context) {
	l := b.load(load{requests: 6000, tenants: 3, slots: 64})
	var gaps []float64
	for range max(5, b.rounds) {
		gaps = append(gaps, b.measure(ctx, theWorker, l).gap)
	}
	b.each(l, "longest time without a POST, s", 0.5, gaps)
}
