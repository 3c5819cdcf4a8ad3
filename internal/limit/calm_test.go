package limit

import (
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// TestCalm: nothing is taken past a circuit that is open, but for tenants that the target does not count as down for.
func TestCalm(t *testing.T) {
	t.Parallel()
	fail := func(b *Breakers, tenant string, n int) {
		for range n {
			if done, _ := b.Allow(provision.TargetFlow, tenant); done != nil {
				done(provision.CallFailed)
			}
		}
	}
	all := NewBreakers(BreakerConfig{})
	if !all.Calm("a") {
		t.Error("not calm from the start")
	}
	fail(all, "a", 3)
	fail(all, "b", 3)
	if all.Calm("a") || all.Calm("c") {
		t.Error("calm although the Flow Service is down for all")
	}
	one := NewBreakers(BreakerConfig{})
	fail(one, "a", 6)
	if one.Calm("a") || !one.Calm("b") {
		t.Errorf("it fails for a: calm for a %v, for b %v", one.Calm("a"), one.Calm("b"))
	}
}
