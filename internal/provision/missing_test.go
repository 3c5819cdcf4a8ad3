package provision

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// laggingSecrets is Vault behind a cache: what is in the cache may be another thing than what is in Vault.
type laggingSecrets struct {
	plainSecrets
	cached, stored func() (Secret, error)
	reads          *int // past the cache
}

func (s laggingSecrets) Resolve(_ context.Context, _ string, _ SecretRef, fresh bool) (Secret, error) {
	if fresh {
		*s.reads++
		return s.stored()
	}
	return s.cached()
}

func holds(domain string) func() (Secret, error) {
	return func() (Secret, error) { return Secret{Value: NewSensitive("t"), Version: 1, Domain: domain}, nil }
}

func isMissing() (Secret, error) {
	return Secret{}, &SecretError{Problem: SecretMissing, Err: errMissing}
}

// The cache alone ends no request: neither by a domain that the owner has changed since nor by a secret that
// has appeared.
func TestTheCacheAloneEndsNoRequest(t *testing.T) {
	t.Parallel()
	own := testRequest().Data.Auth.Params.Domain
	for name, tc := range map[string]struct {
		cached, stored func() (Secret, error)
		reason         Reason // empty: created
	}{
		"another domain, which was changed": {holds("https://other.example.com"), holds(own), ""},
		"another domain":                    {holds("https://other.example.com"), holds("https://other.example.com"), ReasonSecretForbidden},
		"missing, and there since":          {isMissing, holds(own), ""},
		"missing":                           {isMissing, isMissing, ReasonSecretNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reads := 0
			h := newTestHub(t, func(c *Config) { c.Secrets = laggingSecrets{cached: tc.cached, stored: tc.stored, reads: &reads} })
			out := h.Handle(t.Context(), delivery())
			if out.Result == nil || (tc.reason == "") != (out.Result.Error == nil) || tc.reason != "" && out.Result.Error.Reason != tc.reason {
				t.Fatalf("%+v, want %q", out.Result, tc.reason)
			}
			if reads != 1 {
				t.Errorf("%d reads past the cache, want 1", reads)
			}
		})
	}
}

// A missing secret is believed after its grace, which another worker lets last longer by ClockSkew, for its
// clock may be ahead; and at the deadline, then as something that may have changed by now.
func TestMissingSecretIsBelievedAfterItsGrace(t *testing.T) {
	t.Parallel()
	const grace = 10 * time.Second
	for name, tc := range map[string]struct {
		second    string        // the worker that gets the next delivery
		after     time.Duration // of it
		deadline  time.Duration
		ends      bool
		retryable bool
	}{
		"too early":                 {"w", grace - time.Millisecond, time.Hour, false, false},
		"in time":                   {"w", grace, time.Hour, true, false},
		"by another, too early":     {"v", grace + ClockSkew - time.Millisecond, time.Hour, false, false},
		"by another, in time":       {"v", grace + ClockSkew, time.Hour, true, false},
		"the deadline comes before": {"w", 5 * time.Second, 5 * time.Second, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ledger, reads := newMemLedger(), 0
				hub := func(name string) *Hub {
					return newTestHub(t, func(c *Config) {
						c.Ledger, c.Instance, c.SecretGrace, c.RequestDeadline = ledger, name, grace, tc.deadline
						c.Secrets = laggingSecrets{cached: isMissing, stored: isMissing, reads: &reads}
					})
				}
				d := delivery()
				out := hub("w").Handle(t.Context(), d)
				if out.Result != nil || out.Why != whyMissing || out.Delay < min(grace, tc.deadline) || out.Delay > grace*5/4 {
					t.Fatalf("the first look: %+v", out)
				}
				<-time.After(tc.after)
				d.Delivered++
				out = hub(tc.second).Handle(t.Context(), d)
				if (out.Result != nil) != tc.ends {
					t.Fatalf("the second look: %+v", out)
				}
				if !tc.ends {
					return
				}
				if f := out.Result.Error; f.Reason != ReasonSecretNotFound || f.Retryable != tc.retryable || strings.Contains(f.Message, "WORKER_SECRET_GRACE") != tc.retryable {
					t.Errorf("%+v", f)
				}
			})
		})
	}
}
