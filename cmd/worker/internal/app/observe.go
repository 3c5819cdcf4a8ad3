package app

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/flow-worker/flow-worker/internal/ops"
	"github.com/flow-worker/flow-worker/internal/provision"
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
