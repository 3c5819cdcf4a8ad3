package app

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/flow-worker/flow-worker/internal/ledger"
)

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
