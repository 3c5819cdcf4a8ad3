package app

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/flow-worker/flow-worker/internal/consumer"
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

// How the ledger is looked at for records that were lost.
const (
	guardEvery  = 5 * time.Second // roughly; also how long one look may take
	tellAgain   = time.Hour       // a loss that is found to be this much later is told again
	lostRemedy  = "nothing is to be done, but find out why: for 30 days from then on every new request is looked up before its first POST, lest a repeat makes a second connection"
	noteTrouble = "what was lost of the ledger can't be noted there; every worker has to find out by itself"
)

// ledgerGuard looks again and again whether the ledger has lost records, and tells the log.
type ledgerGuard struct {
	ledger.Guard
	book       *atomic.Pointer[ledger.Ledger] // the one that is open, nil before
	reconnects func() uint64                  // how often the connection was made again
	every      time.Duration                  // between looks
	log        *slog.Logger

	checked atomic.Uint64 // what reconnects said when the last look began that went well
	flight  singleflight.Group

	tellMu  sync.Mutex
	told    time.Time // of losses, the last that the log has; guarded by tellMu
	trouble time.Time // when the log was last told that nothing can be noted; guarded by tellMu
}

// check looks once. What it found can't be noted is no error.
func (g *ledgerGuard) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, guardEvery)
	defer cancel()
	reconnects := g.reconnects()
	book := g.book.Load()
	if book == nil {
		return errNoLedger
	}
	err := g.Check(ctx, book)
	g.tell(err)
	if errors.Is(err, ledger.ErrNotNoted) {
		err = nil
	}
	if err == nil {
		g.checked.Store(reconnects)
	}
	return err
}

// checkOnceConnected looks if nobody has since the connection was made again. Callers at the same time
// share one look.
func (g *ledgerGuard) checkOnceConnected(ctx context.Context) error {
	for g.checked.Load() != g.reconnects() {
		if _, err, _ := g.flight.Do("", func() (any, error) { return nil, g.check(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// run looks until ctx ends, and tells failed of looks that fail.
func (g *ledgerGuard) run(ctx context.Context, failed func(error)) {
	timer := time.NewTimer(g.every)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if err := g.check(ctx); err != nil && ctx.Err() == nil {
			g.log.Debug("the ledger can't be looked at", "error", err)
			failed(err)
		}
		timer.Reset(time.Duration((0.75 + rand.Float64()/2) * float64(g.every)))
	}
}

// lookFirstUntil returns until when a request that is new to the ledger may be a repeat of one whose
// record was lost.
func (g *ledgerGuard) lookFirstUntil() time.Time {
	at := g.LostAt()
	if at.IsZero() {
		return at
	}
	return at.Add(ledger.DefaultTTL)
}

// tell logs a loss that still matters, and that it can't be noted.
func (g *ledgerGuard) tell(err error) {
	g.tellMu.Lock()
	defer g.tellMu.Unlock()
	now, at, until := time.Now(), g.LostAt(), g.lookFirstUntil()
	if at.Sub(g.told) > tellAgain && now.Before(until) {
		g.told = at
		g.log.Warn("the ledger may have lost records", "written_before", at, "look_first_until", until, "remedy", lostRemedy)
	}
	if errors.Is(err, ledger.ErrNotNoted) && now.Sub(g.trouble) > tellAgain {
		g.trouble = now
		g.log.Warn(noteTrouble, "error", err)
	}
}

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
