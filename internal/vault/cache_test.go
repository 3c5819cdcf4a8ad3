package vault

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

const acmePath = "flow/tenants/acme/databricks/acme"

func TestCacheTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{CacheTTL: time.Minute})
		_, _ = h.resolve(false)
		h.server.Put(acmePath, map[string]any{"accessToken": "new-" + canary})
		<-time.After(time.Minute - 1)
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		<-time.After(1)
		got, err = h.resolve(false)
		checkValue(t, got, err, "new-"+canary)
		if n := h.server.Count("/v1/secret/"); n != 2 {
			t.Errorf("%d reads, want 2", n)
		}
	})
}

func TestCacheIsNotServedPastItsTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{CacheTTL: time.Minute})
		_, _ = h.resolve(false)
		h.server.Seal()
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		<-time.After(time.Minute)
		_, err = h.resolve(false)
		checkProblem(t, err, provision.SecretUnavailable, "sealed")
	})
}

// TestCachedAnswersSaySo: they tell nothing of how Vault does now.
func TestCachedAnswersSaySo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{CacheTTL: time.Minute})
		for i, want := range []bool{false, true, false} {
			fresh := i == 2
			s, err := h.resolve(fresh)
			if err != nil || s.Cached != want {
				t.Errorf("read %d: cached %v, %v", i, s.Cached, err)
			}
			c, err := h.client.Credentials(t.Context(), "acme", fresh)
			if err != nil || c.Cached != want {
				t.Errorf("credentials %d: cached %v, %v", i, c.Cached, err)
			}
			_, err = h.resolveRef(ref("nothing", "accessToken"), fresh)
			if got := checkProblem(t, err, provision.SecretMissing); got.Cached != want {
				t.Errorf("nothing there, %d: cached %v", i, got.Cached)
			}
		}
	})
}

func TestFreshReplacesTheEntry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{CacheTTL: time.Minute})
		_, _ = h.resolve(false)
		h.server.Put(acmePath, map[string]any{"accessToken": "new-" + canary})
		got, err := h.resolve(true)
		checkValue(t, got, err, "new-"+canary)
		got, err = h.resolve(false)
		checkValue(t, got, err, "new-"+canary)
		if n := h.server.Count("/v1/secret/"); n != 2 || got.Version != 2 {
			t.Errorf("%d reads, want 2; version %d", n, got.Version)
		}
	})
}

// TestManyFreshReadsAtOnce counts what Vault gets to see of 64 requests that upstream refused together.
func TestManyFreshReadsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{CacheTTL: time.Minute})
		_, _ = h.resolve(false)
		h.server.Put(acmePath, map[string]any{"accessToken": "new-" + canary})
		h.server.SetOutage(vaulttest.Outage{Hang: true, Path: "/v1/secret/"})
		results := make(chan provision.Secret, 64)
		for range 64 {
			go func() {
				s, err := h.resolve(true)
				if err != nil {
					t.Error(err)
				}
				results <- s
			}()
		}
		synctest.Wait()
		h.server.SetOutage(vaulttest.Outage{})
		for range 64 {
			if s := <-results; s.Version != 2 || s.Cached {
				t.Errorf("version %d, cached %t", s.Version, s.Cached)
			}
		}
		if n := h.server.Count("/v1/secret/"); n > 3 {
			t.Errorf("%d reads, want the first, and at most two for all that were refused", n)
		}
	})
}

func TestFreshDropsTheEntryEvenIfItFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{CacheTTL: time.Minute})
		_, _ = h.resolve(false)
		h.server.Seal()
		_, err := h.resolve(true)
		checkProblem(t, err, provision.SecretUnavailable)
		_, err = h.resolve(false)
		checkProblem(t, err, provision.SecretUnavailable)
	})
}

func TestNotFoundIsRememberedBriefly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{CacheTTL: time.Minute})
		r := ref("later", "accessToken")
		for range 3 {
			_, err := h.resolveRef(r, false)
			checkProblem(t, err, provision.SecretMissing)
		}
		if n := h.server.Count("/v1/secret/"); n != 1 {
			t.Errorf("%d reads, want 1", n)
		}
		h.server.Put("flow/tenants/acme/later", map[string]any{"accessToken": "late-" + canary})
		<-time.After(negativeTTL)
		got, err := h.resolveRef(r, false)
		checkValue(t, got, err, "late-"+canary)
	})
}

func TestMendedSecretIsReadAgainSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{CacheTTL: time.Hour})
		r := ref("databricks/acme", "password")
		for range 3 {
			_, err := h.resolveRef(r, false)
			checkProblem(t, err, provision.SecretMissing, "no field password")
		}
		if n := h.server.Count("/v1/secret/"); n != 1 {
			t.Errorf("%d reads, want 1", n)
		}
		h.server.Put(acmePath, map[string]any{"password": "pw-" + canary})
		<-time.After(negativeTTL)
		got, err := h.resolveRef(r, false)
		checkValue(t, got, err, "pw-"+canary)
	})
}

func TestFailuresAreNotRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{CacheTTL: time.Minute})
		_, _ = h.resolveRef(ref("other", "x"), false)
		h.server.Seal()
		_, err := h.resolve(false)
		checkProblem(t, err, provision.SecretUnavailable)
		h.server.Unseal()
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
	})
}

func TestTenantsDontShareEntries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{CacheTTL: time.Minute})
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		got, err = h.client.Resolve(t.Context(), "other", ref("databricks/acme", "accessToken"), false)
		checkValue(t, got, err, "other-"+canary)
	})
}

func TestVersionsDontShareEntries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{CacheTTL: time.Minute})
		h.server.Put(acmePath, map[string]any{"accessToken": "new-" + canary})
		old := ref("databricks/acme", "accessToken")
		old.Version = 1
		got, err := h.resolve(false)
		checkValue(t, got, err, "new-"+canary)
		got, err = h.resolveRef(old, false)
		checkValue(t, got, err, "dapi-"+canary)
	})
}

// stubCache is a cache over a read that the test steers.
func stubCache(ttl time.Duration, read func(context.Context) (*stored, *failure)) *cache {
	return newCache(func(ctx context.Context, _ place, _ int) (*stored, *failure) { return read(ctx) }, ttl)
}

func slotOf(n int) slot { return slot{place: place{path: fmt.Sprint("p", n)}} }

// take returns a check that keeps the version it saw.
func take(version *int) func(*stored) *failure {
	return func(s *stored) *failure {
		*version = s.version
		return nil
	}
}

func TestSingleFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reads, release := 0, make(chan struct{})
		c := stubCache(0, func(context.Context) (*stored, *failure) {
			reads++
			<-release
			return &stored{version: reads}, nil
		})
		impatient, cancel := context.WithCancel(t.Context())
		results := make(chan *failure, 10)
		for i := range 10 {
			ctx := t.Context()
			if i == 0 {
				ctx = impatient // the one whose read the others share
			}
			go func() {
				_, err := c.get(ctx, slotOf(1), false, func(*stored) *failure { return nil })
				results <- err
			}()
			synctest.Wait()
		}
		cancel()
		if err := <-results; err == nil || err.Cause != provision.CauseTimeout {
			t.Errorf("the impatient one got %v", err)
		}
		close(release)
		for range 9 {
			if err := <-results; err != nil {
				t.Errorf("another one got %v", err)
			}
		}
		if reads != 1 {
			t.Errorf("%d reads, want 1", reads)
		}
	})
}

func TestFreshDoesntJoinAnOlderRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reads, slow := 0, make(chan struct{})
		c := stubCache(time.Minute, func(context.Context) (*stored, *failure) {
			reads++
			mine := reads
			if mine == 1 {
				<-slow
			}
			return &stored{version: mine}, nil
		})
		done := make(chan int, 1)
		go func() {
			var v int
			_, _ = c.get(t.Context(), slotOf(1), false, take(&v))
			done <- v
		}()
		synctest.Wait()
		var v int
		if _, err := c.get(t.Context(), slotOf(1), true, take(&v)); err != nil || v != 2 {
			t.Fatalf("fresh got version %d, %v; want a read of its own", v, err)
		}
		close(slow)
		if v := <-done; v != 1 {
			t.Errorf("the first one got version %d", v)
		}
		if _, err := c.get(t.Context(), slotOf(1), false, take(&v)); err != nil || v != 2 {
			t.Errorf("the cache has version %d, %v: an older read replaced a newer one", v, err)
		}
	})
}

// TestRefusedTogether: many requests that are refused at once for one secret cost two reads, and none is
// told of a read that began before it asked.
func TestRefusedTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reads, slow := 0, make(chan struct{})
		c := stubCache(time.Minute, func(context.Context) (*stored, *failure) {
			reads++
			mine := reads
			<-slow
			return &stored{version: mine}, nil
		})
		versions := make(chan int, 64)
		ask := func(fresh bool) {
			var v int
			_, _ = c.get(t.Context(), slotOf(1), fresh, take(&v))
			versions <- v
		}
		go ask(true)
		synctest.Wait()
		for range 62 {
			go ask(true)
		}
		go ask(false) // which may share the first
		synctest.Wait()
		if reads != 1 {
			t.Errorf("%d reads under way, want 1", reads)
		}
		close(slow)
		got := map[int]int{} // :: version → who got it
		for range 64 {
			got[<-versions]++
		}
		if reads != 2 || got[1] != 2 || got[2] != 62 {
			t.Errorf("%d reads, of which the first served %d and the second %d; want 2, 2 and 62", reads, got[1], got[2])
		}
		if len(c.current)+len(c.next) != 0 {
			t.Error("something is kept of reads that have ended")
		}
	})
}

// TestRefusedOneAfterAnother: each reads anew, for in between there may be a new version.
func TestRefusedOneAfterAnother(t *testing.T) {
	t.Parallel()
	reads := 0
	c := stubCache(time.Minute, func(context.Context) (*stored, *failure) {
		reads++
		return &stored{version: reads}, nil
	})
	for want := 1; want <= 3; want++ {
		var v int
		if _, err := c.get(t.Context(), slotOf(1), true, take(&v)); err != nil || v != want {
			t.Errorf("got version %d, %v; want %d", v, err, want)
		}
	}
}

// TestRefusedTogetherWhileVaultHangs: who waits for the next read does so no longer than its context, nor
// than the client lives.
func TestRefusedTogetherWhileVaultHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := stubCache(time.Minute, func(ctx context.Context) (*stored, *failure) {
			<-ctx.Done()
			return nil, unavailable(provision.CauseNetwork, "%w", ctx.Err())
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		errs := make(chan *failure, 3)
		ask := func(ctx context.Context) {
			_, err := c.get(ctx, slotOf(1), true, nil)
			errs <- err
		}
		go ask(t.Context())
		synctest.Wait()
		go ask(ctx)
		if err := <-errs; err == nil || err.Cause != provision.CauseTimeout {
			t.Errorf("past its context: %v", err)
		}
		go ask(t.Context())
		synctest.Wait()
		c.close()
		for range 2 {
			checkProblem(t, (<-errs).public(), provision.SecretUnavailable)
		}
		ask(t.Context())
		checkProblem(t, (<-errs).public(), provision.SecretUnavailable, "stopped")
	})
}

func TestReadsEndWithTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := stubCache(0, func(ctx context.Context) (*stored, *failure) {
			<-ctx.Done()
			return nil, unavailable(provision.CauseTimeout, "budget: %w", ctx.Err())
		})
		begun := time.Now()
		_, err := c.get(t.Context(), slotOf(1), false, nil)
		checkProblem(t, err.public(), provision.SecretUnavailable, "budget")
		if waited := time.Since(begun); waited != readBudget {
			t.Errorf("waited %v", waited)
		}
	})
}

func TestCloseEndsReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := stubCache(0, func(ctx context.Context) (*stored, *failure) {
			<-ctx.Done()
			return nil, unavailable(provision.CauseNetwork, "%w", ctx.Err())
		})
		got := make(chan *failure, 1)
		go func() {
			_, err := c.get(t.Context(), slotOf(1), false, nil)
			got <- err
		}()
		synctest.Wait()
		c.close()
		checkProblem(t, (<-got).public(), provision.SecretUnavailable, "canceled")
		_, err := c.get(t.Context(), slotOf(1), false, nil)
		checkProblem(t, err.public(), provision.SecretUnavailable, "stopped")
	})
}

func TestPanicReachesTheCaller(t *testing.T) {
	t.Parallel()
	c := stubCache(0, func(context.Context) (*stored, *failure) { panic("a bug") })
	for _, fresh := range []bool{false, true} {
		func() {
			defer func() {
				if got := recover(); got != "a bug" {
					t.Errorf("recovered %v, want the bug", got)
				}
			}()
			_, _ = c.get(t.Context(), slotOf(1), fresh, nil)
		}()
	}
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	reads := 0
	c := stubCache(time.Hour, func(context.Context) (*stored, *failure) {
		reads++
		return &stored{}, nil
	})
	fine := func(*stored) *failure { return nil }
	for i := range cacheSize + 10 {
		_, _ = c.get(t.Context(), slotOf(i), false, fine)
	}
	if n := len(c.entries); n != cacheSize {
		t.Errorf("%d entries, want %d", n, cacheSize)
	}
	before := reads
	_, _ = c.get(t.Context(), slotOf(cacheSize+9), false, fine)
	_, _ = c.get(t.Context(), slotOf(10), false, fine)
	if reads != before {
		t.Error("a new entry was forgotten before an older one")
	}
	_, _ = c.get(t.Context(), slotOf(0), false, fine)
	if reads != before+1 {
		t.Error("the oldest entry was not forgotten")
	}
}
