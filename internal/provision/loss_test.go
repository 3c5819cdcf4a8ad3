package provision

import (
	"context"
	"errors"
	"testing"
	"time"
)

// lossSeen has the first write show that the ledger lost records, such as by its revision.
func lossSeen(s *sim) {
	s.tweak = func(c *Config) {
		c.LookFirstUntil = func() time.Time {
			if s.ledger.last == 0 {
				return time.Time{}
			}
			return s.now.Add(time.Hour)
		}
	}
}

// TestLossThatTheIntentShows: a repeat of a request that a lost ledger knew has its connection, and the
// intent to POST is the first to hear of the loss.
func TestLossThatTheIntentShows(t *testing.T) {
	t.Parallel()
	s, res := play(t, func(s *sim) { lossSeen(s); earlier(s) })
	checkCreated(t, res, true, 0)
	if s.posts != 0 || s.ledger.record(testRequest().Key).Posts != 0 {
		t.Errorf("%d POSTs", s.posts)
	}
	s, res = play(t, lossSeen)
	checkCreated(t, res, false, 1)
	if s.asked != 1 {
		t.Errorf("%d look-ups, want one", s.asked)
	}
}

// TestFirstWriteIsNotRepeated: while it is tried again, the ledger may be deleted and made anew.
func TestFirstWriteIsNotRepeated(t *testing.T) {
	t.Parallel()
	_, res := play(t, func(s *sim) {
		earlier(s)
		failed := false
		s.book = func() error {
			if failed {
				return nil
			}
			failed = true
			return errors.New("no such bucket")
		}
	})
	checkCreated(t, res, true, 0)
}

// TestUnconfirmedWriteIsNoDeath: the worker that wrote the record lives, for it is the one that reads it.
func TestUnconfirmedWriteIsNoDeath(t *testing.T) {
	t.Parallel()
	l, k := newMemLedger(), testRequest().Key
	l.put(Record{Key: k, State: StateClaimed, Fingerprint: "f1", Held: true, HeldSeq: 1, HeldDelivered: 1, Owner: "w",
		Deaths: 4, AloneDeaths: 4, Alone: true, HeldUntil: time.Now().Add(time.Minute), Deadline: time.Now().Add(time.Hour)})
	h := newTestHub(t, func(c *Config) { c.Ledger = l })
	d := delivery()
	d.Delivered = 2
	if out := h.Handle(t.Context(), d); out.Result == nil || out.Result.Error != nil {
		t.Errorf("%+v, want it created, not taken for one that kills workers", out.Result)
	}
}

// TestSuspectSleepsForNobody: while one suspect is worked on all other suspects wait, so what it has to
// wait for it waits for in the stream.
func TestSuspectSleepsForNobody(t *testing.T) {
	t.Parallel()
	l, k := newMemLedger(), testRequest().Key
	l.put(Record{Key: k, State: StateClaimed, Fingerprint: "f1", Held: true, HeldSeq: 1, HeldDelivered: 1, Owner: "dead",
		Deaths: 1, HeldUntil: time.Now().Add(time.Minute), Deadline: time.Now().Add(time.Hour)})
	h := newTestHub(t, func(c *Config) {
		c.Ledger, c.Clock = l, noSleep{t}
		c.Connections = scriptedFlow{create: func(context.Context, time.Time) error {
			return &CallError{Verdict: VerdictThrottled, Target: TargetFlow, Status: 429}
		}}
	})
	d := delivery()
	d.Delivered = 2
	if out := h.Handle(t.Context(), d); out.Result != nil || l.record(k).Handbacks != 1 {
		t.Errorf("%+v, given back %d times", out, l.record(k).Handbacks)
	}
}

// noSleep is a Clock for those who mustn't sleep.
type noSleep struct{ t *testing.T }

func (noSleep) Now() time.Time { return time.Now() }

func (s noSleep) Sleep(context.Context, time.Duration) error {
	s.t.Error("it sleeps")
	return nil
}
