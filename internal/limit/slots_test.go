package limit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// acquire takes a slot that must be free.
func acquire(t *testing.T, s *Slots, tenant string) func(bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	release, err := begun(ctx, s, tenant)
	if err != nil {
		t.Fatalf("no slot for %s: %v", tenant, err)
	}
	return release
}

// begun acquires a slot and begins its call.
func begun(ctx context.Context, s *Slots, tenant string) (release func(bool), err error) {
	slot, err := s.Acquire(ctx, tenant)
	if err != nil {
		return nil, err
	}
	if err := slot.Begin(ctx); err != nil {
		slot.Release(false)
		return nil, err
	}
	return slot.Release, nil
}

// full reports whether the tenant gets no slot.
func full(t *testing.T, s *Slots, tenant string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	release, err := begun(ctx, s, tenant)
	if err == nil {
		release(false)
		return false
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v, want the context's cause", err)
	}
	return true
}

// proven gives every tenant named its first success.
func proven(t *testing.T, s *Slots, tenants ...string) {
	t.Helper()
	for _, name := range tenants {
		acquire(t, s, name)(false)
	}
}

// TestSlotsAreAllUsed: two tenants use every one, one alone leaves a 64th, and a quarter until its first success.
func TestSlotsAreAllUsed(t *testing.T) {
	t.Parallel()
	for size, alone := range map[int]int{1: 1, 2: 2, 4: 4, 31: 31, 32: 31, 50: 49, 64: 63, 2000: 1969} {
		synctest.Test(t, func(t *testing.T) {
			s := NewSlots(size, nil)
			n := 0
			for ; !full(t, NewSlots(size, nil), "x") && n < int(s.first); n++ {
				acquire(t, s, "new")
			}
			if size > 4 && !full(t, s, "new") {
				t.Errorf("%d slots: a tenant without a success has more than %d", size, n)
			}
			s = NewSlots(size, nil)
			proven(t, s, "a", "b")
			for range alone {
				acquire(t, s, "a")
			}
			if !full(t, s, "a") {
				t.Errorf("%d slots: one tenant has more than %d", size, alone)
			}
			for range size - alone {
				acquire(t, s, "b")
			}
			if !full(t, s, "b") || s.busy != size {
				t.Errorf("%d slots: more than those are in use, or only %d", size, s.busy)
			}
		})
	}
}

// TestFreeSlotGoesToWhoHasFewest: however many another has waiting, but for the one call that is announced already.
func TestFreeSlotGoesToWhoHasFewest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(8, nil)
		proven(t, s, "big")
		ends := make(chan func(bool), 200)
		for range 8 {
			ends <- acquire(t, s, "big")
		}
		order := make(chan string, 200)
		wait := func(tenant string) {
			go func() {
				release, err := begun(t.Context(), s, tenant)
				if err == nil {
					order <- tenant
					ends <- release
				}
			}()
			synctest.Wait()
		}
		for range 100 {
			wait("big")
		}
		for i := range 3 {
			wait(fmt.Sprint("small-", i))
			wait(fmt.Sprint("small-", i))
		}
		var got []string
		for range 7 {
			(<-ends)(false)
			synctest.Wait()
			got = append(got, <-order)
		}
		want := []string{"big", "small-0", "small-1", "small-2", "small-0", "small-1", "small-2"}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("slots went to %v, want %v", got, want)
		}
		for range 8 + 93 {
			(<-ends)(false)
			synctest.Wait()
		}
	})
}

// TestLimitFollowsWhatTheServiceBears decreases once per round and grows by one per round.
func TestLimitFollowsWhatTheServiceBears(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(64, nil)
		proven(t, s, "a")
		var round []func(bool)
		for range 10 {
			round = append(round, acquire(t, s, "a"))
		}
		<-time.After(time.Second)
		for _, release := range round {
			release(true)
		}
		if got := s.Room("a"); got != 44 { // 63 × 0.7
			t.Errorf("after ten throttled calls of one round there is room for %d, want 44", got)
		}
		for range 44 {
			acquire(t, s, "a")(false)
		}
		if got := s.Room("a"); got < 44 || got > 45 {
			t.Errorf("after a round that went well there is room for %d, want 45 or just not", got)
		}
		for range 200 {
			release := acquire(t, s, "a")
			<-time.After(time.Millisecond)
			release(true)
		}
		if got := s.Room("a"); got != 1 {
			t.Errorf("there is room for %d in the worst of times, want 1", got)
		}
		if got := s.Room("b"); got != 48 {
			t.Errorf("another tenant has room for %d, want 48", got)
		}
	})
}

// TestWithdrawnWaitersLeaveNothing: those whose context ends take no slot, and those behind them get it.
func TestWithdrawnWaitersLeaveNothing(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(3, nil)
		done := make(chan bool)
		const n = 300
		for i := range n {
			patience := time.Duration(1+rng.IntN(20)) * time.Millisecond
			work := time.Duration(1+rng.IntN(4)) * time.Millisecond
			strained := rng.IntN(3) == 0
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				release, err := begun(ctx, s, fmt.Sprint("t", i%5))
				if err == nil {
					<-time.After(work)
					release(strained)
				}
				done <- err == nil
			}()
		}
		served := 0
		for range n {
			if <-done {
				served++
			}
		}
		if served == 0 || served == n {
			t.Errorf("%d of %d served", served, n)
		}
		if s.busy != 0 || s.running != 0 || len(s.ready) != 0 {
			t.Errorf("%d busy, %d tenants wait", s.busy, len(s.ready))
		}
		for name, one := range s.tenants {
			if one.busy != 0 || len(one.waiting) != 0 || one.index != -1 {
				t.Errorf("%s: %+v", name, one)
			}
		}
	})
}

// TestIdleTenantsAreForgotten, so that a million of them over the months take no memory.
func TestIdleTenantsAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(4, nil)
		held := acquire(t, s, "held")
		for i := range 3 * forgetFrom {
			acquire(t, s, fmt.Sprint(i))(false)
			<-time.After(time.Second)
		}
		if n := len(s.tenants); n > forgetFrom+1 || s.tenants["held"] == nil {
			t.Errorf("%d tenants are remembered", n)
		}
		held(false)
	})
}
