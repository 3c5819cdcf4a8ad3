package flow

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/flow-worker/flow-worker/internal/provision"
)

const (
	maxTries = 4                // of a call that may be repeated
	maxPause = 30 * time.Second // longest Retry-After that is waited for here
)

// waits are the bounds of the pauses between tries.
type waits struct{ initial, max time.Duration }

// repeat makes a call up to maxTries times: see repeatUpTo.
func (c *Client) repeat(ctx context.Context, call func() *provision.CallError) *provision.CallError {
	return c.repeatUpTo(ctx, maxTries, call)
}

// repeatUpTo makes a call until it succeeds, fails for good, was tried so many times, or ctx ends. It
// returns the last error of the call itself, also where ctx ended during a pause. A call whose
// context ended already is not made.
func (c *Client) repeatUpTo(ctx context.Context, tries int, call func() *provision.CallError) *provision.CallError {
	if err := ctx.Err(); err != nil {
		return unanswered(provision.TargetFlow, provision.VerdictNotSent, err, scrubber{})
	}
	var last *provision.CallError
	op := func() error {
		last = call()
		switch {
		case last == nil:
			return nil
		case repeatable(last):
			return last
		}
		return backoff.Permanent(last)
	}
	pauses := &pauses{BackOff: backoff.WithMaxRetries(c.waits.backOff(), uint64(tries-1)), ctx: ctx, last: &last}
	// The error is dropped: it is last, or the end of ctx, which says less.
	_ = backoff.RetryNotify(op, backoff.WithContext(pauses, ctx), func(error, time.Duration) {
		c.onRetry(last.Target, last.Cause)
	})
	return last
}

// backOff returns a full-jitter schedule: each pause is anything from 0 to twice its mean.
func (w waits) backOff() backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(w.initial), backoff.WithMultiplier(2), backoff.WithRandomizationFactor(1),
		backoff.WithMaxInterval(w.max), backoff.WithMaxElapsedTime(0))
}

func repeatable(err *provision.CallError) bool {
	if errors.Is(err.Err, context.Canceled) {
		return false
	}
	switch err.Verdict {
	case provision.VerdictUnknown, provision.VerdictNotSent, provision.VerdictThrottled:
		return true
	}
	return false
}

// pauses respects what upstream asked for: a longer Retry-After wins, and one that can't be waited
// for here ends the tries, for the caller to wait.
type pauses struct {
	backoff.BackOff
	ctx  context.Context
	last **provision.CallError
}

// NextBackOff returns the pause before the next try, or backoff.Stop.
func (p *pauses) NextBackOff() time.Duration {
	d := p.BackOff.NextBackOff()
	if d == backoff.Stop {
		return d
	}
	d = max(d, (*p.last).RetryAfter)
	if end, ok := p.ctx.Deadline(); d > maxPause || ok && time.Now().Add(d).After(end) {
		return backoff.Stop
	}
	return d
}
