package limit

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/flow-worker/flow-worker/internal/provision"
)

const flow = provision.TargetFlow

// call asks for one call and reports how it went; it fails the test where the gate is shut.
func call(t *testing.T, b *Breakers, tenant string, end provision.CallEnd) {
	t.Helper()
	done, wait := b.Allow(flow, tenant)
	if done == nil {
		t.Fatalf("the gate is shut for %v", wait)
	}
	done(end)
}

// untilAnyone waits until a target that is down for all may be probed by those, too, that it failed for.
func untilAnyone(b *Breakers) {
	_, wake := b.Permits(64)
	<-wake // the cool-down is over
	<-time.After(lookPast)
}

func trip(t *testing.T, b *Breakers) {
	t.Helper()
	for i := range 6 {
		call(t, b, []string{"a", "b"}[i%2], provision.CallFailed)
		if b.Open()["flow"] {
			return
		}
	}
}

func checkPermits(t *testing.T, b *Breakers, want int) {
	t.Helper()
	if n, _ := b.Permits(64); n != want {
		t.Errorf("%d permits, want %d", n, want)
	}
}

func TestOpensWhenNothingIsServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		checkPermits(t, b, 64)
		_, wake := b.Permits(64)
		trip(t, b)
		<-wake
		checkPermits(t, b, 0)
		if done, wait := b.Allow(flow, "a"); done != nil || wait <= 0 {
			t.Errorf("still allowed, wait %v", wait)
		}
		if !b.Open()["flow"] || b.Open()["vault"] {
			t.Errorf("open: %v", b.Open())
		}
	})
}

// TestStaysClosedWhileSomeCallsAreServed: a service that fails most calls still does some work, and
// one tenant's broken cluster must not stop the others.
func TestStaysClosedWhileSomeCallsAreServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		for i := range 500 {
			call(t, b, "a", []provision.CallEnd{provision.CallServed, provision.CallFailed}[min(i%20, 1)])
			<-time.After(50 * time.Millisecond)
		}
		checkPermits(t, b, 64)
	})
}

func TestProbesWithOneAndCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{Cooldown: 5 * time.Second})
		trip(t, b)
		untilAnyone(b)
		checkPermits(t, b, 1)
		checkPermits(t, b, 0) // several pullers ask; one probe is enough
		probe, _ := b.Allow(flow, "a")
		if probe == nil {
			t.Fatal("no probe allowed")
		}
		checkPermits(t, b, 0)
		if second, _ := b.Allow(flow, "b"); second != nil {
			t.Error("a second probe at the same time")
		}
		probe(provision.CallServed)
		checkPermits(t, b, 64)
	})
}

func TestFailedProbeWaitsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		trip(t, b)
		probes, pulled := 0, 0
		for end := time.Now().Add(time.Minute); time.Now().Before(end); {
			n, wake := b.Permits(64)
			if n == 0 {
				select {
				case <-wake:
				case <-time.After(probeEvery):
				}
				continue
			}
			pulled++
			if done, _ := b.Allow(flow, []string{"a", "b"}[pulled%2]); done != nil {
				probes++
				done(provision.CallFailed)
			}
		}
		if probes < 7 || probes > 17 {
			t.Errorf("%d probes in a minute, want about one per 6 s", probes)
		}
		if pulled > 60*probes {
			t.Errorf("%d messages pulled for %d probes", pulled, probes)
		}
	})
}

// TestOneTenantsTroubleStopsNobodyElse: its cluster hangs, or its list is broken.
func TestOneTenantsTroubleStopsNobodyElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		for range 5 {
			call(t, b, "sick", provision.CallFailed)
		}
		if done, _ := b.Allow(flow, "sick"); done != nil {
			t.Error("the target is still called for the tenant that it fails for")
		}
		for range 20 {
			call(t, b, "sound", provision.CallServed)
		}
		for range 50 { // others fail now and then
			call(t, b, "sound", provision.CallFailed)
			call(t, b, "sound", provision.CallServed)
		}
		checkPermits(t, b, 64)
	})
}

// TestProbesTakeTurns: the tenant whose trouble outlasts the outage doesn't keep the circuit open.
func TestProbesTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		trip(t, b)
		untilAnyone(b)
		call(t, b, "a", provision.CallFailed)
		untilAnyone(b)
		if done, _ := b.Allow(flow, "a"); done != nil {
			t.Error("the same tenant has the next probe, too")
		}
		call(t, b, "b", provision.CallServed)
		checkPermits(t, b, 64)
	})
}

// TestIMSDoesNotStopTheIntake: a tenant with a token, or with a static one, doesn't need it.
func TestIMSDoesNotStopTheIntake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{})
		for range 5 {
			done, _ := b.Allow(provision.TargetIMS, "a")
			done(provision.CallFailed)
		}
		checkPermits(t, b, 64)
		if done, _ := b.Allow(provision.TargetIMS, "a"); done != nil {
			t.Error("IMS is still called")
		}
	})
}

func TestTargetsAreApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		b := NewBreakers(BreakerConfig{Registerer: reg})
		if n := testutil.CollectAndCount(b.gauge); n != 3 {
			t.Errorf("%d series, want one per target from the start", n)
		}
		trip(t, b)
		if done, _ := b.Allow(provision.TargetVault, "a"); done == nil {
			t.Error("Vault is kept from callers because the Flow Service fails")
		}
		if got := testutil.ToFloat64(b.gauge.WithLabelValues("flow")); got != 1 {
			t.Errorf("circuit_open{flow} %v", got)
		}
	})
}

// TestProbeThatAskedNothing: the ledger failed before the target was called, the caller left, or the
// cache had it. The circuit stays as it is, and the next may probe at once, be it the same tenant's.
func TestProbeThatAskedNothing(t *testing.T) {
	t.Parallel()
	for _, end := range []provision.CallEnd{provision.CallVoid, provision.CallSpared} {
		synctest.Test(t, func(t *testing.T) {
			b := NewBreakers(BreakerConfig{})
			trip(t, b)
			untilAnyone(b)
			for range 3 {
				probe, _ := b.Allow(flow, "a")
				if probe == nil {
					t.Fatal("no probe allowed")
				}
				_, wake := b.Permits(64)
				probe(end)
				<-wake
				if !b.Open()["flow"] {
					t.Fatalf("end %v closed the circuit", end)
				}
				<-time.After(probeEvery)
				checkPermits(t, b, 1)
			}
			call(t, b, "a", provision.CallServed)
			checkPermits(t, b, 64)
		})
	}
}

// TestNothingAskedIsNoService: in a closed circuit it neither hides failures nor is one; the cache's
// work is work, as long as it lasts.
func TestNothingAskedIsNoService(t *testing.T) {
	t.Parallel()
	for end, open := range map[provision.CallEnd]bool{provision.CallVoid: true, provision.CallSpared: false} {
		synctest.Test(t, func(t *testing.T) {
			b := NewBreakers(BreakerConfig{})
			for range 20 {
				call(t, b, "c", end)
			}
			if b.Open()["flow"] {
				t.Fatal("opened, and nothing has failed")
			}
			trip(t, b)
			if b.Open()["flow"] != open {
				t.Errorf("after calls that ended %v: open %v, want %v", end, !open, open)
			}
		})
	}
}

// TestHangingProbeStaysTheOnlyOne: a target that hangs is asked by one at a time, for as long as that
// one's time-out lets it wait, and then left alone again.
func TestHangingProbeStaysTheOnlyOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBreakers(BreakerConfig{Cooldown: 5 * time.Second})
		trip(t, b)
		untilAnyone(b)
		probe, _ := b.Allow(flow, "a")
		_, wake := b.Permits(64)
		for range 75 {
			<-time.After(time.Second)
			checkPermits(t, b, 0)
			if second, wait := b.Allow(flow, "b"); second != nil || wait <= 0 {
				t.Fatalf("a second probe beside the one that hangs, wait %v", wait)
			}
		}
		probe(provision.CallFailed)
		<-wake
		checkPermits(t, b, 0)
		untilAnyone(b)
		call(t, b, "b", provision.CallServed)
		checkPermits(t, b, 64)
	})
}
