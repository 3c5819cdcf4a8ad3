package pace

import (
	"fmt"
	"math/rand/v2"
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

func TestShareIsCutAndGrows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(66, nil) // two reserved
		for _, want := range []int{44, 31, 21, 15, 10, 7, 5, 3, 2, 1, 1} {
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

// TestOneBurstCutsOnce: what was in hand together when the service throttled says it only once.
func TestOneBurstCutsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(66, nil)
		var dones []func(bool)
		for range 64 {
			dones = append(dones, take(t, turns, "a"))
		}
		<-time.After(time.Second)
		for _, done := range dones {
			done(true)
		}
		if got := turns.Limit("a"); got != 44 {
			t.Errorf("limit %d, want 44", got)
		}
	})
}

func TestNoMoreInHandThanTheShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(8, nil)
		for range 7 {
			take(t, turns, "a")
		}
		if done, wait := turns.Take("a"); done != nil || wait <= 0 {
			t.Errorf("an eighth turn, wait %v", wait)
		}
		take(t, turns, "b")
	})
}

// TestSeveralBacklogsLeaveTheLookAheadFree: tenants that want all there is end with even parts of the
// work, and the last slots go on looking ahead.
func TestSeveralBacklogsLeaveTheLookAheadFree(t *testing.T) {
	t.Parallel()
	for _, tenants := range []int{2, 5, 28} {
		t.Run(fmt.Sprint(tenants), func(t *testing.T) {
			t.Parallel()
			dice := rand.New(rand.NewPCG(uint64(tenants), 1)) // fixed: the bounds below are for these throws
			turns := NewTurns(64, nil)
			held := make([][]func(bool), tenants)
			want := func(i int) bool {
				done, _ := turns.Take(fmt.Sprint(i))
				if done != nil {
					held[i] = append(held[i], done)
				}
				return done != nil
			}
			for want(0) { // the first one is alone
			}
			for range 2000 { // then somebody has done, and others ask
				if i := dice.IntN(tenants); len(held[i]) > 0 {
					held[i][0](false)
					held[i] = held[i][1:]
				}
				for range 4 {
					want(dice.IntN(tenants))
				}
				if turns.inHand > 64 {
					t.Fatalf("%d of 64 turns taken", turns.inHand)
				}
			}
			for i := range tenants {
				for range tenants * 100 {
					want(dice.IntN(tenants))
				}
				if n, even := len(held[i]), 62/tenants; n < max(even/2, 1) || n > 2*even+2 {
					t.Errorf("tenant %d has %d turns, even would be %d", i, n, even)
				}
			}
			take(t, turns, "new")
		})
	}
}

// TestSomeSlotsAlwaysLook: however many tenants have something in hand, there are more slots than turns.
func TestSomeSlotsAlwaysLook(t *testing.T) {
	t.Parallel()
	turns := NewTurns(64, nil)
	n := 0
	for i := range 100 {
		if done, _ := turns.Take(fmt.Sprint(i)); done != nil {
			n++
		}
	}
	if n != 64 || turns.Slots() != 72 {
		t.Errorf("%d tenants have a turn in %d slots, want 64 in 72", n, turns.Slots())
	}
}

// TestBacklogIsSpread: a large backlog isn't delivered over and over: each message comes back when
// its turn is due.
func TestBacklogIsSpread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(1, nil)
		for range 50 { // the moving average learns that a turn takes 10 ms
			done := take(t, turns, "a")
			<-time.After(10 * time.Millisecond)
			done(false)
		}
		take(t, turns, "a")
		var sum time.Duration
		const n = 4000
		for range n {
			_, wait := turns.Take("a")
			sum += wait
		}
		if mean := sum / n; mean < 12*time.Second || mean > 20*time.Second {
			t.Errorf("4000 turns of 10 ms, a quarter more to come than can be served: mean wait %v, want about 16 s", mean)
		}
	})
}

// TestLongestWaitIsForgotten: what was put off for minutes while nothing went doesn't put off what
// comes later, when all is well.
func TestLongestWaitIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(1, nil)
		done := take(t, turns, "a")
		<-time.After(time.Minute)
		for range 100_000 {
			if _, wait := turns.Take("a"); wait > maxWait {
				t.Fatalf("wait %v", wait)
			}
		}
		done(false)
		for range 50 {
			done := take(t, turns, "a")
			<-time.After(100 * time.Millisecond)
			done(false)
		}
		<-time.After(maxWait)
		take(t, turns, "a")
		if _, wait := turns.Take("a"); wait > 2*minWait {
			t.Errorf("wait %v", wait)
		}
	})
}

// TestTurnsThatNeverEnd: where no turn has ended yet nobody knows how long one takes, but it is at least
// as long as the present ones last. What is sent back until then doesn't come back at once, before what
// is still to be looked through.
func TestTurnsThatNeverEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(64, nil)
		for range 62 {
			take(t, turns, "a")
		}
		if _, wait := turns.Take("a"); wait != fastWait {
			t.Errorf("at once: wait %v, want a short one", wait)
		}
		<-time.After(10 * time.Second)
		var last time.Duration
		for range 1000 {
			_, last = turns.Take("a")
		}
		if last < 10*time.Second || last > 30*time.Second {
			t.Errorf("after 10 s the thousandth wait is %v, want at least %d to come per second, and not many more", last, slowRate)
		}
	})
}

// TestNoTenantHasAllTurns: a few are reserved, no more than 3 % of many.
func TestNoTenantHasAllTurns(t *testing.T) {
	t.Parallel()
	for slots, want := range map[int]int{1: 1, 2: 2, 8: 7, 64: 62, 512: 508} {
		if got := NewTurns(slots, nil).Limit("a"); got != want {
			t.Errorf("%d turns: one tenant may have %d, want %d", slots, got, want)
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
		for range 62 {
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
