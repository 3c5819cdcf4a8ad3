package app

import (
	"context"
	"sync"
	"time"

	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// hubs holds the hub that works on the ledger of the moment. A hub must know when its ledger came to
// be, and the ledger is only to be had once NATS is; should it be deleted and made anew under a
// running worker, then the next requests need a hub that knows so.
type hubs struct {
	open   func(context.Context) (book provision.Ledger, age ledgerAge, err error)
	guard  *ledgerGuard
	prove  func(context.Context) error // makes sure, once, that the ledger takes writes; nil means nobody does
	config provision.Config            // without the ledger

	mu      sync.RWMutex // guards the rest
	hub     *provision.Hub
	created time.Time // of hub's ledger
}

// renew makes sure of the ledger, and of a hub that works on it. The consumer calls it before it
// takes requests, and again after every trouble.
func (h *hubs) renew(ctx context.Context) error {
	book, age, err := h.open(ctx)
	if err != nil {
		return err
	}
	if err := h.guard.check(ctx); err != nil {
		return err
	}
	if h.prove != nil {
		if err := h.prove(ctx); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hub != nil && h.created.Equal(age.created) {
		return nil
	}
	cfg := h.config
	cfg.Ledger, cfg.LedgerCreated = book, age.created
	replaced := age.lookFirstUntil()
	cfg.LookFirstUntil = func() time.Time { return later(replaced, h.guard.lookFirstUntil()) }
	hub, err := provision.New(cfg)
	if err != nil {
		return err
	}
	h.hub, h.created = hub, age.created
	return nil
}

// ledgerAge says since when there is a ledger, and a stream of requests.
type ledgerAge struct{ created, stream time.Time }

// together is how far apart ledger and stream may have been made by one set-up.
const together = time.Hour

// lookFirstUntil returns until when a request that is new to the ledger may be a repeat of one that an
// earlier ledger knew: a ledger that is much younger than the stream took the place of another.
func (a ledgerAge) lookFirstUntil() time.Time {
	if a.stream.IsZero() || a.created.Sub(a.stream) < together {
		return time.Time{}
	}
	return a.created.Add(ledger.DefaultTTL)
}

// handle works on one delivery. None comes before the first renew. After the connection was lost the
// ledger is looked at before anything else: NATS may have come back without its last writes.
func (h *hubs) handle(ctx context.Context, d provision.Delivery) provision.Outcome {
	if err := h.guard.checkOnceConnected(ctx); err != nil {
		return provision.Outcome{Delay: guardEvery, Why: "the ledger cannot be looked at"}
	}
	h.mu.RLock()
	hub := h.hub
	h.mu.RUnlock()
	return hub.Handle(ctx, d)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
