package consumer

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// SweepConfig says how a Consumer looks for requests that nobody would ever work on again. The zero
// value looks at the queue only.
type SweepConfig struct {
	Interval       time.Duration // between looks at the queue; 0 means 1 min, negative means never
	LedgerInterval time.Duration // between looks at the ledger; 0 means 10 min, negative means never
	LedgerLimit    int           // records read in one look; 0 means 5000

	// Records yields the ledger's records that were last written at revision from or later, in the
	// order of their revisions. Records that can't be read are left out; an error ends it. Nil means
	// that the ledger is not looked at.
	Records func(ctx context.Context, from uint64) iter.Seq2[Written, error]
	// Load returns a record as it is now, and its revision. It must be set if Records is.
	Load func(context.Context, provision.Key) (provision.Record, uint64, error)
}

// Written is a ledger record and the revision that it was written at.
type Written struct {
	Record   provision.Record
	Revision uint64
}

func (c SweepConfig) withDefaults() SweepConfig {
	c.Interval = or(c.Interval, time.Minute)
	c.LedgerInterval = or(c.LedgerInterval, 10*time.Minute)
	c.LedgerLimit = or(c.LedgerLimit, 5000)
	if c.Records == nil {
		c.LedgerInterval = -1
	}
	return c
}

// patience is how long after its time a request is left alone before it counts as overdue: longer than
// messages rest and clocks differ.
const patience = 20 * time.Minute

// Overdue reports whether rec has not ended although nobody can be at work on it any more. Its message
// may be in the stream all the same, waiting for its turn or for the end of a pause.
func Overdue(rec provision.Record, now time.Time) bool {
	last := rec.HeldUntil
	for _, t := range []time.Time{rec.UpdatedAt, rec.PostedAt.Add(rec.Lease), rec.NotBefore} {
		if t.After(last) {
			last = t
		}
	}
	return !rec.State.Final() && now.Sub(last) > patience
}

// sweep runs both looks until ctx ends. Each process has its own rhythm, so that a fleet's don't fall
// together.
func (c *Consumer) sweep(ctx context.Context) {
	c.loops.Go(func() { every(ctx, c.Sweep.Interval, (&queueSweep{Consumer: c}).look) })
	c.loops.Go(func() { every(ctx, c.Sweep.LedgerInterval, newLedgerSweep(c).look) })
}

// every calls f again and again, with jitter; never for a negative interval. A call has as much time as
// there is between two.
func every(ctx context.Context, interval time.Duration, f func(context.Context)) {
	for interval > 0 {
		sleep(ctx, jitter(interval))
		if ctx.Err() != nil {
			return
		}
		within, cancel := context.WithTimeout(ctx, max(interval, time.Minute))
		f(within)
		cancel()
	}
}

// queueSweep looks for messages that will never be delivered again. The worker may neither delete nor
// publish requests, nor delete the consumer, and a copy under another sequence could be another request
// (a message without an id is named by its place in the stream): so it reports, and people decide.
type queueSweep struct {
	*Consumer
	suspected uint64 // by the last look
	told      uint64 // in the log
}

func (s *queueSweep) look(ctx context.Context) {
	s.mendConsumer(ctx)
	s.missObjects(ctx)
	q, err := OpenQueue(ctx, s.JS, s.Codec)
	if err != nil {
		s.Log.Debug("the queue can't be looked through", "error", err)
		return
	}
	n, err := q.Orphans(ctx, min(orphanGap, max(s.Sweep.Interval/10, time.Millisecond)))
	if err != nil {
		s.Log.Debug("the queue can't be looked through", "error", err)
		return
	}
	sure := min(n, s.suspected)
	s.suspected = n
	s.Metrics.orphans.Set(float64(sure))
	if sure > 0 && sure != s.told {
		s.Log.Error("messages in the queue will never be delivered again", "messages", sure, "stream", StreamRequests, "remedy", OrphanRemedy)
	}
	s.told = sure
}

// missObjects looks for what nobody else misses while no request comes. The ledger is to be noticed also
// where another worker made it anew meanwhile: it knows nothing of the requests before.
func (s *queueSweep) missObjects(ctx context.Context) {
	for _, name := range []string{StreamResults, StreamDeadLetters} {
		if _, err := s.JS.Stream(ctx, name); err != nil {
			s.Recheck(fmt.Errorf("stream %s: %w", name, err))
		}
	}
	if s.Objects.Ledger != nil {
		s.Recheck(s.Objects.Ledger(ctx))
	}
}

// OrphanRemedy says what to do about messages that will never be delivered again.
const OrphanRemedy = "delete the consumer " + ConsumerName + " on " + StreamRequests + " (nats consumer rm " + StreamRequests + " " + ConsumerName +
	") and run \"worker init\": all messages are delivered anew then, and the ledger sees to it that nothing is done twice"

// mendConsumer raises a consumer that somebody changed under the running worker, for the next message
// that reaches a limit would be lost sight of.
func (s *queueSweep) mendConsumer(ctx context.Context) {
	have, err := s.JS.Consumer(ctx, StreamRequests, ConsumerName)
	if err != nil {
		return // the intake notices that, too
	}
	change, err := upgradeConsumer(ctx, s.JS, have.CachedInfo().Config, durable(s.Objects.AckWait), s.Objects.Manage)
	switch {
	case err != nil:
		s.Log.Error("the consumer was changed and is not fit for use any more", "name", ConsumerName, "error", err)
	case len(change.Changed) > 0:
		s.Log.Warn("the consumer was changed, and is as it must be again", "name", ConsumerName, "changed", change.Changed)
	}
}
