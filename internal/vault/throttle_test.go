package vault

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// TestTokenRevokedAgainAndAgain: a token that is invalid needs no half minute of patience, and no login a
// flood of others.
func TestTokenRevokedAgainAndAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, 0, 0)
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		begun := time.Now()
		for range 10 {
			got, err := h.resolve(false)
			checkValue(t, got, err, "dapi-"+canary)
			h.server.RevokeAll()
		}
		if n, passed := h.count(opLogin, "ok"), time.Since(begun); n != 10 || passed > 10*loginGap {
			t.Errorf("%d logins in %v, want 10, one a second", n, passed)
		}
	})
}

// TestThrottledLogin is left alone for as long as Vault asks, and reads are told how long that is.
func TestThrottledLogin(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		outage vaulttest.Outage
		cause  provision.Cause
		wait   time.Duration
	}{
		"429":          {vaulttest.Outage{Status: 429, RetryAfter: 2 * time.Minute}, provision.CauseThrottled, 2 * time.Minute},
		"503":          {vaulttest.Outage{Status: 503, RetryAfter: 2 * time.Minute}, provision.CauseStatus, 2 * time.Minute},
		"unbelievable": {vaulttest.Outage{Status: 429, RetryAfter: 24 * time.Hour}, provision.CauseThrottled, loginAfterMax},
	} {
		for _, given := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " given token ", given), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { checkThrottledLogin(t, tc.outage, tc.cause, tc.wait, given) })
			})
		}
	}
}

func checkThrottledLogin(t *testing.T, o vaulttest.Outage, cause provision.Cause, wait time.Duration, given bool) {
	role, conf := approle(t, 0, 0)
	if given {
		conf = Config{}
	}
	server := serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}})
	o.Path = "/v1/auth/"
	server.SetOutage(o)
	h := start(t, server, conf)
	synctest.Wait()
	<-time.After(10 * time.Second)
	begun := time.Now()
	_, err := h.resolve(false)
	if given { // its look-up is only a hint
		if err != nil || server.Count("/v1/auth/token/lookup-self") != 1 {
			t.Errorf("%v after %d look-ups", err, server.Count("/v1/auth/"))
		}
		return
	}
	e := checkProblem(t, err, provision.SecretUnavailable)
	if e.Cause != cause || e.RetryAfter != wait-10*time.Second || time.Since(begun) != 0 {
		t.Errorf("cause %q, retry after %v, told after %v", e.Cause, e.RetryAfter, time.Since(begun))
	}
	<-time.After(wait - 11*time.Second)
	if n := server.Count("/v1/auth/"); n != 1 {
		t.Errorf("%d tries, want 1", n)
	}
	server.SetOutage(vaulttest.Outage{})
	<-time.After(3 * time.Second)
	got, err := h.resolve(false)
	checkValue(t, got, err, "dapi-"+canary)
}
