package provision

import (
	"context"
	"testing"
)

// rotatedSecrets is Vault behind a cache that holds credentials which were replaced since.
type rotatedSecrets struct {
	plainSecrets
	reads *struct{ creds, tokens, known int } // past the cache, and the version in it
}

func (s rotatedSecrets) Credentials(_ context.Context, _ string, fresh bool) (Credentials, error) {
	if fresh {
		s.reads.creds, s.reads.known = s.reads.creds+1, 2
	}
	return Credentials{Version: s.reads.known}, nil
}

func (s rotatedSecrets) Resolve(ctx context.Context, tenant string, r SecretRef, fresh bool) (Secret, error) {
	if fresh {
		s.reads.tokens++
	}
	return s.plainSecrets.Resolve(ctx, tenant, r, fresh)
}

// TestRefusedLookReadsPastTheCacheOnce: what comes after is served from the cache again.
func TestRefusedLookReadsPastTheCacheOnce(t *testing.T) {
	t.Parallel()
	reads, looks := struct{ creds, tokens, known int }{known: 1}, 0
	h := newTestHub(t, func(c *Config) {
		c.Secrets = rotatedSecrets{reads: &reads}
		c.Connections = scriptedFlow{find: func() ([]Found, error) {
			if looks++; looks == 1 {
				return nil, &CallError{Verdict: VerdictDenied, Target: TargetFlow, Status: 403}
			}
			return nil, nil
		}}
	})
	d := delivery()
	d.Request.Data.IfExists = IfExistsReject
	out := h.Handle(t.Context(), d)
	if out.Result == nil || out.Result.Outcome != OutcomeCreated || looks != 2 {
		t.Fatalf("%+v after %d looks", out.Result, looks)
	}
	if reads.creds != 1 || reads.tokens != 0 {
		t.Errorf("past the cache: %d reads of the credentials and %d of the token; want 1 and 0", reads.creds, reads.tokens)
	}
}
