package app

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/tracing"
)

// traces is what exports spans, if the settings ask for it. The zero value exports nothing: nothing runs,
// nothing is sent, and what would be traced goes by untouched.
type traces struct {
	tracer  *tracing.Tracer // nil where nothing is exported
	stopped atomic.Int64    // when the worker was told to stop, in ns since the epoch; 0 before
	unwatch func() bool
}

// newTraces starts the export that the settings ask for. The end of ctx tells the worker to stop.
func (w *worker) newTraces(ctx context.Context) {
	if !w.settings.Tracing.Export {
		return
	}
	log := w.log.With("part", "traces")
	tracer, err := tracing.New(tracing.Config{Env: w.settings.Tracing.Env, Version: w.deps.Build.Version, Instance: w.instance, Log: log})
	if err != nil { // the work does not depend on it
		log.Warn("no spans are exported", "error", err)
		return
	}
	w.traces.tracer = tracer
	w.traces.unwatch = context.AfterFunc(ctx, func() { w.traces.stopped.Store(time.Now().UnixNano()) })
}

// forConsumer returns what the consumer begins spans with, nil for nothing.
func (t *traces) forConsumer() provision.Tracer {
	if t.tracer == nil {
		return nil
	}
	return t.tracer
}

// ledger returns l as it is to be used.
func (t *traces) ledger(l provision.Ledger) provision.Ledger {
	if t.tracer == nil {
		return l
	}
	return t.tracer.Ledger(l)
}

// transport is what clients wrap their transports by, nil for nothing.
func (t *traces) transport() func(string, func(*http.Request) string, http.RoundTripper) http.RoundTripper {
	if t.tracer == nil {
		return nil
	}
	return t.tracer.Transport
}

// How long the last spans may take to leave: what is left of the shutdown timeout, within these bounds.
const (
	flushLeast = time.Second
	flushMost  = 10 * time.Second
)

// close exports what is left, for as long as the shutdown may last.
func (t *traces) close(shutdown time.Duration) error {
	if t.tracer == nil {
		return nil
	}
	t.unwatch()
	left := shutdown
	if at := t.stopped.Load(); at != 0 {
		left -= time.Since(time.Unix(0, at))
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(max(left, flushLeast), flushMost))
	defer cancel()
	return t.tracer.Shutdown(ctx)
}
