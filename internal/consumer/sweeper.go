package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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
	c.Interval = cmp.Or(c.Interval, time.Minute)
	c.LedgerInterval = cmp.Or(c.LedgerInterval, 10*time.Minute)
	c.LedgerLimit = cmp.Or(c.LedgerLimit, 5000)
	if c.Records == nil {
		c.LedgerInterval = -1
	}
	return c
}

// patience is how long after its time a request is left alone before it counts as overdue: longer than
// messages rest and clocks differ.
const patience = 20 * time.Minute

// Overdue reports whether rec has not ended although nobody can be at work on it any more. Its message
// may be in the stream all the same, waiting to be delivered or for the end of a pause.
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

// queueSweep looks for messages that will never be delivered again, and has the broker deliver them
// where that is safe. See repair.
type queueSweep struct {
	*Consumer
	suspected uint64    // by the last look
	waited    int       // looks since the first one that was sure of orphans
	logged    string    // what was logged last
	tried     time.Time // when the broker was last asked to deliver them
	failed    error     // and why it did not, if so
}

func (s *queueSweep) look(ctx context.Context) {
	unfit := s.restoreConsumer(ctx)
	s.checkObjects(ctx)
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
	if sure > 0 {
		if err := s.repair(ctx, sure, unfit); err == nil {
			sure, s.suspected = 0, 0
		} else {
			s.waited++
			if news := fmt.Sprint(sure, err); news != s.logged {
				s.logged = news
				s.Log.Error("messages in the queue will never be delivered again", "messages", sure, "stream", StreamRequests,
					"not_mended", err, "remedy", OrphanRemedy)
			}
		}
	}
	if sure == 0 {
		s.logged, s.waited = "", 0
	}
	s.Metrics.orphans.Set(float64(sure))
}

// Bounds of the repair.
const (
	repairGap = 60                  // looks, which take an hour, from one try to the next, and until work in flight is no hindrance any more
	repairAge = 29 * 24 * time.Hour // of the oldest message: its ledger record lives 30 days at least
)

// errAgain means that a repair did not last.
var errAgain = errors.New("they were lost sight of again although all were delivered anew not long ago")

// minReset is the first server that can reset a consumer.
var minReset = version{2, 14, 0}

// repair asks the broker to deliver all messages again. It returns nil if the broker does, and
// otherwise why it isn't asked or does not.
//
// This is one request, which the broker does as a whole or not at all, so there is nothing that a crash
// could leave half done; and who asks twice, or two workers at once, have it done twice, which is the
// same. The messages stay where they are: place and time, which name those without an id, are the same
// as before, as are the consumer's settings and a pause. The ledger sees to it that nothing is done
// twice. See repairable for when it is done. It is not while the consumer is unfit, for that reason.
//
// What it does not do, because it would be less safe: publish a copy (for that the worker would need the
// right to make any tenant's requests, and so to send its secrets anywhere), take a message out of the
// stream by another way than the consumer's (two workers would, and each take the other for dead), or
// delete the consumer (a crash would leave none, and a pause would be lost).
func (s *queueSweep) repair(ctx context.Context, orphans uint64, unfit error) error {
	ctx, cancel := context.WithTimeout(ctx, s.PublishTimeout)
	defer cancel()
	stream, err := s.JS.Stream(ctx, StreamRequests)
	if err != nil {
		return fmt.Errorf("stream %s: %w", StreamRequests, err)
	}
	from, err := s.JS.Consumer(ctx, StreamRequests, ConsumerName)
	if err != nil {
		return fmt.Errorf("consumer %s: %w", ConsumerName, err)
	}
	switch {
	case !s.Objects.Manage:
		return errors.New("this worker is not to change the NATS objects")
	case unfit != nil: // they would be lost sight of again
		return unfit
	}
	if err := checkServer(s.JS.Conn(), minReset, "to reset a consumer"); err != nil {
		return err
	}
	if err := s.recently(); err != nil {
		return err
	}
	if err := repairable(stream.CachedInfo(), from.CachedInfo(), s.waited); err != nil {
		return err
	}
	first := max(stream.CachedInfo().State.FirstSeq, 1)
	s.tried, s.failed = time.Now(), errAgain
	_, err = s.JS.ResetConsumerToSequence(ctx, StreamRequests, ConsumerName, first)
	s.Metrics.repaired(repairQueue, err)
	if err != nil {
		s.failed = fmt.Errorf("consumer %s can't be reset; may the worker's user publish on $JS.API.CONSUMER.RESET.%s.%s? %w",
			ConsumerName, StreamRequests, ConsumerName, err)
		return s.failed
	}
	s.Log.Warn("the queue is delivered anew, for it held messages that would never have been delivered again", "messages", orphans, "stream", StreamRequests, "from", first)
	return nil
}

// recently returns what the last repair came to if that was not long ago.
func (s *queueSweep) recently() error {
	if time.Since(s.tried) < repairGap*s.Sweep.Interval {
		return s.failed
	}
	return nil
}

// repairable returns nil if all messages of the queue may be delivered again.
//
// None may be so old that its ledger record may have expired: the broker forgets that it was delivered
// before, so nothing would be looked up before the POST. And it is better to wait, but not for ever,
// until no message is in a worker's hands or rests. Those would come a second time, too early. That does
// no harm, for the ledger has the second one wait, or finds the outcome; but it is work in vain, and
// whoever acknowledges a message just then, before it has come again, waits for the confirmation in vain.
func repairable(stream *jetstream.StreamInfo, info *jetstream.ConsumerInfo, waited int) error {
	switch {
	case oldestIn(stream) > repairAge:
		return fmt.Errorf("the oldest message is older than %v, so its ledger record may have expired", repairAge)
	case info.NumAckPending > 0 && waited < repairGap:
		return errors.New("it waits until no message is in a worker's hands or rests, an hour at most")
	}
	return nil
}

// checkObjects looks for what nobody else misses while no request comes. The ledger is to be noticed also
// where another worker made it again meanwhile: it knows nothing of the requests before.
func (s *queueSweep) checkObjects(ctx context.Context) {
	for _, name := range []string{StreamResults, StreamDeadLetters} {
		stream, err := s.JS.Stream(ctx, name)
		if err != nil {
			s.Recheck(fmt.Errorf("stream %s: %w", name, err))
		} else if name == StreamDeadLetters {
			s.Metrics.deadLetters.Set(float64(stream.CachedInfo().State.Msgs))
		}
	}
	if s.Objects.Ledger != nil {
		s.Recheck(s.Objects.Ledger(ctx))
	}
}

// OrphanRemedy says what to do about messages that will never be delivered again.
const OrphanRemedy = "delete the consumer " + ConsumerName + " on " + StreamRequests + " (nats consumer rm " + StreamRequests + " " + ConsumerName +
	") and run \"worker init\": all messages are delivered anew then, and the ledger sees to it that nothing is done twice"

// restoreConsumer raises a consumer that somebody changed under the running worker, for the next message
// that reaches a limit would be lost sight of. Its error says why the consumer is not fit for use.
func (s *queueSweep) restoreConsumer(ctx context.Context) error {
	have, err := s.JS.Consumer(ctx, StreamRequests, ConsumerName)
	if err != nil {
		return err // the intake notices that, too
	}
	change, err := upgradeConsumer(ctx, s.JS, have.CachedInfo().Config, durable(s.Objects.AckWait), s.Objects.Manage)
	switch {
	case err != nil:
		s.Metrics.repaired(repairConsumer, err)
		s.Log.Error("the consumer was changed and is not fit for use any more", "name", ConsumerName, "error", err)
	case len(change.Changed) > 0:
		s.Metrics.repaired(repairConsumer, nil)
		s.Log.Warn("the consumer was changed, and is as it must be again", "name", ConsumerName, "changed", change.Changed)
	}
	return err
}

// How the ledger is looked through.
const (
	maxSuspects  = 20_000         // records that have not ended, remembered between looks
	maxQuestions = 500            // records in one look whose messages are asked for
	rereadAfter  = 24 * time.Hour // how often the whole ledger is read, should it have been made again
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
	if time.Since(s.begun) > rereadAfter {
		s.next, s.begun = 0, time.Now()
	}
	s.read(ctx)
	q, err := OpenQueue(ctx, s.JS, s.Codec)
	if err != nil {
		s.Log.Debug("the ledger can't be compared with the queue", "error", err)
		return
	}
	questions := maxQuestions
	for _, stuck := range []bool{true, false} { // those that were logged first, so that the gauge falls in time
		for key, one := range s.suspects {
			if one.stuck == stuck && questions > 0 && ctx.Err() == nil && Overdue(one.Record, time.Now()) {
				questions--
				s.check(ctx, q, key, one)
			}
		}
	}
	n := 0
	for _, one := range s.suspects {
		if one.stuck {
			n++
		}
	}
	s.Metrics.stuck.Set(float64(n))
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

// check finds out whether one overdue request is stuck.
func (s *ledgerSweep) check(ctx context.Context, q *Queue, key provision.Key, one suspect) {
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
		e := provision.Purpose{Key: key, Seq: rec.HeldSeq, Delivered: rec.HeldDelivered, Attempt: rec.Posts, Trace: rec.Trace}
		s.Log.LogAttrs(ctx, slog.LevelError, "a request is stuck: it has not ended, and no message carries it any more",
			append(e.Attrs(), slog.String("state", string(rec.State)), slog.Time("since", rec.UpdatedAt), slog.String("remedy", StuckRemedy))...)
	}
	one.stuck = gone
	s.suspects[key] = one
}

// StuckRemedy says what to do about a request that no message carries any more.
const StuckRemedy = "send the very same request (tenant, source, id and data) again: it goes on where it was, and looks for its connection before it posts anything"
