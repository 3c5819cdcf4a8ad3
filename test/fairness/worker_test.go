//go:build soak && linux

package fairness

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/limit"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// worker is what `worker run` wires together, but for Vault and the status page.
type worker struct {
	registry *prometheus.Registry
	slots    *limit.Slots
	book     countedLedger
}

// countedLedger counts what is asked of a ledger.
type countedLedger struct {
	provision.Ledger
	loads, stores atomic.Int64
}

// Load implements provision.Ledger.
func (l *countedLedger) Load(ctx context.Context, key provision.Key) (provision.Record, uint64, error) {
	l.loads.Add(1)
	return l.Ledger.Load(ctx, key)
}

// Store implements provision.Ledger.
func (l *countedLedger) Store(ctx context.Context, key provision.Key, rec provision.Record, rev uint64) (uint64, error) {
	l.stores.Add(1)
	return l.Ledger.Store(ctx, key, rec, rev)
}

// secrets gives every tenant an organization of its own name.
type secrets struct{}

// Credentials implements provision.Secrets.
func (secrets) Credentials(_ context.Context, tenant string, _ bool) (provision.Credentials, error) {
	return provision.Credentials{OrgID: orgOf(tenant), AccessToken: provision.NewSensitive("token"), APIKey: "key", Version: 1}, nil
}

// Resolve implements provision.Secrets.
func (secrets) Resolve(context.Context, string, provision.SecretRef, bool) (provision.Secret, error) {
	return provision.Secret{Value: provision.NewSensitive("dapi"), Version: 1}, nil
}

func orgOf(tenant string) string { return tenant + "@AdobeOrg" }

// without says what a worker lacks. The zero value lacks nothing.
type without struct {
	ahead    bool // messages are taken in the order of the stream alone
	breakers bool // the intake goes on whatever the Flow Service does
}

// startWorker runs a worker until the test ends.
func (w *world) startWorker(ctx context.Context, t *testing.T, lacks without) *worker {
	t.Helper()
	k := &worker{registry: prometheus.NewRegistry(), slots: limit.NewSlots(slots, nil)}
	js := w.brokers.connect(t)
	book, err := ledger.Open(ctx, js, ledger.Config{Manage: true, Replicas: len(w.brokers.pids)})
	must(t, err)
	k.book.Ledger = book
	client, err := flow.New(flow.Config{BaseURL: w.flowURL, IMSURL: w.flowURL, Timeout: w.flowTimeout})
	must(t, err)
	t.Cleanup(client.Close)
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	metrics := consumer.NewMetrics(k.registry)
	cfg := provision.Config{
		Ledger: &k.book, Secrets: secrets{}, Connections: client, Observer: metrics,
		Instance: fmt.Sprintf("worker-%d", len(w.workers)), Stopping: running,
		FlowTimeout: w.flowTimeout, Settle: 2 * time.Minute, RetryInitial: 500 * time.Millisecond, RetryDelayMax: 30 * time.Second,
		RetryElapsed: 2 * time.Minute, RedeliveryDelayMax: 15 * time.Minute, RequestDeadline: 24 * time.Hour,
	}
	intake := consumer.Config{
		JS: js, Codec: &event.Decoder{AllowedDomains: []string{"azuredatabricks.net"}}, Concurrency: slots * 3 / 2, Metrics: metrics,
		Objects: consumer.ObjectsConfig{Manage: true, Replicas: len(w.brokers.pids)}, ShutdownTimeout: time.Second,
	}
	cfg.Slots = k.slots
	if !lacks.ahead {
		intake.Room = k.slots.Room
	}
	if !lacks.breakers {
		breakers := limit.NewBreakers(limit.BreakerConfig{})
		cfg.Gate, intake.Gate = breakers, breakers.Permits
	}
	hub, err := provision.New(cfg)
	must(t, err)
	intake.Handle = hub.Handle
	c, err := consumer.New(intake)
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- c.Run(running) }()
	t.Cleanup(func() {
		stop()
		c.Abort()
		<-done
	})
	poll(ctx, t, "the worker doesn't get ready", func() bool { return c.Ready() == nil })
	w.workers = append(w.workers, k)
	return k
}

// metric returns the value of one of the worker's counters or gauges.
func (k *worker) metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := k.registry.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() != "flow_worker_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			match := len(m.GetLabel()) == len(labels)
			for i, l := range m.GetLabel() {
				match = match && l.GetValue() == labels[i]
			}
			if match {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s %q", name, labels)
	return 0
}

// tally is what all workers have done so far.
type tally struct {
	at                         time.Time
	created, acks, naks        int
	loads, stores              int
	posts, throttled, inFlight int
}

func (w *world) tally(t *testing.T) tally {
	t.Helper()
	sum := tally{at: time.Now(), created: int(w.made.Load()), posts: int(w.posts.Load()), throttled: int(w.throttled.Load())}
	for _, k := range w.workers {
		sum.acks += int(k.metric(t, "deliveries_total", "ack"))
		sum.naks += int(k.metric(t, "deliveries_total", "nak"))
		sum.inFlight += int(k.metric(t, "requests_in_flight"))
		sum.loads += int(k.book.loads.Load())
		sum.stores += int(k.book.stores.Load())
	}
	return sum
}

// since returns what was done after before.
func (a tally) since(before tally) tally {
	a.created -= before.created
	a.acks -= before.acks
	a.naks -= before.naks
	a.loads -= before.loads
	a.stores -= before.stores
	a.posts -= before.posts
	a.throttled -= before.throttled
	return a
}

// rate returns n per second of the time since before.
func (a tally) rate(before tally, n int) string {
	return fmt.Sprintf("%.1f/s", float64(n)/a.at.Sub(before.at).Seconds())
}
