package limit

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"

	"github.com/google/go-cmp/cmp"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func fail(t *testing.T, b *Breakers, tenants ...string) {
	t.Helper()
	for _, tenant := range tenants {
		call(t, b, tenant, provision.CallFailed)
	}
}

func checkShut(t *testing.T, b *Breakers, tenant string, want bool) {
	t.Helper()
	if done, _ := b.Allow(flow, tenant); (done == nil) != want {
		t.Errorf("shut for %s: %v, want %v", tenant, !want, want)
	} else if done != nil {
		done(provision.CallVoid)
	}
}

// TestMoreFallIll: others join those that the target fails for, until nobody is left.
func TestMoreFallIll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		fail(t, b, "a", "a", "a", "a", "a")
		call(t, b, "sound", provision.CallServed)
		<-time.After(11 * time.Second)
		fail(t, b, "b", "b", "b", "b")
		checkShut(t, b, "b", false)
		fail(t, b, "b")
		checkShut(t, b, "b", true)
		checkShut(t, b, "sound", false)
		checkPermits(t, b, 64)
		<-time.After(11 * time.Second)
		fail(t, b, "sound", "sound", "sound", "sound", "sound")
		checkShut(t, b, "sound", true)
		checkShut(t, b, "new", true)
		checkPermits(t, b, 0)
		if !b.Open()["flow"] {
			t.Error("nobody is served, and it isn't open")
		}
	})
}

// TestOutageAmidGoodTimes: those who were served a while ago say nothing more, so it is down for all, and the intake stops.
func TestOutageAmidGoodTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		call(t, b, "quiet", provision.CallServed)
		<-time.After(11 * time.Second)
		fail(t, b, "a", "b", "a", "b", "a")
		for end := time.Now().Add(time.Minute); time.Now().Before(end); <-time.After(time.Second) {
			if done, _ := b.Allow(flow, "a"); done != nil {
				done(provision.CallFailed)
			}
		}
		n, _ := b.Permits(64)
		if n > 1 || !b.Open()["flow"] {
			t.Errorf("%d permits, open %v", n, b.Open())
		}
	})
}

// TestFailuresFarApartAreNoOutage: calls of others that fail once in a while don't add up.
func TestFailuresFarApartAreNoOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		for range 20 {
			for range 5 {
				if done, _ := b.Allow(flow, "a"); done != nil {
					done(provision.CallFailed)
				}
			}
			fail(t, b, "b")
			checkPermits(t, b, 64)
			<-time.After(11 * time.Second)
		}
	})
}

// TestTroubleThatIsOverIsForgotten: a tenant that gave up in trouble doesn't make another one's trouble everybody's.
func TestTroubleThatIsOverIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		fail(t, b, "a", "a", "a", "a", "a")
		<-time.After(5 * time.Minute)
		fail(t, b, "b", "b", "b", "b", "b")
		checkShut(t, b, "b", true)
		checkShut(t, b, "sound", false)
		checkPermits(t, b, 64)
	})
}

// TestMixedTrouble: calls of one tenant that fail in a row open nothing while others are served.
func TestMixedTrouble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		for range 20 {
			call(t, b, "sound", provision.CallServed)
			fail(t, b, "a", "a", "a", "a", "a", "a")
			<-time.After(5 * time.Second)
		}
		if b.Open()["flow"] {
			t.Error("open, and others are served")
		}
	})
}

// TestTenantsAreForgotten: many that called once don't stay, be it in trouble.
func TestTenantsAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		fail(t, b, "a", "a", "a", "a", "a")
		for i := range 20 * forgetFrom {
			call(t, b, fmt.Sprint(i), provision.CallServed)
			<-time.After(time.Second)
		}
		if n := len(b.targets[flow].tenants); n > 2*forgetFrom {
			t.Errorf("%d tenants are remembered", n)
		}
		if n := len(b.targets[flow].troubled); n > 0 {
			t.Errorf("%d are in trouble", n)
		}
	})
}

// TestLooksPastTheSick: it fails for two, and nothing is known of others. The third one's request is
// found among theirs, and is the next probe.
func TestLooksPastTheSick(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		trip(t, b)
		_, wake := b.Permits(64)
		<-wake
		began := time.Now()
		for i := range 40 { // messages of the two
			n, wake := b.Permits(64)
			for n == 0 {
				<-wake
				n, wake = b.Permits(64)
			}
			checkShut(t, b, []string{"a", "b"}[i%2], true)
		}
		if took := time.Since(began); took > lookPast {
			t.Errorf("40 messages took %v", took)
		}
		call(t, b, "sound", provision.CallServed)
		checkPermits(t, b, 64)
		<-time.After(11 * time.Second) // it is in the window no more, but the two are known
		fail(t, b, "a", "b", "a", "b")
		checkPermits(t, b, 64)
		checkShut(t, b, "sound", false)
		checkShut(t, b, "a", true)
	})
}

// TestGaugeIsOfTheTarget: it says that the target is down, which it isn't if it serves others.
func TestGaugeIsOfTheTarget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		check := func(when string, want float64) {
			t.Helper()
			if got := testutil.ToFloat64(b.gauge.WithLabelValues("flow")); got != want || b.Open()["flow"] != (want == 1) {
				t.Errorf("%s: circuit_open %v, on the page %v; want %v", when, got, b.Open()["flow"], want)
			}
		}
		fail(t, b, "a", "a", "a", "a", "a")
		check("nobody else has called", 1)
		call(t, b, "b", provision.CallServed)
		check("another is served", 0)
		<-time.After(10 * time.Second)
		fail(t, b, "a") // the probe
		check("it still fails for one", 0)
		<-time.After(time.Minute)
		fail(t, b, "b", "b", "b", "b", "b")
		check("it fails for all", 1)
		<-time.After(10 * time.Second)
		call(t, b, "b", provision.CallServed)
		check("it is back", 0)
	})
}

// TestCalm: nothing is taken past the target's open circuit, and of a tenant with an open one of its own nothing at all.
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

// TestCircuitIsToldOfWhomItIs: a target that is down for all is not said to be down for some only, though so far only
// these have asked.
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
