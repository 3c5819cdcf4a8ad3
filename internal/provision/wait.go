package provision

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// waits yields the waits between the tries of one delivery: exponential with full jitter.
type waits struct {
	policy *backoff.ExponentialBackOff
	jitter func(time.Duration) time.Duration
}

// next returns the next wait. It never says stop: the limits are pause's.
func (w *waits) next() time.Duration { return w.jitter(w.policy.NextBackOff()) }

// tryWaits paces the tries of one delivery. A request that was given back before has had its quick
// tries already, and begins where it left off.
func (t *task) tryWaits() *waits {
	if t.waits == nil {
		first := t.hub.RetryInitial
		if t.rec.Handbacks > 0 {
			first = t.hub.RetryDelayMax
		}
		t.waits = t.hub.backoff(first, t.hub.RetryDelayMax)
	}
	return t.waits
}

// newLedgerWaits paces the tries of one ledger call: short, for somebody waits for them.
func (h *Hub) newLedgerWaits() *waits { return h.backoff(100*time.Millisecond, 2*time.Second) }

func (h *Hub) backoff(first, longest time.Duration) *waits {
	p := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(min(first, longest)),
		backoff.WithMaxInterval(longest),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0), // MaxInterval caps before backoff's own jitter; ours comes after
		backoff.WithMaxElapsedTime(0),      // never stop; and never ask backoff's clock
	)
	return &waits{policy: p, jitter: h.jitter}
}

// jitter spreads d evenly over (0, d].
func (h *Hub) jitter(d time.Duration) time.Duration {
	if h.Rand == nil {
		return time.Duration(float64(d) * (1 - rand.Float64()))
	}
	h.randMu.Lock()
	defer h.randMu.Unlock()
	return time.Duration(float64(d) * (1 - h.Rand.Float64()))
}

// pause waits before next is tried, at least atLeast: seconds in process, longer by giving the
// message back.
func (t *task) pause(ctx context.Context, atLeast time.Duration, next step) step {
	now := t.hub.Clock.Now()
	wait := max(t.tryWaits().next(), atLeast)
	if until := t.wakeBy(now); until > 0 {
		wait = min(wait, until)
	}
	if t.rev == 0 {
		if next, ok := t.write(ctx); !ok {
			return next
		}
	}
	tooLong := wait > t.hub.RetryDelayMax || now.Add(wait).Sub(t.started) > t.hub.RetryElapsed
	if tooLong || t.alone || t.sleep(ctx, wait) != nil {
		return t.handBack(ctx, atLeast)
	}
	return next
}

// sleep waits for d, or until the worker is asked to stop.
func (t *task) sleep(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.hub.Stopping, cancel)()
	if err := t.hub.Stopping.Err(); err != nil {
		return err
	}
	return t.hub.Clock.Sleep(ctx, d)
}

// wakeBy returns how long until something must be decided even if nothing has changed: the deadline
// of a request without an open POST, the end of Settle for one with.
func (t *task) wakeBy(now time.Time) time.Duration {
	if t.rec.State == StateUnknown {
		if left := t.settledAt().Sub(now); left > 0 {
			return left + time.Millisecond
		}
	}
	return t.rec.Deadline.Sub(now)
}

// handBack records that nobody has the request and lets its message rest, at least atLeast.
func (t *task) handBack(ctx context.Context, atLeast time.Duration) step {
	now := t.hub.Clock.Now()
	delay := t.redeliveryDelay()
	if atLeast > 0 {
		delay = max(delay, atLeast)
		t.rec.NotBefore = now.Add(atLeast)
	}
	if t.hub.Stopping.Err() != nil {
		delay = max(time.Second, atLeast) // it is us who stop, not the target
	}
	if until := t.wakeBy(now); until > 0 {
		delay = min(delay, until)
	}
	t.rec.Handbacks++
	return t.rest(ctx, min(delay, t.hub.RedeliveryDelayMax), whyLater)
}

// whyLater is the Outcome.Why of a message that is to be tried again.
const whyLater = "to be tried again later"

// rest records that nobody has the request, and gives its message back for d.
func (t *task) rest(ctx context.Context, d time.Duration, why string) step {
	now := t.hub.Clock.Now()
	t.rec.Held, t.rec.RestUntil = false, now.Add(d)
	t.rec.note(handback(now, t.rec.State, d))
	if next, ok := t.write(ctx); !ok {
		return next
	}
	return t.back(d, why)
}

// refusalLasts is how long a refusal that can pass must have lasted to be believed.
const refusalLasts = 2 * time.Minute

// shortestRest is how long a request rests at least after a refusal that can pass, but for the first one.
const shortestRest = time.Second

// lasting goes on after a refusal that made nothing and can pass, such as a 401: it is the outcome once
// there was nothing else for refusalLasts, or at the deadline. Until then again is tried with secrets and
// tokens that are new, the first time at once, then ever more seldom. Meanwhile the request has no slot.
func (t *task) lasting(ctx context.Context, target Target, f *Failure, again step) step {
	t.rec.LastFail, t.fresh = f, true
	t.hub.Observer.Retried(target, CauseStatus)
	d, lasted := t.outlast()
	switch {
	case lasted:
		if t.hub.Clock.Now().Sub(t.rec.RefusedSince) < refusalLasts {
			f = cutShort(f)
		}
		t.fail(f)
		return t.conclude
	case d > 0:
		return t.rest(ctx, d, whyLater)
	}
	if next, ok := t.write(ctx); !ok {
		return next
	}
	return again
}

// cutShort returns f, of a refusal that can pass, as it ends a request whose deadline comes before it is believed.
func cutShort(f *Failure) *Failure {
	early := *f
	early.Retryable = true
	early.Message += "; the deadline came before it had been refused for " + refusalLasts.String() + ", so it may pass: retry it then"
	return &early
}

// outlast notes a refusal that can pass. It returns how long to rest before the next try, and whether the
// refusal has lasted long enough to be believed.
func (t *task) outlast() (rest time.Duration, lasted bool) {
	now := t.hub.Clock.Now()
	if t.rec.RefusedSince.IsZero() {
		t.rec.RefusedSince = now
		return 0, !now.Before(t.rec.Deadline)
	}
	so := now.Sub(t.rec.RefusedSince)
	rest = min(max(so, shortestRest), t.hub.RetryDelayMax, refusalLasts-so, t.rec.Deadline.Sub(now))
	return max(rest, time.Millisecond), so >= refusalLasts || !now.Before(t.rec.Deadline)
}

// handback returns the attempt that says how long a message rests; the request's story reads it.
func handback(at time.Time, s State, delay time.Duration) Attempt {
	return Attempt{At: at, Step: "handback", Result: string(s), Detail: "for " + delay.Round(time.Millisecond).String()}
}

// redeliveryDelay grows with every time the message was given back.
func (t *task) redeliveryDelay() time.Duration {
	d := t.hub.RetryDelayMax
	for range min(t.rec.Handbacks, 30) {
		if d *= 2; d >= t.hub.RedeliveryDelayMax {
			d = t.hub.RedeliveryDelayMax
			break
		}
	}
	return d/2 + t.hub.jitter(d/2)
}

// back gives the message back as it is.
func (t *task) back(d time.Duration, why string) step { return t.end(giveBack(d, why)) }

func (t *task) end(out Outcome) step {
	t.out = out
	return nil
}
