package pace

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func take(t *testing.T, turns *Turns, tenant string) func(bool) {
	t.Helper()
	done, wait := turns.Take(tenant)
	if done == nil {
		t.Fatalf("%s must wait %v", tenant, wait)
	}
	return done
}

func TestShareHalvesAndGrows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(68, nil) // 64 and a look-ahead of 4
		for want := 32; want >= 1; want /= 2 {
			<-time.After(time.Second)
			take(t, turns, "a")(true)
			if got := turns.Limit("a"); got != want {
				t.Fatalf("limit %d, want %d", got, want)
			}
		}
		for range 300 {
			take(t, turns, "a")(false)
		}
		if got := turns.Limit("a"); got < 20 || got > 30 {
			t.Errorf("limit %d after 300 good turns, want about sqrt(600)", got)
		}
		if turns.Limit("b") != 64 {
			t.Error("another tenant's share changed")
		}
	})
}

// TestOneBurstHalvesOnce: what was in hand together when the service throttled says it only once.
func TestOneBurstHalvesOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(68, nil)
		var dones []func(bool)
		for range 64 {
			dones = append(dones, take(t, turns, "a"))
		}
		<-time.After(time.Second)
		for _, done := range dones {
			done(true)
		}
		if got := turns.Limit("a"); got != 32 {
			t.Errorf("limit %d, want 32", got)
		}
	})
}

func TestNoMoreInHandThanTheShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(4, nil)
		for range 4 {
			take(t, turns, "a")
		}
		if done, wait := turns.Take("a"); done != nil || wait <= 0 {
			t.Errorf("a fifth turn, wait %v", wait)
		}
		take(t, turns, "b")
	})
}

// TestBacklogIsSpread: a large backlog isn't delivered over and over: each message comes back when
// its turn is due.
func TestBacklogIsSpread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(1, nil)
		for range 50 { // the moving average learns that a turn takes 100 ms
			done := take(t, turns, "a")
			<-time.After(100 * time.Millisecond)
			done(false)
		}
		take(t, turns, "a")
		var sum time.Duration
		const n = 400
		for range n {
			_, wait := turns.Take("a")
			sum += wait
		}
		if mean := sum / n; mean < 5*time.Second || mean > 15*time.Second {
			t.Errorf("400 turns of 100 ms, twice as many to come as can be served: mean wait %v, want about 10 s", mean)
		}
	})
}

// TestNoTenantHasAllSlots: a few are kept to look ahead, and no more than 3 % of many.
func TestNoTenantHasAllSlots(t *testing.T) {
	t.Parallel()
	for slots, want := range map[int]int{1: 1, 2: 2, 8: 7, 64: 60, 512: 496} {
		if got := NewTurns(slots, nil).Limit("a"); got != want {
			t.Errorf("%d slots: one tenant may have %d, want %d", slots, got, want)
		}
	}
}

// TestFastTurnsAreWaitedFor: at thousands of turns a second, sending the backlog back and forth would
// cost more than it helps.
func TestFastTurnsAreWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(64, nil)
		for range 60 {
			done := take(t, turns, "a")
			<-time.After(time.Millisecond)
			done(false)
		}
		for range 60 {
			take(t, turns, "a")
		}
		if _, wait := turns.Take("a"); wait != fastWait {
			t.Errorf("wait %v", wait)
		}
	})
}

func TestIdleSharesAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(4, nil)
		for i := range sweepAt {
			take(t, turns, fmt.Sprint(i))(false)
		}
		busy := take(t, turns, "busy")
		<-time.After(2 * forgetAt)
		take(t, turns, "new")(false)
		if n := len(turns.shares); n != 2 {
			t.Errorf("%d shares left, want the new one and the busy one", n)
		}
		busy(false)
	})
}
