package limit

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// logged runs steps on breakers and returns what they logged, without time and level.
func logged(t *testing.T, steps func(*testing.T, *Breakers)) (lines []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		steps(t, NewBreakers(BreakerConfig{Log: slog.New(slog.NewTextHandler(&log, nil))}))
		for line := range strings.Lines(log.String()) {
			_, line, _ = strings.Cut(line, "target=flow ")
			lines = append(lines, strings.TrimSpace(line))
		}
	})
	return lines
}

// recoverBy has the tenant's probe served.
func recoverBy(t *testing.T, b *Breakers, tenant string) {
	t.Helper()
	<-time.After(10 * time.Second)
	call(t, b, tenant, provision.CallServed)
}

// A target that counts as down for all is not said to be down for some only, though so far only these have asked.
func TestCircuitIsToldOfWhomItIs(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		steps func(*testing.T, *Breakers)
		want  []string
	}{
		"one has asked": {
			func(t *testing.T, b *Breakers) {
				fail(t, b, "a", "a", "a", "a", "a")
				recoverBy(t, b, "a")
			},
			[]string{"state=open up_for_others=false failed_for_tenants=[a]", "state=closed"},
		},
		"several have": {
			func(t *testing.T, b *Breakers) {
				fail(t, b, "a", "b", "a", "b", "a")
				recoverBy(t, b, "c")
			},
			[]string{"state=open", "state=closed"},
		},
		"others are served": {
			func(t *testing.T, b *Breakers) {
				fail(t, b, "a", "a", "a", "a", "a")
				call(t, b, "c", provision.CallServed)
				recoverBy(t, b, "a")
			},
			[]string{"state=open up_for_others=false failed_for_tenants=[a]", "up_for_others=true only_for_tenants=[a]", "state=closed only_for_tenants=[a]"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, logged(t, tc.steps)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
