package provision

import (
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"time"
)

// ledgerTries bounds how often one ledger write is tried before the message is given back.
const ledgerTries = 6

// firstWriteWait is at most how long a message rests whose record couldn't be written for the first time.
const firstWriteWait = 5 * time.Second

// errLost means that another worker wrote the record: what this one wanted to write is void.
var errLost = errors.New("provision: another worker changed the record")

// load reads the record, trying a few times.
func (t *task) load(ctx context.Context) (Record, uint64, error) {
	waits := t.hub.newLedgerWaits()
	for try := 1; ; try++ {
		rec, rev, err := t.hub.Ledger.Load(ctx, t.d.Request.Key)
		if err == nil || errors.Is(err, ErrNoRecord) || try == ledgerTries {
			return rec, rev, err
		}
		if err := t.hub.Clock.Sleep(ctx, waits.next()); err != nil {
			return Record{}, 0, err
		}
	}
}

// write stores t.rec. Where it returns false, next is where to go instead: the write is void or
// nobody knows, and the step must not do what it wanted to announce.
func (t *task) write(ctx context.Context) (next step, ok bool) {
	switch err := t.store(ctx); {
	case err == nil:
		return nil, true
	case errors.Is(err, errLost):
		return t.lost, false
	default:
		t.log(slog.LevelWarn, "the ledger cannot be written", slog.Any("error", err))
		wait := t.hub.RetryDelayMax
		if t.rev == 0 {
			wait = min(wait, firstWriteWait) // it was tried only once
		}
		return t.back(t.hub.jitter(wait), "the ledger cannot be written"), false
	}
}

// store writes t.rec by compare-and-set until it is known to be stored, known to be void, or
// ledgerTries are used up. A write that failed may have been stored all the same, so it is read
// back, and only the very nonce of this write counts as ours. The end of ctx doesn't cut it: what
// is written here was done already, or must not be left half announced. A record's first write isn't
// repeated: the ledger may be gone, and be made anew before the next try, so the request has to be
// looked up first, as the message's next delivery does.
func (t *task) store(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	now := t.hub.Clock.Now()
	t.rec.Owner, t.rec.Nonce, t.rec.UpdatedAt = t.hub.Instance, t.hub.nonce(), now
	t.rec.HeldUntil = now.Add(t.hub.holdTime())
	waits := t.hub.newLedgerWaits()
	for try := 1; ; try++ {
		rev, err := t.hub.Ledger.Store(ctx, t.d.Request.Key, t.rec, t.rev)
		if err == nil {
			t.rev = rev
			return nil
		}
		if rev, known := t.readBack(ctx); known != nil {
			if *known {
				t.rev = rev
				return nil
			}
			return errLost
		}
		if try == ledgerTries || t.rev == 0 {
			return err
		}
		if err := t.hub.Clock.Sleep(ctx, waits.next()); err != nil {
			return err
		}
	}
}

// readBack tells whether the record now in the ledger is the one that store wants there. It returns
// nil where that isn't known, or where the record is still the one before.
func (t *task) readBack(ctx context.Context) (uint64, *bool) {
	cur, rev, err := t.hub.Ledger.Load(ctx, t.d.Request.Key)
	switch {
	case errors.Is(err, ErrNoRecord) && t.rev != 0:
		gone := false
		return 0, &gone
	case err != nil || rev == t.rev:
		return 0, nil
	}
	ours := cur.Nonce == t.rec.Nonce
	return rev, &ours
}

// lost follows a write that another worker's write made void: the record is theirs. If they have
// concluded it, that outcome is told; else the message rests.
func (t *task) lost(ctx context.Context) step {
	if t.rev == 0 {
		return t.examine // it was no new request
	}
	rec, rev, err := t.load(ctx)
	switch {
	case err != nil || !rec.State.Final() || rec.Fingerprint != t.d.Request.Fingerprint:
	case rec.Retry < t.d.Request.Retry:
		return t.examine // what was written is that the last outcome is published: the retry is yet to begin
	default:
		t.rec, t.rev = rec, rev
		return t.repeat
	}
	return t.back(t.hub.jitter(t.hub.RetryDelayMax), "another worker took it over")
}

// holdTime is the longest time between two ledger writes of one delivery: all its waiting, a call
// that began at the end of it, and a look-up over many pages.
func (h *Hub) holdTime() time.Duration { return h.RetryElapsed + 2*h.FlowTimeout + ClockSkew }

// nonce returns 32 fresh hex digits.
func (h *Hub) nonce() string {
	b := make([]byte, 16)
	if h.Rand == nil {
		_, _ = crand.Read(b) // never fails: crypto/rand ends the program instead
		return hex.EncodeToString(b)
	}
	h.randMu.Lock()
	defer h.randMu.Unlock()
	for i := range b {
		b[i] = byte(h.Rand.UintN(256))
	}
	return hex.EncodeToString(b)
}
