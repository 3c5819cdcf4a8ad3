//go:build soak && linux

package fairness

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestFilteredConsumers is design B: a consumer with a filter for every tenant that has requests.
func TestFilteredConsumers(t *testing.T) {
	for _, servers := range []int{1, 3} {
		for n := 10; n <= *tenantsFlag; n *= 10 {
			for _, durable := range []bool{true, false} {
				t.Run(fmt.Sprintf("servers=%d/tenants=%d/durable=%t", servers, n, durable), func(t *testing.T) {
					testFiltered(t, servers, n, durable)
				})
			}
		}
	}
}

func testFiltered(t *testing.T, servers, n int, durable bool) {
	ctx := patient(t)
	w := newWorld(ctx, t, servers)
	stream, err := w.js.CreateStream(ctx, requestsStream(servers))
	must(t, err)
	for i := range n {
		w.publish(ctx, t, fmt.Sprintf("tenant-%d", i), 1)
	}
	before := w.brokers.usage(t)
	began := time.Now()
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter("connections.requests.*"))
	must(t, err)
	discovery := time.Since(began)
	if len(info.State.Subjects) != n {
		t.Errorf("%d active tenants found, want %d", len(info.State.Subjects), n)
	}
	p, running := newPrototype(ctx, t, w.brokers.connect(t))
	consumers, creation := createFiltered(ctx, t, p.js, n, durable)
	made := w.brokers.usage(t)
	for _, c := range consumers {
		p.follow(running, c)
	}
	poll(ctx, t, "the requests aren't worked on", func() bool { return p.done.Load() == int64(n) })
	idle := w.brokers.usage(t)
	pass(ctx, *watchFlag)
	idled := w.brokers.usage(t)
	show(t, row{"time to find the active tenants", discovery}, row{"time to create their consumers", creation},
		row{"each", creation / time.Duration(n)}, row{"broker, cores meanwhile", made.cores(before)},
		row{"memory per consumer", fmt.Sprintf("%.0f kB", float64(idled.rss-before.rss)/1e3/float64(n))},
		row{"broker, idle", idled.memory()}, row{"broker, idle, cores", idled.cores(idle)},
		row{"consumer flow-worker beside them", refusal(addUnfiltered(ctx, w.js))})
}

func createFiltered(ctx context.Context, t *testing.T, js jetstream.JetStream, n int, durable bool) (list []jetstream.Consumer, took time.Duration) {
	t.Helper()
	began := time.Now()
	for i := range n {
		cfg := filtered(fmt.Sprintf("flow-worker-tenant-%d", i), fmt.Sprintf("connections.requests.tenant-%d", i))
		if !durable {
			cfg.Name, cfg.Durable, cfg.InactiveThreshold = cfg.Durable, "", 5*time.Minute
		}
		c, err := js.CreateConsumer(ctx, "CONNECTION_REQUESTS", cfg)
		must(t, err)
		list = append(list, c)
	}
	return list, time.Since(began)
}

// TestFilteredWait is how long a single request waits in design B: its consumer has to be made, and
// then it takes turns with the big tenant's.
func TestFilteredWait(t *testing.T) {
	ctx := patient(t)
	w := newWorld(ctx, t, 1)
	_, err := w.js.CreateStream(ctx, requestsStream(1))
	must(t, err)
	p, running := newPrototype(ctx, t, w.brokers.connect(t))
	known := map[string]bool{}
	p.all.Go(func() { p.discover(running, known) })
	w.publish(ctx, t, big, *queuedFlag)
	pass(ctx, time.Second)
	wait, ok := p.await(ctx, small, p.quickly(ctx, t, w.request(t, small)), time.Minute)
	show(t, row{"queued", *queuedFlag}, row{"small waited", wait}, row{"was told", ok}, row{"looks for new tenants every", lookEvery})
}

const lookEvery = time.Second

// discover makes a consumer for every tenant that has requests.
func (p *prototype) discover(ctx context.Context, known map[string]bool) {
	for ; ctx.Err() == nil; pass(ctx, lookEvery) {
		stream, err := p.js.Stream(ctx, "CONNECTION_REQUESTS")
		if err != nil {
			continue
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter("connections.requests.*"))
		if err != nil {
			continue
		}
		for subject := range info.State.Subjects {
			if known[subject] {
				continue
			}
			from, err := stream.CreateOrUpdateConsumer(ctx, filtered(fmt.Sprintf("flow-worker-%d", len(known)), subject))
			if err == nil {
				known[subject] = true
				p.follow(ctx, from)
			}
		}
	}
}
