package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// lookRemedy is for what can't be looked at, though the objects are there.
const lookRemedy = "if it says that something is not permitted, use the worker's or an operator's credentials (deploy/nats/accounts.conf); else see NATS's log: JetStream may have no leader"

// orphans looks for messages that will never be delivered again.
func (x *examination) orphans(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	queue, err := consumer.OpenQueue(ctx, js, &event.Decoder{})
	var n uint64
	if err == nil {
		n, err = queue.Orphans(ctx, 0)
	}
	switch {
	case err != nil:
		x.fail("queue", err.Error(), lookRemedy)
	case n > 0:
		x.fail("queue", fmt.Sprintf("messages in %s that will never be delivered again: %d", consumer.StreamRequests, n), consumer.OrphanRemedy)
	default:
		x.ok("queue", "every message will be delivered")
	}
}

// ledger reads the whole ledger once: for requests that are stuck, and for the names of the tenants.
func (x *examination) ledger(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	book, err := ledger.Open(ctx, js, ledger.Config{ByMessage: true})
	if err != nil {
		x.fail("ledger", err.Error(), lookRemedy)
		return
	}
	tenants, specs := map[string]bool{}, map[string]bool{}
	var open []provision.Record
	read, unreadable := 0, 0
	for e, err := range book.List(ctx, ledger.Filter{}) {
		switch {
		case errors.Is(err, ledger.ErrUndecodable):
			unreadable++
			continue
		case err != nil:
			x.warn("ledger", fmt.Sprintf("only %d of its records could be read: %v", read, err), `"worker list --stuck" looks at one tenant only, if told so`)
			return
		}
		read++
		tenants[e.Record.Key.Tenant] = true
		if e.Record.State == provision.StateCreated { // others may name anything
			specs[e.Record.ConnectionSpec.ID] = true
		}
		if !e.Record.State.Final() {
			e.Record.Attempts = nil
			open = append(open, e.Record)
		}
	}
	x.tenants, x.specIDs = slices.Sorted(maps.Keys(tenants)), slices.Sorted(maps.Keys(specs))
	if unreadable > 0 {
		x.warn("ledger", fmt.Sprintf("%d records can't be read", unreadable), "were they written by a newer version? update this one")
	}
	x.stuck(ctx, js, book, open, read)
}

func (x *examination) stuck(ctx context.Context, js jetstream.JetStream, book *ledger.Ledger, open []provision.Record, read int) {
	queue, err := consumer.OpenQueue(ctx, js, &event.Decoder{})
	stuck := 0
	for _, rec := range open {
		if err != nil {
			break
		}
		var is bool
		if is, err = queue.Stuck(ctx, rec, book.Load); is {
			stuck++
		}
	}
	switch {
	case err != nil:
		x.fail("ledger", "it can't be compared with the queue: "+err.Error(), lookRemedy)
	case stuck > 0:
		x.fail("ledger", fmt.Sprintf("requests that are stuck: %d; they have not ended, and no message carries them any more", stuck),
			`"worker list --stuck" names them; `+consumer.StuckRemedy)
	default:
		x.ok("ledger", fmt.Sprintf("%d requests, %d of them under way, none stuck", read, len(open)))
	}
}
