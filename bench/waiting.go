//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// Scenarios about the time that a request waits. They watch a contender that goes on working.

// ask queues one request and returns how long its result takes.
func (w *world) ask(tenant, id string) time.Duration {
	sub := must(w.js.Conn().SubscribeSync(resultsPrefix + tenant + ".>"))
	began := time.Now()
	must(w.js.PublishMsg(w.ctx, requestMessage(tenant, id)))
	must(sub.NextMsgWithContext(w.ctx))
	took := time.Since(began)
	check(sub.Unsubscribe())
	return took
}

// singles are how many single requests are sent behind a backlog, by tenants of their own.
const singles = 5

// waitBehind returns how long single requests wait behind a backlog, in seconds, and which share of the slots is
// busy meanwhile.
func (b *bench) waitBehind(ctx context.Context, l load) (waits []float64, share float64) {
	w := b.newWorld(ctx, l)
	defer w.close()
	w.preload()
	w.start(theWorker)
	before := w.traffic(3 * l.slots)
	for i := range singles {
		waits = append(waits, w.ask(tenantName(l.tenants+i), "single").Seconds())
	}
	after := w.traffic(0)
	share = (after.Busy - before.Busy).Seconds() / after.Now.Sub(before.Now).Seconds() / float64(l.slots)
	b.progress("%v: single requests wait %s s, %.2f of the slots busy", l, spread(waits, 2), share)
	return waits, share
}

func (b *bench) behind(ctx context.Context) {
	for _, at := range []struct {
		backlog int
		most    float64
	}{{20_000, 1.5}, {b.size(500_000, 100_000), 3}} {
		l := b.load(load{requests: at.backlog, tenants: 1, slots: 64, latency: 500 * time.Millisecond})
		var waits, shares []float64
		for range b.rounds {
			w, share := b.waitBehind(ctx, l)
			waits, shares = append(waits, w...), append(shares, share)
		}
		b.each(l, "wait of a single request behind them, s", at.most, waits)
		b.atLeast(l, "slots busy meanwhile", 0.95, shares)
	}
}

func (b *bench) manyTenants(ctx context.Context) {
	tenants := cmp.Or(b.given.tenants, b.size(5000, 1000))
	l := b.load(load{requests: 20 * tenants, tenants: tenants, slots: 64, inOrder: true})
	w := b.newWorld(ctx, l)
	defer w.close()
	w.preload()
	b.outcomes = append(b.outcomes, outcome{theWorker, l, []figures{b.finish(w, theWorker)}})
	ends, times, began := map[string]float64{}, w.resultTimes(), w.traffic(0).First
	for i := range l.requests {
		ends[l.tenantOf(i)] = max(ends[l.tenantOf(i)], times[requestID(i)].Sub(began).Seconds())
	}
	var waits []float64
	for _, end := range ends {
		waits = append(waits, end)
	}
	b.progress("tenants have their last result after %s s", spread(waits, 1))
	b.atMost(l, "the longest wait for a tenant's last result, of the median", 1.5, []float64{quantile(waits, 1) / median(waits)})
}

// perSecond is the steady rate of the scenario "latency".
const perSecond = 100

// trickle sends requests at a steady rate and returns what the contender adds to the Flow Service's time, in ms:
// from the moment before a request is published until its result is stored.
func (b *bench) trickle(ctx context.Context, c contender, l load) (added []float64) {
	w := b.newWorld(ctx, l)
	defer w.close()
	w.start(c)
	w.ask(tenantName(0), "warm-up")
	sent := make([]time.Time, l.requests)
	for i := range sent {
		if i > 0 {
			pause(w.ctx, time.Until(sent[0].Add(time.Duration(i)*time.Second/perSecond)))
		}
		sent[i] = time.Now()
		must(w.js.PublishMsgAsync(requestMessage(l.tenantOf(i), requestID(i))))
	}
	w.load.requests++ // the first one
	w.awaitResults(time.Now())
	times := w.resultTimes()
	for i, at := range sent {
		added = append(added, float64(times[requestID(i)].Sub(at)-l.latency)/float64(time.Millisecond))
	}
	b.progress("%s, %v: adds %.1f ms, p99 %.1f ms", c.name, l, median(added), quantile(added, 0.99))
	return added
}

func (b *bench) addedLatency(ctx context.Context) {
	l := b.load(load{requests: 20 * perSecond, tenants: 20, slots: 64, latency: 100 * time.Millisecond})
	var ours, base [][]float64
	for range b.rounds {
		ours, base = append(ours, b.trickle(ctx, theWorker, l)), append(base, b.trickle(ctx, theBaseline, l))
	}
	for _, q := range []float64{0.5, 0.99} {
		var own, above []float64
		for i := range ours {
			own = append(own, quantile(ours[i], q))
			above = append(above, own[i]-quantile(base[i], q))
		}
		b.atMost(l, fmt.Sprintf("added latency at %d requests a second, p%g: %s ms; above the baseline's", perSecond, 100*q, spread(own, 1)), 10, above)
	}
}

// How long an idle worker is watched, and left alone before.
const (
	idleFor   = 20 * time.Second
	idleAfter = 3 * time.Second
)

func (b *bench) idle(ctx context.Context) {
	l := load{tenants: 1, slots: 64}
	var shares []float64
	for range b.rounds {
		shares = append(shares, b.idleShare(ctx, l))
	}
	b.atMost(l, "CPU while idle, % of a core", 1, shares)
}

func (b *bench) idleShare(ctx context.Context, l load) float64 {
	w := b.newWorld(ctx, l)
	defer w.close()
	w.start(theWorker)
	w.ask(tenantName(0), "warm-up")
	pause(w.ctx, idleAfter)
	before := used(w.contender)
	pause(w.ctx, idleFor)
	return 100 * (used(w.contender).cpu - before.cpu).Seconds() / idleFor.Seconds()
}
