package app

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/flow-worker/flow-worker/internal/inquiry"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/ops"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// shelf lets the status page, which knows no NATS, read the ledger that is open. What can't be decoded
// was written by a newer worker, whose page shows it.
type shelf struct{ *worker }

// Newest implements ops.Ledger.
func (s shelf) Newest(ctx context.Context) (uint64, error) {
	stream, err := s.js.Stream(ctx, "KV_"+ledger.DefaultBucket)
	if err != nil {
		return 0, fmt.Errorf("the ledger's bucket: %w", err)
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// Since implements ops.Ledger.
func (s shelf) Since(ctx context.Context, revision uint64) iter.Seq2[ops.Written, error] {
	return func(yield func(ops.Written, error) bool) {
		for w, err := range s.recordsFrom(ctx, revision) {
			if !yield(ops.Written(w), err) {
				return
			}
		}
	}
}

// ByID implements ops.Ledger.
func (s shelf) ByID(ctx context.Context, id string) iter.Seq2[provision.Record, error] {
	return s.list(ctx, ledger.Filter{ID: id})
}

// Record implements ops.Ledger. A record that has more in it than this version knows is shown without.
func (s shelf) Record(ctx context.Context, key provision.Key) (provision.Record, error) {
	rec, _, err := s.record(ctx, key)
	if !errors.Is(err, ledger.ErrUndecodable) {
		return rec, err
	}
	for rec, err := range s.list(ctx, ledger.Filter{Tenant: key.Tenant, Source: key.Source, ID: key.ID}) {
		return rec, err
	}
	return rec, err
}

func (s shelf) list(ctx context.Context, f ledger.Filter) iter.Seq2[provision.Record, error] {
	return func(yield func(provision.Record, error) bool) {
		book := s.book.Load()
		if book == nil {
			yield(provision.Record{}, errNoLedger)
			return
		}
		for e, err := range book.List(ctx, f) {
			if errors.Is(err, ledger.ErrUndecodable) {
				continue
			}
			if !yield(e.Record, err) {
				return
			}
		}
	}
}

// resumesIn returns how long a pause still lasts.
func (w *worker) resumesIn() time.Duration { return w.consumer.Status().Pauses.Remaining }

// timedGate tells the status page how long calls took. One of the Flow Service begins with the ledger's
// write that announces it.
type timedGate struct {
	provision.Gate
	status *ops.Status
}

// Allow implements provision.Gate.
func (g timedGate) Allow(t provision.Target, tenant string) (func(provision.CallEnd), time.Duration) {
	done, wait := g.Gate.Allow(t, tenant)
	if done == nil {
		return nil, wait
	}
	began := time.Now()
	return func(end provision.CallEnd) {
		if end == provision.CallServed || end == provision.CallFailed {
			g.status.Called(t, time.Since(began), end == provision.CallFailed)
		}
		done(end)
	}, wait
}

// watchedConnections tells the status page of errors that are Adobe's. A refusal of what a tenant asked
// for is none.
type watchedConnections struct {
	provision.Connections
	status *ops.Status
}

// Authorize implements provision.Connections.
func (c watchedConnections) Authorize(ctx context.Context, as provision.Account) error {
	err := c.Connections.Authorize(ctx, as)
	c.tell(as, err)
	return err
}

// Create implements provision.Connections.
func (c watchedConnections) Create(ctx context.Context, as provision.Account, conn provision.NewConnection, notAfter time.Time) (provision.Connection, error) {
	made, err := c.Connections.Create(ctx, as, conn, notAfter)
	c.tell(as, err)
	return made, err
}

// Find implements provision.Connections.
func (c watchedConnections) Find(ctx context.Context, as provision.Account, q provision.Query) ([]provision.Found, error) {
	found, err := c.Connections.Find(ctx, as, q)
	c.tell(as, err)
	return found, err
}

// Get implements provision.Connections.
func (c watchedConnections) Get(ctx context.Context, as provision.Account, id string) (provision.Found, error) {
	found, err := c.Connections.Get(ctx, as, id)
	c.tell(as, err)
	return found, err
}

func (c watchedConnections) tell(as provision.Account, err error) {
	var ce *provision.CallError
	if !errors.As(err, &ce) || errors.Is(err, provision.ErrCircuitOpen) || errors.Is(err, provision.ErrNotAsked) || errors.Is(err, context.Canceled) {
		return
	}
	switch ce.Verdict {
	case provision.VerdictUnknown, provision.VerdictNotSent, provision.VerdictThrottled:
		c.status.Erred(ce.Target, fmt.Errorf("for %s: %w", as.Tenant, err))
	}
}

// watchedSecrets tells the status page of errors that are Vault's. That a tenant has no such secret is
// none.
type watchedSecrets struct {
	provision.Secrets
	status *ops.Status
}

// Credentials implements provision.Secrets.
func (s watchedSecrets) Credentials(ctx context.Context, tenant string, fresh bool) (provision.Credentials, error) {
	creds, err := s.Secrets.Credentials(ctx, tenant, fresh)
	s.tell(tenant, err)
	return creds, err
}

// Resolve implements provision.Secrets.
func (s watchedSecrets) Resolve(ctx context.Context, tenant string, ref provision.SecretRef, fresh bool) (provision.Secret, error) {
	secret, err := s.Secrets.Resolve(ctx, tenant, ref, fresh)
	s.tell(tenant, err)
	return secret, err
}

func (s watchedSecrets) tell(tenant string, err error) {
	var se *provision.SecretError
	if errors.As(err, &se) && se.Problem != provision.SecretMissing && !se.Cached && !errors.Is(err, context.Canceled) {
		s.status.Erred(provision.TargetVault, fmt.Errorf("for %s: %w", tenant, err))
	}
}

// The status page's view of what it watches.
var (
	_ ops.Ledger            = shelf{}
	_ provision.Gate        = timedGate{}
	_ provision.Connections = watchedConnections{}
	_ provision.Secrets     = watchedSecrets{}
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

// inWork finds the status page's task of a request. The zero value is empty.
type inWork struct {
	mu    sync.Mutex
	tasks map[delivered]*ops.Task // :: delivery → its task; guarded by mu
}

// delivered names one delivery of one request in this process.
type delivered struct {
	key provision.Key
	seq uint64
	n   uint64
}

func deliveryOf(d provision.Delivery) delivered {
	return delivered{d.Request.Key, d.Seq, d.Delivered}
}

func (w *worker) started(d provision.Delivery) {
	task := w.status.Started(d.Request.Key, d.Seq)
	w.inWork.mu.Lock()
	defer w.inWork.mu.Unlock()
	if w.inWork.tasks == nil {
		w.inWork.tasks = map[delivered]*ops.Task{}
	}
	w.inWork.tasks[deliveryOf(d)] = task
}

func (w *worker) settled(d provision.Delivery, out provision.Outcome) {
	w.inWork.mu.Lock()
	task := w.inWork.tasks[deliveryOf(d)]
	delete(w.inWork.tasks, deliveryOf(d))
	w.inWork.mu.Unlock()
	if task != nil {
		task.Done()
	}
	if out.Result != nil {
		w.status.Concluded(*out.Result, out.Repeat)
	}
}

// reached tells the request's tasks where it stands.
func (i *inWork) reached(rec provision.Record) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for d, task := range i.tasks {
		if d.key == rec.Key && d.seq == rec.HeldSeq {
			task.Reached(rec.State)
		}
	}
}

// watchedLedger tells of every record that was stored, of every call that failed, and how every write ended.
type watchedLedger struct {
	provision.Ledger
	stored func(provision.Record)
	failed func(error)
	wrote  func(error)
}

// Load implements provision.Ledger.
func (l *watchedLedger) Load(ctx context.Context, key provision.Key) (provision.Record, uint64, error) {
	rec, rev, err := l.Ledger.Load(ctx, key)
	if err != nil {
		l.failed(err)
	}
	return rec, rev, err
}

// Store implements provision.Ledger.
func (l *watchedLedger) Store(ctx context.Context, key provision.Key, rec provision.Record, rev uint64) (uint64, error) {
	next, err := l.Ledger.Store(ctx, key, rec, rev)
	l.wrote(err)
	if err != nil {
		l.failed(err)
	} else {
		l.stored(rec)
	}
	return next, err
}

// answerTenants answers tenants' questions until ctx ends. They have a connection of their own, for tenants
// can send more than it takes, and have the server cut it off: whatever becomes of it is told to the log,
// and nothing to the work.
func (w *worker) answerTenants(ctx context.Context) {
	log := w.log.With("part", "inquiry")
	nc, err := w.dial(w.instance+" questions", log)
	if err == nil {
		defer closeNATS(nc)
		inquiry.Quiet(nc, log)
		err = inquiry.Run(ctx, inquiry.Config{Conn: nc, Log: log, Find: w.find})
	}
	if err != nil {
		log.Error("tenants' questions are not answered", "error", err)
	}
}

// find reads for an answer, as the status page does.
func (w *worker) find(ctx context.Context, tenant, source, id string) iter.Seq2[provision.Record, error] {
	return shelf{w}.list(ctx, ledger.Filter{Tenant: tenant, Source: source, ID: id})
}
