package main

import (
	"context"
	"fmt"
	"time"
)

// Scenarios about the time that a request waits. They watch a contender that goes on working.

// warmUp starts a contender and waits until a first request has its result, so that it is known to be there.
func (w *world) warmUp(ctx context.Context, c contender) error {
	if err := w.start(ctx, c); err != nil {
		return err
	}
	_, err := w.ask(ctx, tenantName(0), "warm-up")
	return err
}

// ask queues one request and returns how long its result takes.
func (w *world) ask(ctx context.Context, tenant, id string) (time.Duration, error) {
	sub, err := w.js.Conn().SubscribeSync(resultsPrefix + tenant + ".>")
	if err != nil {
		return 0, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection is about to be closed where that fails
	began := time.Now()
	if _, err := w.js.PublishMsg(ctx, requestMessage(tenant, id)); err != nil {
		return 0, err
	}
	if _, err = sub.NextMsgWithContext(ctx); err != nil {
		return 0, fmt.Errorf("the result of %s's request: %w", tenant, err)
	}
	return time.Since(began), nil
}

// singles are how many single requests are sent behind a backlog, by tenants of their own.
const singles = 5

// waitBehind returns how long single requests wait behind a backlog, and which share of the slots is busy
// meanwhile.
func (b *bench) waitBehind(ctx context.Context, c contender, l load) (waits []float64, share float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	all := l
	all.tenants += singles
	w, err := b.newWorld(ctx, all)
	defer w.close()
	if err != nil {
		return nil, 0, err
	}
	if err := w.preload(ctx, "r", l.tenantOf); err != nil {
		return nil, 0, err
	}
	if err := w.start(ctx, c); err != nil {
		return nil, 0, err
	}
	before, err := w.traffic(ctx, 3*l.slots)
	if err != nil {
		return nil, 0, err
	}
	for i := range singles {
		wait, err := w.ask(ctx, tenantName(l.tenants+i), "single")
		if err != nil {
			return nil, 0, err
		}
		waits = append(waits, wait.Seconds())
	}
	after, err := w.traffic(ctx, 0)
	share = (after.Busy - before.Busy).Seconds() / after.Now.Sub(before.Now).Seconds() / float64(l.slots)
	b.progress("%s, %v: single requests wait %.2f s (%.2f to %.2f), %.2f of the slots busy", c.name, l, median(waits), quantile(waits, 0), quantile(waits, 1), share)
	return waits, share, err
}

func (b *bench) behind(ctx context.Context) error {
	for _, at := range []struct {
		backlog int
		most    float64
	}{{20_000, 1.5}, {b.size(500_000, 100_000), 3}} {
		l := b.load(load{requests: at.backlog, tenants: 1, slots: 64, latency: 500 * time.Millisecond})
		var waits, shares []float64
		for range b.rounds {
			w, share, err := b.waitBehind(ctx, theWorker, l)
			if err != nil {
				return err
			}
			waits, shares = append(waits, w...), append(shares, share)
		}
		b.all(l, "wait of a single request behind them, s", at.most, waits)
		b.atLeast(l, "slots busy meanwhile", 0.95, shares)
	}
	return nil
}

func (b *bench) manyTenants(ctx context.Context) error {
	tenants := b.size(5000, 1000)
	l := b.load(load{requests: 20 * tenants, tenants: tenants, slots: 64, inOrder: true})
	ctx, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	w, err := b.newWorld(ctx, l)
	defer w.close()
	if err != nil {
		return err
	}
	if err := w.preload(ctx, "r", l.tenantOf); err != nil {
		return err
	}
	f, err := b.finish(ctx, w, theWorker)
	if err != nil {
		return err
	}
	b.outcomes = append(b.outcomes, outcome{theWorker, l, []figures{f}})
	times, err := w.resultTimes(ctx)
	if err != nil {
		return err
	}
	seen, err := w.traffic(ctx, 0)
	if err != nil {
		return err
	}
	ends := make([]time.Time, l.tenants) // of each tenant, its last result
	for i := range l.requests {
		t := i * l.tenants / l.requests
		if at := times[fmt.Sprintf("r%d", i)]; at.After(ends[t]) {
			ends[t] = at
		}
	}
	var waits []float64
	for _, end := range ends {
		waits = append(waits, end.Sub(seen.First).Seconds())
	}
	b.progress("tenants have their last result after %.1f s (%.1f to %.1f)", median(waits), quantile(waits, 0), quantile(waits, 1))
	b.atMost(l, "the longest wait for a tenant's last result, of the median", 1.5, []float64{quantile(waits, 1) / median(waits)})
	return nil
}

// trickle sends requests at a steady rate and returns what the contender adds to the Flow Service's time, in ms:
// from the moment before a request is published until its result is stored.
func (b *bench) trickle(ctx context.Context, c contender, l load) (added []float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	w, err := b.newWorld(ctx, l)
	defer w.close()
	if err != nil {
		return nil, err
	}
	if err := w.warmUp(ctx, c); err != nil {
		return nil, err
	}
	sent := make(map[string]time.Time, l.requests)
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	for i := range l.requests {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		id := fmt.Sprintf("r%d", i)
		sent[id] = time.Now()
		if _, err := w.js.PublishMsgAsync(requestMessage(l.tenantOf(i), id)); err != nil {
			return nil, err
		}
	}
	w.load.requests++ // the first one
	if _, err := w.awaitResults(ctx, &figures{}, time.Now()); err != nil {
		return nil, err
	}
	times, err := w.resultTimes(ctx)
	if err != nil {
		return nil, err
	}
	for id, at := range sent {
		added = append(added, float64(times[id].Sub(at)-l.latency)/float64(time.Millisecond))
	}
	b.progress("%s adds %.1f ms, p99 %.1f ms", c.name, median(added), quantile(added, 0.99))
	return added, nil
}

// perSecond is the steady rate of the scenario "latency".
const perSecond = 100

func (b *bench) addedLatency(ctx context.Context) error {
	l := b.load(load{requests: 20 * perSecond, tenants: 20, slots: 64, latency: 100 * time.Millisecond})
	var above, half []float64
	for range b.rounds {
		ours, err := b.trickle(ctx, theWorker, l)
		if err != nil {
			return err
		}
		base, err := b.trickle(ctx, theBaseline, l)
		if err != nil {
			return err
		}
		above = append(above, quantile(ours, 0.99)-quantile(base, 0.99))
		half = append(half, median(ours)-median(base))
	}
	b.atMost(l, fmt.Sprintf("added latency at %d requests a second, p99, ms above the baseline's", perSecond), 10, above)
	b.atMost(l, "the same, p50", 10, half)
	return nil
}

// idleFor is how long an idle worker is watched.
const idleFor = 20 * time.Second

func (b *bench) idle(ctx context.Context) error {
	l := b.load(load{requests: 1, tenants: 1, slots: 64})
	var shares []float64
	for range b.rounds {
		share, err := b.idleShare(ctx, l)
		if err != nil {
			return err
		}
		b.progress("idle: %.2f %% of a core", share)
		shares = append(shares, share)
	}
	b.atMost(l, "CPU while idle, % of a core", 1, shares)
	return nil
}

func (b *bench) idleShare(ctx context.Context, l load) (float64, error) {
	w, err := b.newWorld(ctx, l)
	defer w.close()
	if err != nil {
		return 0, err
	}
	if err := w.warmUp(ctx, theWorker); err != nil {
		return 0, err
	}
	if err := pause(ctx, 3*time.Second); err != nil {
		return 0, err
	}
	before, err := used(w.contender)
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, idleFor); err != nil {
		return 0, err
	}
	after, err := used(w.contender)
	return 100 * (after.cpu - before.cpu).Seconds() / idleFor.Seconds(), err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
