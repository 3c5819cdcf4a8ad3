package limit

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

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
