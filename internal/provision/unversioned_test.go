package provision

import (
	"context"
	"testing"
	"time"
)

// unversioned is Vault with a KV version 1 engine behind a cache that holds the token of before.
type unversioned struct {
	plainSecrets
	token string // of now
}

func (s unversioned) Resolve(_ context.Context, _ string, _ SecretRef, fresh bool) (Secret, error) {
	if fresh {
		return Secret{Value: NewSensitive(s.token)}, nil
	}
	return Secret{Value: NewSensitive("old")}, nil
}

// TestRotationWithoutVersions: where secrets have no versions their values tell that one is another.
func TestRotationWithoutVersions(t *testing.T) {
	t.Parallel()
	for token, posts := range map[string]int{"new": 2, "old": 1} {
		calls := 0
		h := newTestHub(t, func(c *Config) {
			c.Secrets = unversioned{token: token}
			c.Connections = scriptedFlow{create: func(context.Context, time.Time) error {
				if calls++; calls == 1 {
					return &CallError{Verdict: VerdictRejected, Target: TargetFlow, Status: 400}
				}
				return nil
			}}
		})
		out := h.Handle(t.Context(), delivery())
		if out.Result == nil || out.Result.Attempts != posts || (out.Result.Error == nil) != (token == "new") {
			t.Errorf("the token of now is the %s one: %+v after %d POSTs", token, out.Result, calls)
		}
	}
}
