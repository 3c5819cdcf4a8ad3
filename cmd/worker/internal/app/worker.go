package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/limit"
	"github.com/flow-worker/flow-worker/internal/ops"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/tracing"
	"github.com/flow-worker/flow-worker/internal/vault"
)

// worker holds every part, in the order in which they are made.
type worker struct {
	settings settings.Settings
	deps     Deps
	log      *slog.Logger
	instance string
	tracer   *tracing.Tracer // nil where no spans are exported
	stopped  atomic.Int64    // when the worker was asked to stop, in ns since the epoch; 0 before
	registry *prometheus.Registry
	metrics  *consumer.Metrics // the hub's too
	writes   *limit.Writes
	breakers *limit.Breakers
	status   *ops.Status
	watch    watch // without the ledger
	vault    *vault.Client
	flow     *flow.Client
	nats     *nats.Conn
	js       jetstream.JetStream
	slots    *limit.Slots
	guard    *ledgerGuard
	consumer *consumer.Consumer
	health   *ops.Health

	hubConfig provision.Config // without the ledger
	renewing  sync.Mutex       // held while hub is replaced
	hub       atomic.Pointer[provision.Hub]
	hubLedger time.Time                     // when the hub's ledger was made; guarded by renewing
	ledger    atomic.Pointer[ledger.Ledger] // the one that was opened last, nil before
	tasks     sync.Map                      // :: delivered → *ops.Task, of what is in flight
}

// newWorker makes all parts. None of them speaks to anybody yet, but for NATS, which is being
// connected in the background. The end of ctx stops the hub.
func newWorker(ctx context.Context, s settings.Settings, d Deps) (w *worker, err error) {
	w = &worker{settings: s, deps: d, log: d.Log}
	w.instance = cmp.Or(d.Instance, "worker") + "-" + rand.Text()[:8]
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	w.startTraces()
	w.registry = newRegistry(d.Build)
	w.metrics = consumer.NewMetrics(w.registry)
	w.writes = limit.NewWrites(limit.WritesConfig{Registerer: w.registry, Log: w.log})
	w.breakers = limit.NewBreakers(limit.BreakerConfig{Writes: w.writes, Registerer: w.registry, Log: w.log})
	w.status = &ops.Status{Version: d.Build.Version, Instance: w.instance, Since: time.Now()}
	w.watch = watch{gate: w.breakers, status: w.status, wrote: w.wrote}

	parts := Parts{Log: w.log, Registerer: w.registry, OnRetry: w.metrics.Retried, Gate: &w.watch, Version: d.Build.Version, Tracer: w.tracer}
	if w.vault, err = NewVault(s, parts); err != nil {
		return w, err
	}
	if w.flow, err = NewFlow(s, parts); err != nil {
		return w, err
	}
	w.watch.secrets, w.watch.connections = w.vault, w.flow
	if w.nats, err = w.dial(w.instance, w.log.With("part", "nats")); err != nil {
		return w, err
	}
	if w.js, err = NATSConfig(s).JetStream(w.nats); err != nil {
		return w, err
	}
	w.guard = &ledgerGuard{
		ledger: &w.ledger, every: guardEvery, log: w.log.With("part", "ledger"),
		reconnects: func() uint64 { return w.nats.Stats().Reconnects },
	}
	w.slots = limit.NewSlots(s.Concurrency, nil)
	w.hubConfig = provision.Config{
		Secrets: &w.watch, Connections: &w.watch, Gate: &w.watch, Slots: w.slots,
		Observer: w.metrics, Log: w.log.With("part", "hub"), Instance: w.instance, Stopping: ctx,
		FlowTimeout: s.FlowTimeout, Settle: s.Settle, RetryInitial: s.RetryInitial, RetryDelayMax: s.RetryDelayMax,
		RetryElapsed: s.RetryElapsed, RedeliveryDelayMax: s.RedeliveryDelayMax, RequestDeadline: s.RequestDeadline,
		SecretGrace: s.SecretGrace,
	}
	intake := consumer.Config{
		JS: w.js, Handle: w.handle,
		Codec:   &event.Decoder{AllowedDomains: s.AllowedDomains, Secrets: provision.Layout{Mount: s.VaultKVMount, Prefix: s.VaultTenantPrefix}},
		Objects: objectsConfig(s, w.renew), Sweep: consumer.SweepConfig{Records: records{w}.from, Load: records{w}.load},
		Concurrency: prefetch(s.Concurrency), Room: w.room, ShutdownTimeout: s.ShutdownTimeout, DelayMax: s.RedeliveryDelayMax,
		Gate: w.breakers.Permits, OnWrite: w.wrote, OnSettled: w.settled,
		Metrics: w.metrics, Log: w.log.With("part", "consumer"),
	}
	if w.tracer != nil {
		intake.Tracer = w.tracer
	}
	if w.consumer, err = consumer.New(intake); err != nil {
		return w, err
	}
	w.newOps()
	return w, nil
}

// close ends what was made; parts that never came to be are left out.
func (w *worker) close() {
	if w.flow != nil {
		w.flow.Close()
	}
	if w.nats != nil {
		closeNATS(w.nats)
	}
	w.stopTraces()
}

// dial connects to NATS in the background, as the settings say.
func (w *worker) dial(name string, log *slog.Logger) (*nats.Conn, error) {
	cfg := NATSConfig(w.settings)
	cfg.Name, cfg.Log, cfg.Remedy = name, log, w.deps.NATSRemedy
	return consumer.Connect(cfg)
}

// prefetch returns how many messages a worker with so many slots has in flight: half as many again, at least four,
// are made ready while others are called for, so that a slot that comes free finds a request ready.
func prefetch(slots int) int { return slots + min(max(slots/2, 4), 512) }

// room says how many more of a tenant's requests could be worked on at once.
func (w *worker) room(tenant string) int {
	if !w.breakers.Calm(tenant) {
		return 0
	}
	return w.slots.Room(tenant)
}

// handle works on one delivery. None comes before the first renew. After the connection was lost the
// ledger is looked at before anything else: NATS may have come back without its last writes.
func (w *worker) handle(ctx context.Context, d provision.Delivery) provision.Outcome {
	task := w.status.Started(d.Request.Key, d.Seq)
	w.tasks.Store(delivered{d.Request.Key, d.Seq, d.Delivered}, task)
	if err := w.guard.checkOnceConnected(ctx); err != nil {
		return provision.Outcome{Delay: guardEvery, Why: "the ledger cannot be looked at"}
	}
	return w.hub.Load().Handle(context.WithValue(ctx, taskKey{}, task), d)
}
