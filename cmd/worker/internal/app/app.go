// Package app wires the worker: it is the one place where the hub meets NATS, Vault and the Flow
// Service. The run command, the demo and tests all go through Run.
//
// It knows no signals, no environment and no exit codes.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/ops"
)

// Deps is what Run needs beside the settings. The zero value is usable.
type Deps struct {
	Log *slog.Logger // nil means no log

	// Instance begins the name of this process in the ledger and at NATS, such as the host's name;
	// something random is added. Empty means "worker".
	Instance string
	Build    Build

	// NATSRemedy says what to do where NATS can't be reached, empty where it doesn't know. Nil means never.
	NATSRemedy func(error) string

	// Ready is called once, when the worker takes requests for the first time. Nil means nobody asks.
	Ready func(Addresses)
}

// Build says which program runs, for metrics and status page.
type Build struct {
	Version, Commit, Go string
}

// Addresses are where the worker listens, with the actual ports.
type Addresses struct {
	HTTP   string // metrics and health
	Status string // status page
}

// Run is the worker. When ctx ends it takes in nothing more, finishes what is in flight within
// Settings.ShutdownTimeout and returns nil. Neither NATS nor Vault nor the Flow Service has to be
// there at the start, and none of them being away ends it; an error is one of the settings or of
// this machine, or of a drain that took too long.
func Run(ctx context.Context, s settings.Settings, d Deps) error {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	listeners, err := listen(ctx, s)
	if err != nil {
		return err
	}
	defer listeners.close()
	w, err := newWorker(ctx, s, d)
	if err != nil {
		return err
	}
	defer w.close()
	return w.run(ctx, listeners)
}

// run runs all parts until ctx ends or one of them fails, then stops them in order: the intake
// first, and what the work in flight needs (Vault, health, metrics) only when that is done.
func (w *worker) run(ctx context.Context, l *listeners) error {
	defer context.AfterFunc(ctx, func() { w.stopped.Store(time.Now().UnixNano()) })()
	after, stopRest := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRest()
	rest, restCtx := errgroup.WithContext(after)
	rest.Go(func() error { return ops.Serve(restCtx, l.http, ops.NewHandler(w.health, w.registry), w.log) })
	rest.Go(func() error {
		return ops.Serve(restCtx, l.status, ops.NewStatusHandler(w.status, ops.StatusOptions{Pprof: w.settings.Pprof}), w.log)
	})
	rest.Go(func() error { return w.vault.Run(restCtx) })
	rest.Go(func() error { w.guard.run(restCtx, w.consumer.Recheck); return nil })
	rest.Go(func() error { w.writes.Run(restCtx, w.probes()); return nil })
	if w.settings.AnswerTenants {
		rest.Go(func() error { w.answerTenants(restCtx); return nil })
	}

	intake, stopIntake := context.WithCancel(ctx)
	defer stopIntake()
	defer context.AfterFunc(restCtx, stopIntake)() // a part that fails ends the intake too
	w.log.Info("worker started", "version", w.deps.Build.Version, "instance", w.instance, "http", l.addresses().HTTP, "status", l.addresses().Status)
	go w.reportReady(intake, l.addresses())
	err := w.consumer.Run(intake)
	stopRest()
	err = errors.Join(err, rest.Wait())
	w.log.Info("worker stopped", "error", err)
	return err
}

// readyPoll is how often the worker looks whether it has become ready, at the start only.
const readyPoll = 20 * time.Millisecond

// reportReady calls Deps.Ready as soon as every check is passed.
func (w *worker) reportReady(ctx context.Context, at Addresses) {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for !w.health.Report(ctx).Ready {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	w.log.Info("worker is ready")
	if w.deps.Ready != nil {
		w.deps.Ready(at)
	}
}

// listeners are the worker's two ports.
type listeners struct{ http, status net.Listener }

// listen opens both ports before anything else is done, so that a port that is taken is reported at once.
func listen(ctx context.Context, s settings.Settings) (*listeners, error) {
	var conf net.ListenConfig
	metrics, err := conf.Listen(ctx, "tcp", s.HTTPAddr)
	if err != nil {
		return nil, fmt.Errorf("WORKER_HTTP_ADDR: %w; set another address, or end what uses it", err)
	}
	status, err := conf.Listen(ctx, "tcp", s.StatusAddr)
	if err != nil {
		_ = metrics.Close()
		return nil, fmt.Errorf("WORKER_STATUS_ADDR: %w; set another address, or end what uses it", err)
	}
	return &listeners{metrics, status}, nil
}

func (l *listeners) addresses() Addresses {
	return Addresses{HTTP: l.http.Addr().String(), Status: l.status.Addr().String()}
}

// close is for the case that nobody has come to serve; else they are closed already.
func (l *listeners) close() {
	_ = l.http.Close()
	_ = l.status.Close()
}

// closeNATS lets what was written leave and then closes the connection.
func closeNATS(nc *nats.Conn) {
	if nc.IsConnected() {
		_ = nc.FlushTimeout(time.Second) // what is lost here comes again
	}
	nc.Close()
}
