package consumer

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// How the ledger is looked through.
const (
	maxSuspects  = 20_000         // records that have not ended, remembered between looks
	maxQuestions = 500            // records in one look whose messages are asked for
	afresh       = 24 * time.Hour // how often the whole ledger is read, should it have been made anew
)

// ledgerSweep looks for requests that have not ended and that no message carries any more. It reads
// every revision of the ledger once, and remembers what has not ended until it has.
//
// It only reports them. To go on with one takes its data, and the ledger has just a fingerprint of them;
// what has not ended has no dead letter either. To end it as failed would be wrong where its POST made a
// connection, and would take its sender's chance to send the same again, with which it goes on.
type ledgerSweep struct {
	*Consumer
	next     uint64 // revision to go on from
	begun    time.Time
	suspects map[provision.Key]suspect
}

// suspect is a record that has not ended.
type suspect struct {
	Written
	stuck bool
}

func newLedgerSweep(c *Consumer) *ledgerSweep {
	return &ledgerSweep{Consumer: c, suspects: map[provision.Key]suspect{}}
}

func (s *ledgerSweep) look(ctx context.Context) {
	if time.Since(s.begun) > afresh {
		s.next, s.begun = 0, time.Now()
	}
	s.read(ctx)
	q, err := OpenQueue(ctx, s.JS, s.Codec)
	if err != nil {
		s.Log.Debug("the ledger can't be compared with the queue", "error", err)
		return
	}
	questions := maxQuestions
	for _, stuck := range []bool{true, false} { // those that were told first, so that the gauge falls in time
		for key, one := range s.suspects {
			if one.stuck == stuck && questions > 0 && ctx.Err() == nil && Overdue(one.Record, time.Now()) {
				questions--
				s.judge(ctx, q, key, one)
			}
		}
	}
	s.count()
}

// read goes on where the last look ended. It stops where there is no room for one more suspect.
func (s *ledgerSweep) read(ctx context.Context) {
	left := s.Sweep.LedgerLimit
	for w, err := range s.Sweep.Records(ctx, s.next) {
		if err != nil {
			s.Log.Debug("the ledger can't be looked through", "error", err)
			s.Recheck(err)
			return
		}
		old, known := s.suspects[w.Record.Key]
		switch {
		case w.Record.State.Final():
			delete(s.suspects, w.Record.Key)
		case !known && len(s.suspects) >= maxSuspects:
			return
		case !known || old.Revision < w.Revision:
			w.Record.Attempts = nil // nobody needs them here
			s.suspects[w.Record.Key] = suspect{Written: w}
		}
		s.next = w.Revision + 1
		if left--; left <= 0 {
			return
		}
	}
}

// judge finds out whether one overdue request is stuck.
func (s *ledgerSweep) judge(ctx context.Context, q *Queue, key provision.Key, one suspect) {
	gone, err := q.Gone(ctx, one.Record)
	if err != nil {
		return
	}
	rec, rev, err := s.Sweep.Load(ctx, key)
	switch {
	case errors.Is(err, provision.ErrNoRecord), err == nil && rec.State.Final():
		delete(s.suspects, key)
		return
	case err != nil:
		return
	case rev != one.Revision:
		rec.Attempts = nil
		s.suspects[key] = suspect{Written: Written{rec, rev}}
		return
	}
	if gone && !one.stuck {
		e := provision.Errand{Key: key, Seq: rec.HeldSeq, Delivered: rec.HeldDelivered, Attempt: rec.Posts, Trace: rec.Trace}
		s.Log.LogAttrs(ctx, slog.LevelError, "a request is stuck: it has not ended, and no message carries it any more",
			append(e.Attrs(), slog.String("state", string(rec.State)), slog.Time("since", rec.UpdatedAt), slog.String("remedy", StuckRemedy))...)
	}
	one.stuck = gone
	s.suspects[key] = one
}

// StuckRemedy says what to do about a request that no message carries any more.
const StuckRemedy = "send the very same request (tenant, source, id and data) again: it goes on where it was, and looks for its connection before it posts anything"

func (s *ledgerSweep) count() {
	n := 0
	for _, one := range s.suspects {
		if one.stuck {
			n++
		}
	}
	s.Metrics.stuck.Set(float64(n))
}
