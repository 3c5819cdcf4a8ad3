package vault

import (
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
