package app

import (
	"context"
	"iter"

	"github.com/flow-worker/flow-worker/internal/inquiry"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

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
