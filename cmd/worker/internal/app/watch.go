package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/limit"
	"github.com/flow-worker/flow-worker/internal/ops"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/tracing"
)

// newRegistry returns a registry with what every Go program shows, and build_info.
func newRegistry(b Build) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "flow_worker_build_info",
		Help:        "Always 1; its labels say which program runs.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "goversion": b.Go},
	})
	info.Set(1)
	reg.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// watch is what the hub calls: the circuits, Vault, the Flow Service and the ledger, with the status page and
// the checks of the ledger looking on. It is all four of the hub's interfaces.
type watch struct {
	gate        provision.Gate
	secrets     provision.Secrets
	connections provision.Connections
	ledger      provision.Ledger
	status      *ops.Status
	wrote       func(object string, err error) // how a write to the ledger ended
	failed      func(error)                    // a call to the ledger failed
}

var _ interface {
	provision.Gate
	provision.Secrets
	provision.Connections
	provision.Ledger
} = (*watch)(nil)

// Allow implements provision.Gate. The status page shows how long calls took; one of the Flow Service begins with
// the ledger's write that announces it.
func (w *watch) Allow(t provision.Target, tenant string) (func(provision.CallEnd), time.Duration) {
	done, wait := w.gate.Allow(t, tenant)
	if done == nil {
		return nil, wait
	}
	began := time.Now()
	return func(end provision.CallEnd) {
		if end == provision.CallServed || end == provision.CallFailed {
			w.status.Called(t, time.Since(began), end == provision.CallFailed)
		}
		done(end)
	}, wait
}

// Credentials implements provision.Secrets.
func (w *watch) Credentials(ctx context.Context, tenant string, fresh bool) (provision.Credentials, error) {
	creds, err := w.secrets.Credentials(ctx, tenant, fresh)
	if err != nil {
		w.vaultErred(tenant, err)
	}
	return creds, err
}

// Resolve implements provision.Secrets.
func (w *watch) Resolve(ctx context.Context, tenant string, ref provision.SecretRef, fresh bool) (provision.Secret, error) {
	secret, err := w.secrets.Resolve(ctx, tenant, ref, fresh)
	if err != nil {
		w.vaultErred(tenant, err)
	}
	return secret, err
}

// Authorize implements provision.Connections.
func (w *watch) Authorize(ctx context.Context, as provision.Account) error {
	err := w.connections.Authorize(ctx, as)
	if err != nil {
		w.adobeErred(as.Tenant, err)
	}
	return err
}

// Create implements provision.Connections.
func (w *watch) Create(ctx context.Context, as provision.Account, conn provision.NewConnection, notAfter time.Time) (provision.Connection, error) {
	made, err := w.connections.Create(ctx, as, conn, notAfter)
	if err != nil {
		w.adobeErred(as.Tenant, err)
	}
	return made, err
}

// Find implements provision.Connections.
func (w *watch) Find(ctx context.Context, as provision.Account, q provision.Query) ([]provision.Found, error) {
	found, err := w.connections.Find(ctx, as, q)
	if err != nil {
		w.adobeErred(as.Tenant, err)
	}
	return found, err
}

// Get implements provision.Connections.
func (w *watch) Get(ctx context.Context, as provision.Account, id string) (provision.Found, error) {
	found, err := w.connections.Get(ctx, as, id)
	if err != nil {
		w.adobeErred(as.Tenant, err)
	}
	return found, err
}

// adobeErred shows an error as its target's last one. A refusal of what a tenant asked for is none.
func (w *watch) adobeErred(tenant string, err error) {
	var ce *provision.CallError
	if !errors.As(err, &ce) || errors.Is(err, provision.ErrCircuitOpen) || errors.Is(err, provision.ErrNotAsked) || errors.Is(err, context.Canceled) {
		return
	}
	switch ce.Verdict {
	case provision.VerdictUnknown, provision.VerdictNotSent, provision.VerdictThrottled:
		w.status.Erred(ce.Target, fmt.Errorf("for %s: %w", tenant, err))
	}
}

// vaultErred shows an error as Vault's last one. That a tenant has no such secret is none.
func (w *watch) vaultErred(tenant string, err error) {
	var se *provision.SecretError
	if errors.As(err, &se) && se.Problem != provision.SecretMissing && !se.Cached && !errors.Is(err, context.Canceled) {
		w.status.Erred(provision.TargetVault, fmt.Errorf("for %s: %w", tenant, err))
	}
}

// Load implements provision.Ledger.
func (w *watch) Load(ctx context.Context, key provision.Key) (provision.Record, uint64, error) {
	rec, rev, err := w.ledger.Load(ctx, key)
	if err != nil {
		w.failed(err)
	}
	return rec, rev, err
}

// Store implements provision.Ledger. The status page shows the state that was written.
func (w *watch) Store(ctx context.Context, key provision.Key, rec provision.Record, rev uint64) (uint64, error) {
	next, err := w.ledger.Store(ctx, key, rec, rev)
	w.wrote(ledger.DefaultBucket, err)
	if err != nil {
		w.failed(err)
	} else if task, ok := ctx.Value(taskKey{}).(*ops.Task); ok {
		task.Reached(rec.State)
	}
	return next, err
}

// taskKey is the key of the status page's task in the context of the work on a delivery.
type taskKey struct{}

// delivered names one delivery of one request in this process.
type delivered struct {
	key provision.Key
	seq uint64
	n   uint64
}

// settled takes a delivery off the status page, and shows its outcome.
func (w *worker) settled(d provision.Delivery, out provision.Outcome) {
	if task, ok := w.tasks.LoadAndDelete(delivered{d.Request.Key, d.Seq, d.Delivered}); ok {
		task.(*ops.Task).Done() //nolint:forcetypeassert,errcheck // nothing else is in there
	}
	if out.Result != nil {
		w.status.Concluded(*out.Result, out.Repeat)
	}
}

// newOps makes health and status page, which look at all other parts.
func (w *worker) newOps() {
	w.health = &ops.Health{Paused: func() bool { return w.consumer.Status().Pauses.Paused }}
	w.health.Add("nats", w.natsHealth)
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
	w.status.Sources = ops.Sources{
		Queue: w.queue, Breakers: w.circuits, Ledger: records{w},
		ResumesIn: func() time.Duration { return w.consumer.Status().Pauses.Remaining },
	}
}

// natsHealth says why there is no connection to NATS, as far as that is known, and what to do.
func (w *worker) natsHealth(context.Context) error {
	if w.nats.IsConnected() {
		return nil
	}
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

// startTraces starts the export of spans that the settings ask for.
func (w *worker) startTraces() {
	if !w.settings.Tracing.Export {
		return
	}
	log := w.log.With("part", "traces")
	tracer, err := tracing.New(tracing.Config{Env: w.settings.Tracing.Env, Version: w.deps.Build.Version, Instance: w.instance, Log: log})
	if err != nil { // the work does not depend on it
		log.Warn("no spans are exported", "error", err)
		return
	}
	w.tracer = tracer
}

// How long the last spans may take to leave: what is left of the shutdown timeout, within these bounds.
const (
	flushLeast = time.Second
	flushMost  = 10 * time.Second
)

// stopTraces exports what is left, for as long as the shutdown may last.
func (w *worker) stopTraces() {
	if w.tracer == nil {
		return
	}
	left := w.settings.ShutdownTimeout
	if at := w.stopped.Load(); at != 0 {
		left -= time.Since(time.Unix(0, at))
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(max(left, flushLeast), flushMost))
	defer cancel()
	if err := w.tracer.Shutdown(ctx); err != nil {
		w.log.Warn("the last spans may not have been exported", "error", err)
	}
}
