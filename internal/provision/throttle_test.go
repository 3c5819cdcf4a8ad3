package provision

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// throttledSecrets refuses its first reading and notes when it was asked.
type throttledSecrets struct {
	plainSecrets
	after time.Duration
	asked *[]time.Time
}

func (s throttledSecrets) Credentials(ctx context.Context, tenant string, fresh bool) (Credentials, error) {
	*s.asked = append(*s.asked, time.Now())
	if len(*s.asked) == 1 {
		return Credentials{}, &SecretError{Problem: SecretUnavailable, Cause: CauseThrottled, RetryAfter: s.after, Err: errInjected}
	}
	return s.plainSecrets.Credentials(ctx, tenant, fresh)
}

// TestVaultIsLeftAloneAsLongAsItAsks: a short while in process, a longer one across deliveries.
func TestVaultIsLeftAloneAsLongAsItAsks(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{10 * time.Second, 20 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			var asked []time.Time
			h := newTestHub(t, func(c *Config) { c.Secrets = throttledSecrets{after: after, asked: &asked} })
			d := delivery()
			out := h.Handle(t.Context(), d)
			for ; out.Result == nil && d.Delivered < 10; out = h.Handle(t.Context(), d) {
				<-time.After(out.Delay)
				d.Delivered++
			}
			if out.Result == nil || out.Result.Outcome != OutcomeCreated || len(asked) < 2 {
				t.Fatalf("%+v after %d readings", out, len(asked))
			}
			if wait := asked[1].Sub(asked[0]); wait < after || wait > after+15*time.Minute {
				t.Errorf("asked again after %v, want %v and not much more", wait, after)
			}
			if d.Delivered > 1 != (after > time.Minute) {
				t.Errorf("%d deliveries for a wait of %v", d.Delivered, after)
			}
		})
	}
}
