package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/limit"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// The broker's objects by the names that the consumer and the ledger have for them.
var written = map[string]limit.Object{ // :: stream, consumer or bucket → object
	consumer.StreamResults:     limit.ObjectResults,
	consumer.StreamDeadLetters: limit.ObjectDeadLetters,
	consumer.ConsumerName:      limit.ObjectAcks,
	ledger.DefaultBucket:       limit.ObjectLedger,
}

// wrote takes note of how a write to the broker ended. What was not sent says nothing, and neither does a lost
// compare-and-set; a connection that is down has a check of its own.
func (w *worker) wrote(object string, err error) {
	if err != nil && (!w.nats.IsConnected() || errors.Is(err, context.Canceled) || errors.Is(err, limit.ErrUnprobed) ||
		errors.Is(err, provision.ErrConflict) || errors.Is(err, ledger.ErrTooLarge)) {
		return
	}
	w.writes.Wrote(written[object], err)
}

// probes find out whether the broker takes writes.
func (w *worker) probes() map[limit.Object]limit.Probe {
	return map[limit.Object]limit.Probe{
		limit.ObjectLedger:      {Call: w.whileConnected(w.probeLedger), Proves: true},
		limit.ObjectAcks:        {Call: w.whileConnected(w.whileBound(w.consumer.ProbeAcks)), Proves: true},
		limit.ObjectResults:     {Call: w.whileConnected(w.whileBound(w.probeStream(consumer.StreamResults)))},
		limit.ObjectDeadLetters: {Call: w.whileConnected(w.whileBound(w.probeStream(consumer.StreamDeadLetters)))},
	}
}

func (w *worker) probeStream(stream string) func(context.Context) error {
	return func(ctx context.Context) error { return w.consumer.ProbeStream(ctx, stream) }
}

// proveLedger makes sure that the ledger takes writes before the first request is taken.
func (w *worker) proveLedger(ctx context.Context) error {
	if w.writes.Proved(limit.ObjectLedger) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit.ProbeTimeout)
	defer cancel()
	err := w.probeLedger(ctx)
	w.wrote(ledger.DefaultBucket, err)
	if err != nil {
		return fmt.Errorf("the ledger takes no writes; %s: %w", writesRemedy[limit.ObjectLedger], err)
	}
	return nil
}

func (w *worker) probeLedger(ctx context.Context) error {
	opened := w.ledger.Load()
	if opened == nil {
		return limit.ErrUnprobed
	}
	info, err := w.js.Stream(ctx, "KV_"+ledger.DefaultBucket)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound): // it is made again, or the check of the consumer says that it can't be
		return limit.ErrUnprobed
	case err != nil:
		return err
	}
	return errors.Join(consumer.Room(info.CachedInfo()), w.guard.Prove(ctx, opened))
}

// whileConnected leaves out failures that are those of the connection.
func (w *worker) whileConnected(probe func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := limit.ErrUnprobed
		if w.nats.IsConnected() {
			err = probe(ctx)
		}
		if err != nil && !w.nats.IsConnected() {
			err = limit.ErrUnprobed
		}
		return err
	}
}

// whileBound leaves out failures of what is not there: the consumer looks after that, and has a check of its own.
func (w *worker) whileBound(probe func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if !w.consumer.Status().Bound {
			return limit.ErrUnprobed
		}
		return probe(ctx)
	}
}

// What to do about an object that takes no writes.
var writesRemedy = map[limit.Object]string{ // :: object → remedy
	limit.ObjectLedger:      "give stream KV_" + ledger.DefaultBucket + " room and a leader, and the worker the right to publish to $KV." + ledger.DefaultBucket + ".>",
	limit.ObjectResults:     "give stream " + consumer.StreamResults + " room and a leader, and the worker the right to publish to connections.results.*.*",
	limit.ObjectDeadLetters: "give stream " + consumer.StreamDeadLetters + " room and a leader, and the worker the right to publish to connections.deadletters.*",
	limit.ObjectAcks:        "give consumer " + consumer.ConsumerName + " a leader, and the worker the right to publish to $JS.ACK." + consumer.StreamRequests + "." + consumer.ConsumerName + ".>",
}

// takesWrites is the check of one object.
func (w *worker) takesWrites(o limit.Object) func(context.Context) error {
	return func(context.Context) error {
		for _, f := range w.writes.Failing() {
			if f.Object == o {
				return fmt.Errorf("takes no writes since %s, so no requests are taken in; %s (%w)", f.Since.UTC().Format(time.RFC3339), writesRemedy[o], f.Err)
			}
		}
		return nil
	}
}
