package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
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
	"github.com/flow-worker/flow-worker/internal/vault"
)

// worker holds every part, in the order in which they are made.
type worker struct {
	settings settings.Settings
	deps     Deps
	log      *slog.Logger
	instance string
	registry *prometheus.Registry
	metrics  *consumer.Metrics // the hub's too
	writes   *limit.Writes
	breakers *limit.Breakers
	vault    *vault.Client
	flow     *flow.Client
	nats     *nats.Conn
	js       jetstream.JetStream
	slots    *limit.Slots
	guard    *ledgerGuard
	hubs     *hubs
	book     atomic.Pointer[ledger.Ledger] // the one that was opened last, nil before
	consumer *consumer.Consumer
	health   *ops.Health
	status   *ops.Status
	inWork   inWork
	traces   traces
}

// newWorker makes all parts. None of them speaks to anybody yet, but for NATS, which is being
// connected in the background. The end of ctx will tell the hub to stop.
func newWorker(ctx context.Context, s settings.Settings, d Deps) (w *worker, err error) {
	w = &worker{settings: s, deps: d, log: d.Log}
	w.instance = cmp.Or(d.Instance, "worker") + "-" + rand.Text()[:8]
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	w.newTraces(ctx)
	w.registry = newRegistry(d.Build)
	w.metrics = consumer.NewMetrics(w.registry)
	w.writes = limit.NewWrites(limit.WritesConfig{Registerer: w.registry, Log: w.log})
	w.breakers = limit.NewBreakers(limit.BreakerConfig{Writes: w.writes, Registerer: w.registry, Log: w.log})
	w.status = &ops.Status{Version: d.Build.Version, Instance: w.instance, Since: time.Now()}
	if w.vault, err = NewVault(s, w.parts()); err != nil {
		return w, err
	}
	if w.flow, err = NewFlow(s, w.parts()); err != nil {
		return w, err
	}
	if err = w.connect(); err != nil {
		return w, err
	}
	w.slots = limit.NewSlots(s.Concurrency, nil)
	w.guard = w.newGuard()
	w.hubs = &hubs{open: w.openLedger, guard: w.guard, prove: w.proveLedger, config: w.hubConfig(ctx)}
	if w.consumer, err = w.newConsumer(); err != nil {
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
	if err := w.traces.close(w.settings.ShutdownTimeout); err != nil {
		w.log.Warn("the last spans may not have been exported", "error", err)
	}
}

// parts are what the clients of Vault and of the Flow Service report to.
func (w *worker) parts() Parts {
	return Parts{Log: w.log, Registerer: w.registry, OnRetry: w.metrics.Retried, Gate: w.gate(), Version: w.deps.Build.Version, Trace: w.traces.transport()}
}

// gate are the breakers, with the status page looking on.
func (w *worker) gate() provision.Gate { return timedGate{w.breakers, w.status} }

func (w *worker) connect() (err error) {
	if w.nats, err = w.dial(w.instance, w.log.With("part", "nats")); err != nil {
		return err
	}
	w.js, err = NATSConfig(w.settings).JetStream(w.nats)
	return err
}

// dial connects to NATS in the background, as the settings say.
func (w *worker) dial(name string, log *slog.Logger) (*nats.Conn, error) {
	cfg := NATSConfig(w.settings)
	cfg.Name, cfg.Log, cfg.Remedy = name, log, w.deps.NATSRemedy
	return consumer.Connect(cfg)
}

// NATSConfig returns how the settings have NATS reached.
func NATSConfig(s settings.Settings) consumer.ConnConfig {
	return consumer.ConnConfig{
		URL: s.NATSURL, Creds: s.NATSCreds, NKey: s.NATSNkey, CA: s.NATSCA, Cert: s.NATSCert, Key: s.NATSKey,
		User: s.NATSUser, Password: s.NATSPassword, Token: s.NATSToken, JWT: s.NATSUserJWT, Seed: s.NATSUserSeed,
		TLSFirst: s.NATSTLSFirst, InboxPrefix: s.NATSInboxPrefix, SocksProxy: s.NATSSocksProxy,
		Domain: s.NATSJSDomain, APIPrefix: s.NATSJSAPIPrefix,
	}
}

func (w *worker) newGuard() *ledgerGuard {
	return &ledgerGuard{
		book: &w.book, every: guardEvery, log: w.log.With("part", "ledger"),
		reconnects: func() uint64 { return w.nats.Stats().Reconnects },
	}
}

func (w *worker) hubConfig(stopping context.Context) provision.Config {
	s := w.settings
	return provision.Config{
		Secrets: watchedSecrets{w.vault, w.status}, Connections: watchedConnections{w.flow, w.status}, Gate: w.gate(), Slots: w.slots,
		Observer: w.metrics, Log: w.log.With("part", "hub"), Instance: w.instance, Stopping: stopping,
		FlowTimeout: s.FlowTimeout, Settle: s.Settle, RetryInitial: s.RetryInitial, RetryDelayMax: s.RetryDelayMax,
		RetryElapsed: s.RetryElapsed, RedeliveryDelayMax: s.RedeliveryDelayMax, RequestDeadline: s.RequestDeadline,
		SecretGrace: s.SecretGrace,
	}
}

func (w *worker) newConsumer() (*consumer.Consumer, error) {
	s := w.settings
	return consumer.New(consumer.Config{
		JS: w.js, Handle: w.hubs.handle,
		Codec:   &event.Decoder{AllowedDomains: s.AllowedDomains, Secrets: provision.Layout{Mount: s.VaultKVMount, Prefix: s.VaultTenantPrefix}},
		Objects: consumer.ObjectsConfig{Manage: s.ManageStreams, Replicas: s.Replicas, AckWait: s.AckWait, MaxBytes: s.StreamMaxBytes, Ledger: w.hubs.renew},
		Sweep:   w.sweep(), Concurrency: inHand(s.Concurrency), Room: w.room, ShutdownTimeout: s.ShutdownTimeout, DelayMax: s.RedeliveryDelayMax,
		Gate: w.breakers.Permits, OnWrite: w.published, OnStart: w.started, OnSettled: w.settled,
		Metrics: w.metrics, Tracer: w.traces.forConsumer(), Log: w.log.With("part", "consumer"),
	})
}

// inHand returns how many messages a worker with so many slots takes in hand: half as many again, at least four,
// are made ready while others are called for, so that a slot that comes free finds a request ready.
func inHand(slots int) int { return slots + min(max(slots/2, 4), 512) }

// room says how many more of a tenant's requests could be worked on at once.
func (w *worker) room(tenant string) int {
	if !w.breakers.Calm(tenant) {
		return 0
	}
	return w.slots.Room(tenant)
}

// newOps makes health and status page, which look at all other parts.
func (w *worker) newOps() {
	w.health = &ops.Health{Paused: func() bool { return w.consumer.Status().Pauses.Paused }}
	w.health.Add("nats", func(context.Context) error {
		if !w.nats.IsConnected() {
			return w.notConnected()
		}
		return nil
	})
	w.health.Add("consumer", func(context.Context) error { return w.consumer.Ready() })
	for _, o := range limit.Objects {
		w.health.Add(string(o), w.takesWrites(o))
	}
	w.health.Add("vault", func(ctx context.Context) error {
		if err := w.vault.Ready(); err != nil {
			return err
		}
		return w.vault.Health(ctx) // a token is of no use with a Vault that is sealed
	})
	w.status.Health = w.health
	w.status.Sources = ops.Sources{Queue: w.queue, Breakers: w.circuits, ResumesIn: w.resumesIn, Ledger: shelf{w}}
}

// notConnected says why there is no connection to NATS, as far as that is known, and what to do.
func (w *worker) notConnected() error {
	at := "not connected to " + settings.MaskURLs(w.settings.NATSURL)
	why := w.nats.LastError()
	if why == nil {
		return errors.New(at)
	}
	if w.deps.NATSRemedy == nil || w.deps.NATSRemedy(why) == "" {
		return fmt.Errorf("%s: %w", at, why)
	}
	return fmt.Errorf("%s: %w; %s", at, why, w.deps.NATSRemedy(why))
}

// queue says how the queue stood when the consumer last asked.
func (w *worker) queue(context.Context) (ops.Queue, error) {
	s := w.consumer.Status()
	if s.AskedAt.IsZero() {
		return ops.Queue{}, errors.New("JetStream has not been asked yet")
	}
	return ops.Queue{
		Pending: s.Pending, AckPending: uint64(max(s.AckPending, 0)), Redelivered: uint64(max(s.Redelivered, 0)),
		OldestSeconds: s.Oldest.Seconds(),
	}, nil
}

func (w *worker) circuits() []ops.Breaker {
	var list []ops.Breaker
	open := w.breakers.Open()
	for _, t := range []provision.Target{provision.TargetFlow, provision.TargetIMS, provision.TargetVault} {
		state := "closed"
		if open[string(t)] {
			state = "open"
		}
		list = append(list, ops.Breaker{Target: t, State: state})
	}
	return list
}

// openLedger opens the ledger, or makes it, as the settings say.
func (w *worker) openLedger(ctx context.Context) (provision.Ledger, ledgerAge, error) {
	book, err := openLedger(ctx, w.js, w.settings, &w.guard.Guard)
	if err != nil {
		return nil, ledgerAge{}, fmt.Errorf("the ledger: %w", err)
	}
	w.book.Store(book)
	age := ledgerAge{created: book.Created()}
	if stream, err := w.js.Stream(ctx, consumer.StreamRequests); err == nil {
		age.stream = stream.CachedInfo().Created
	} else if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, age, fmt.Errorf("the age of the stream: %w", err)
	}
	return &watchedLedger{w.traces.ledger(book), w.inWork.reached, w.consumer.Recheck, w.stored}, age, nil
}
