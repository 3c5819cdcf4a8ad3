package app

import (
	"context"
	"sync"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// hubs holds the hub that works on the ledger of the moment. A hub must know when its ledger came to
// be, and the ledger is only to be had once NATS is; should it be deleted and made anew under a
// running worker, then the next requests need a hub that knows so.
type hubs struct {
	open   func(context.Context) (book provision.Ledger, created time.Time, err error)
	config provision.Config // without the ledger

	mu      sync.RWMutex // guards the rest
	hub     *provision.Hub
	created time.Time // of hub's ledger
}

// renew makes sure of the ledger, and of a hub that works on it. The consumer calls it before it
// takes requests, and again after every trouble.
func (h *hubs) renew(ctx context.Context) error {
	book, created, err := h.open(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hub != nil && h.created.Equal(created) {
		return nil
	}
	cfg := h.config
	cfg.Ledger, cfg.LedgerCreated = book, created
	hub, err := provision.New(cfg)
	if err != nil {
		return err
	}
	h.hub, h.created = hub, created
	return nil
}

// handle works on one delivery. None comes before the first renew.
func (h *hubs) handle(ctx context.Context, d provision.Delivery) provision.Outcome {
	h.mu.RLock()
	hub := h.hub
	h.mu.RUnlock()
	return hub.Handle(ctx, d)
}
