package flow

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func retrier(onRetry func(provision.Target, provision.Cause)) *Client {
	return &Client{waits: waits{initial: 500 * time.Millisecond, max: 10 * time.Second}, onRetry: onRetry}
}

func throttled(after time.Duration) *provision.CallError {
	return &provision.CallError{Verdict: provision.VerdictThrottled, Target: provision.TargetFlow, Cause: provision.CauseThrottled, RetryAfter: after}
}

func TestRepeatWaitsAsLongAsItIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		c := retrier(func(provision.Target, provision.Cause) {})
		err := c.repeat(t.Context(), func() *provision.CallError {
			at = append(at, time.Now())
			return throttled(25 * time.Second)
		})
		if err == nil || len(at) != maxTries {
			t.Fatalf("%v after %d tries, want %d", err, len(at), maxTries)
		}
		for i := range len(at) - 1 {
			if d := at[i+1].Sub(at[i]); d != 25*time.Second {
				t.Errorf("pause %d: %v, want 25 s", i, d)
			}
		}
	})
}

func TestRepeatBoundsItsPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began, told := time.Now(), 0
		c := retrier(func(target provision.Target, cause provision.Cause) {
			if told++; target != provision.TargetFlow || cause != provision.CauseThrottled {
				t.Errorf("told of %s, %s", target, cause)
			}
		})
		_ = c.repeat(t.Context(), func() *provision.CallError { return throttled(0) })
		if d := time.Since(began); d > 7*time.Second { // twice 0.5 + 1 + 2 s
			t.Errorf("took %v, want at most 7 s", d)
		}
		if told != maxTries-1 {
			t.Errorf("told of %d repeats, want %d", told, maxTries-1)
		}
	})
}

// TestRepeatKeepsTheCause: where the context ends first, the error is still the call's own.
func TestRepeatKeepsTheCause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, tc := range map[string]struct {
			end   func() (context.Context, context.CancelFunc)
			after time.Duration
		}{
			"no time for the pause": {func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), 5*time.Second) }, 6 * time.Second},
			"canceled in the pause": {func() (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				return ctx, cancel
			}, 6 * time.Second},
			"too long a pause": {func() (context.Context, context.CancelFunc) { return context.WithCancel(t.Context()) }, maxPause + 1},
		} {
			ctx, cancel := tc.end()
			tries := 0
			err := retrier(func(provision.Target, provision.Cause) {}).repeat(ctx, func() *provision.CallError {
				tries++
				return throttled(tc.after)
			})
			cancel()
			if err == nil || err.Verdict != provision.VerdictThrottled || err.RetryAfter != tc.after || tries != 1 {
				t.Errorf("%s: %+v after %d tries", name, err, tries)
			}
		}
	})
}

func TestRepeatDoesNotBeginLate(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := retrier(nil).repeat(ctx, func() *provision.CallError {
		t.Error("called")
		return nil
	})
	if err == nil || err.Verdict != provision.VerdictNotSent {
		t.Errorf("%+v: want not sent", err)
	}
}

func TestRepeatStopsAtAnAnswer(t *testing.T) {
	t.Parallel()
	for _, v := range []provision.Verdict{provision.VerdictNotReady, provision.VerdictUnauthorized, provision.VerdictDenied, provision.VerdictRejected} {
		tries := 0
		err := retrier(nil).repeat(t.Context(), func() *provision.CallError {
			tries++
			return &provision.CallError{Verdict: v}
		})
		if err == nil || err.Verdict != v || tries != 1 {
			t.Errorf("%v: %+v after %d tries, want 1", v, err, tries)
		}
	}
}
