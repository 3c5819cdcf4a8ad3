package app

import (
	"context"
	"iter"

	"github.com/flow-worker/flow-worker/internal/inquiry"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// inquiries says how tenants' questions are answered: from the ledger, as the status page reads it.
func (w *worker) inquiries() inquiry.Config {
	return inquiry.Config{
		Conn: w.nats, Log: w.log.With("part", "inquiry"),
		Find: func(ctx context.Context, tenant, source, id string) iter.Seq2[provision.Record, error] {
			return shelf{w}.list(ctx, ledger.Filter{Tenant: tenant, Source: source, ID: id})
		},
	}
}
