package provision

import (
	"errors"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// How a wait is chosen: seconds are waited for in process, what is longer rests in the stream.

// pause waits before phase next is entered, at least atLeast.
func (s *situation) pause(atLeast time.Duration, next phase) action {
	s.tries++
	wait := max(s.jitter(s.backoff()), atLeast)
	if until := s.wakeBy(); until > 0 {
		wait = min(wait, until)
	}
	tooLong := wait > s.cfg.RetryDelayMax || s.at.now.Add(wait).Sub(s.started) > s.cfg.RetryElapsed
	if tooLong || s.alone || s.at.stopping {
		return s.handBack(atLeast)
	}
	s.phase, s.resume, s.atLeast = phaseWait, next, atLeast
	return action{do: doWait, wait: wait, write: s.rev == 0}
}

// backoff returns the wait after so many tries, before jitter. A request that was given back before has had its quick
// tries already, and begins where it left off.
func (s *situation) backoff() time.Duration {
	first := s.cfg.RetryInitial
	if s.rec.Handbacks > 0 {
		first = s.cfg.RetryDelayMax
	}
	policy := newBackoff(first, s.cfg.RetryDelayMax)
	for range min(s.tries, maxDoublings) - 1 {
		policy.NextBackOff()
	}
	return policy.NextBackOff()
}

// maxDoublings is more than any wait between its first and its longest value takes.
const maxDoublings = 30

// newBackoff returns a backoff that doubles and never stops; jitter comes after it, for MaxInterval caps before
// the library's own.
func newBackoff(first, longest time.Duration) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(min(first, longest)), backoff.WithMaxInterval(longest),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(0), backoff.WithMaxElapsedTime(0))
}

// wakeBy returns how long until something must be decided even if nothing has changed: the deadline
// of a request without an open POST, the end of Settle for one with.
func (s *situation) wakeBy() time.Duration {
	if s.rec.State == StateUnknown {
		if left := s.settledAt().Sub(s.at.now); left > 0 {
			return left + time.Millisecond
		}
	}
	return s.rec.Deadline.Sub(s.at.now)
}

// handBack records that nobody has the request and lets its message rest, at least atLeast: the longer, the more
// often it was given back.
func (s *situation) handBack(atLeast time.Duration) action {
	d := s.cfg.RetryDelayMax
	for range min(s.rec.Handbacks, maxDoublings) {
		d = min(2*d, s.cfg.RedeliveryDelayMax)
	}
	delay := d/2 + s.jitter(d/2)
	if atLeast > 0 {
		delay = max(delay, atLeast)
		s.rec.NotBefore = s.at.now.Add(atLeast)
	}
	if s.at.stopping {
		delay = max(time.Second, atLeast) // it is us who stop, not the target
	}
	if until := s.wakeBy(); until > 0 {
		delay = min(delay, until)
	}
	s.rec.Handbacks++
	return s.rest(min(delay, s.cfg.RedeliveryDelayMax), whyLater)
}

// Outcome.Why of messages that are to be tried again, and of those that wait for a secret.
const (
	whyLater   = "to be tried again later"
	whyMissing = "a secret is missing, and may yet appear"
)

// rest records that nobody has the request, and gives its message back for d.
func (s *situation) rest(d time.Duration, why string) action {
	s.rec.Held, s.rec.RestUntil = false, s.at.now.Add(d)
	s.rec.note(handback(s.at.now, s.rec.State, d))
	return written(s.back(d, why))
}

// handback returns the attempt that says how long a message rests; the request's story reads it.
func handback(at time.Time, st State, delay time.Duration) Attempt {
	return Attempt{At: at, Step: "handback", Result: string(st), Detail: "for " + delay.Round(time.Millisecond).String()}
}

// restAfterAbsent returns how long a request rests before its next POST after several that were
// settled as absent: each is a chance of two connections, should the list not show all.
func (s *situation) restAfterAbsent() time.Duration {
	if s.rec.Posts < 2 {
		return 0
	}
	d := s.cfg.RetryDelayMax
	for range min(s.rec.Posts-2, maxDoublings) {
		d = min(2*d, s.cfg.RedeliveryDelayMax)
	}
	return d/2 + s.jitter(d/2)
}

// tryLater waits after a target was in the way, without any POST having been sent, then tries again.
func (s *situation) tryLater(target Target, err error, again phase) action {
	cause, atLeast := causeOf(err)
	s.rec.note(Attempt{At: s.at.now, Step: string(target), Result: string(cause), Detail: text(err)})
	s.survived()
	s.rec.RefusedSince = time.Time{}
	s.log(slog.LevelDebug, "hindered", slog.String("target", string(target)), slog.String("cause", string(cause)), slog.Any("error", err))
	if errors.Is(err, ErrCircuitOpen) {
		return s.handBack(atLeast) // an outage isn't waited for in a slot
	}
	s.retried(target, cause)
	return s.pause(atLeast, again)
}

// refusalLasts is how long a refusal that can pass must have lasted to be believed.
const refusalLasts = 2 * time.Minute

// shortestRest is how long a request rests at least after a refusal that can pass, but for the first one.
const shortestRest = time.Second

// lasting goes on after a refusal that made nothing and can pass, such as a 401: it is the outcome once
// there was nothing else for refusalLasts, or at the deadline. Until then again is tried with secrets and
// tokens that are new, the first time at once, then ever more seldom. Meanwhile the request has no slot.
func (s *situation) lasting(target Target, f *Failure, again phase) action {
	s.rec.LastFail, s.fresh = f, true
	s.retried(target, CauseStatus)
	d, lasted := s.outlast()
	switch {
	case lasted:
		if s.at.now.Sub(s.rec.RefusedSince) < refusalLasts {
			f = cutShort(f)
		}
		return s.fail(f)
	case d > 0:
		return s.rest(d, whyLater)
	}
	return written(s.enter(again))
}

// outlast notes a refusal that can pass. It returns how long to rest before the next try, and whether the
// refusal has lasted long enough to be believed.
func (s *situation) outlast() (rest time.Duration, lasted bool) {
	if s.rec.RefusedSince.IsZero() {
		s.rec.RefusedSince = s.at.now
		return 0, s.late()
	}
	so := s.at.now.Sub(s.rec.RefusedSince)
	rest = min(max(so, shortestRest), s.cfg.RetryDelayMax, refusalLasts-so, s.rec.Deadline.Sub(s.at.now))
	return max(rest, time.Millisecond), so >= refusalLasts || s.late()
}

// secretTrouble goes on after a secret could not be read.
func (s *situation) secretTrouble(err error, again phase) action {
	if missing := missingSecret(err); missing != nil {
		return s.secretMissing(missing, again, func() action { return s.fail(missing) })
	}
	s.rec.LastFail = Fail(ReasonVaultUnavailable, "Vault did not serve the worker: "+text(err))
	return s.tryLater(TargetVault, err, again)
}

// secretMissing goes on after a secret was found missing. It concludes once two reads past the cache that
// lie SecretGrace apart have said so, the later one just now; until then the message rests, outside a slot.
// Again is the phase that reads it once more.
func (s *situation) secretMissing(f *Failure, again phase, conclude func() action) action {
	if !s.pastCache {
		s.fresh = true
		return s.enter(again)
	}
	if m := s.rec.Missing; m == nil || m.Reason != f.Reason {
		s.rec.Missing = &Missing{Reason: f.Reason, Since: s.at.now, By: s.cfg.Instance}
	}
	believedAt := s.rec.Missing.Since.Add(s.cfg.SecretGrace)
	if s.rec.Missing.By != s.cfg.Instance {
		believedAt = believedAt.Add(ClockSkew) // another worker's clock may be behind ours
	}
	left := believedAt.Sub(s.readAt)
	if left <= 0 || s.cfg.SecretGrace == 0 {
		return conclude()
	}
	s.survived()
	s.log(slog.LevelDebug, "a secret is missing, which is not believed yet", slog.Duration("grace_left", left), slog.String("detail", f.Message))
	s.rec.note(Attempt{At: s.at.now, Step: "secrets", Result: "missing", Detail: f.Message})
	s.rec.LastFail = f
	delay := min(left, s.cfg.SecretGrace+ClockSkew)
	delay += s.jitter(delay / 4) // those that wait for the same one come back spread out
	if until := s.wakeBy(); until > 0 {
		delay = min(delay, until)
	}
	return s.rest(min(delay, s.cfg.RedeliveryDelayMax), whyMissing)
}
