package app

import (
	"context"
	"errors"
	"iter"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// errNoLedger means that the ledger has not been opened yet.
var errNoLedger = errors.New("the ledger is not open yet")

// sweep lets the consumer, which knows no ledger, look through the one that is open.
func (w *worker) sweep() consumer.SweepConfig {
	return consumer.SweepConfig{Records: w.recordsFrom, Load: w.record}
}

// recordsFrom yields the records that were written at a revision or later. What can't be decoded was
// written by a newer worker, whose business it is.
func (w *worker) recordsFrom(ctx context.Context, revision uint64) iter.Seq2[consumer.Written, error] {
	return func(yield func(consumer.Written, error) bool) {
		book := w.book.Load()
		if book == nil {
			yield(consumer.Written{}, errNoLedger)
			return
		}
		for e, err := range book.List(ctx, ledger.Filter{From: revision}) {
			if errors.Is(err, ledger.ErrUndecodable) {
				continue
			}
			if !yield(consumer.Written{Record: e.Record, Revision: e.Revision}, err) {
				return
			}
		}
	}
}

func (w *worker) record(ctx context.Context, key provision.Key) (provision.Record, uint64, error) {
	book := w.book.Load()
	if book == nil {
		return provision.Record{}, 0, errNoLedger
	}
	return book.Load(ctx, key)
}
