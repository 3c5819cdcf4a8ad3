package limit

import (
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

// TestSickTenantsAreBlamedTogether: the target fails for two, and has just served a third.
func TestSickTenantsAreBlamedTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		call(t, b, "sound", provision.CallServed)
		<-time.After(15 * time.Second)
		fail(t, b, "a", "b", "a", "b", "a")
		checkShut(t, b, "a", true)
		checkShut(t, b, "b", true)
		checkShut(t, b, "sound", false)
		checkPermits(t, b, 64)
	})
}

// TestMoreFallIll: others join those whom the target is down for, until nobody is left.
func TestMoreFallIll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		fail(t, b, "a", "a", "a", "a", "a")
		call(t, b, "sound", provision.CallServed)
		fail(t, b, "b", "b", "b", "b")
		checkShut(t, b, "b", false)
		fail(t, b, "b")
		checkShut(t, b, "b", true)
		checkShut(t, b, "sound", false)
		checkPermits(t, b, 64)
		fail(t, b, "sound", "sound", "sound", "sound", "sound")
		checkShut(t, b, "sound", true)
		checkShut(t, b, "new", true)
		checkPermits(t, b, 0)
		if !b.Open()["flow"] {
			t.Error("nobody is served, and it isn't open")
		}
	})
}

// TestOutageAmidGoodTimes: at first those who were served a moment ago speak for the target, but they say
// nothing more. So it is down for all soon, and the intake stops.
func TestOutageAmidGoodTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		call(t, b, "quiet", provision.CallServed)
		<-time.After(11 * time.Second)
		fail(t, b, "a", "b", "a", "b", "a")
		checkPermits(t, b, 64)
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
		<-time.After(11 * time.Second) // it is in the window no more, but known
		fail(t, b, "a", "b", "a", "b", "a")
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
		call(t, b, "b", provision.CallServed)
		check("it is back", 0)
	})
}
