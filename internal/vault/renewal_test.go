package vault

import (
	"context"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// approle is a role, and the Config of who has it.
func approle(t *testing.T, ttl, maxTTL time.Duration) (vaulttest.Role, Config) {
	role := vaulttest.Role{RoleID: "worker", SecretID: "secret-id-" + canary, TTL: ttl, MaxTTL: maxTTL}
	return role, Config{Auth: AuthAppRole, RoleID: "worker", SecretIDFile: writeFile(t, role.SecretID+"\n")}
}

func TestTokenIsRenewedAndReplacedAtItsMaxTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, time.Hour, 4*time.Hour)
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		for range 48 * 2 {
			<-time.After(30 * time.Minute)
			if _, err := h.resolve(false); err != nil {
				t.Fatal(err)
			}
			if err := h.client.Ready(); err != nil {
				t.Fatal(err)
			}
		}
		if n := h.count(opRenew, "ok"); n < 60 || n > 100 {
			t.Errorf("%d renewals in 48 h with a TTL of 1 h", n)
		}
		if n := h.count(opLogin, "ok"); n < 12 || n > 16 {
			t.Errorf("%d logins in 48 h with a max TTL of 4 h", n)
		}
		if h.count(opRead, "denied") != 0 {
			t.Error("a read was refused: there was a gap between two tokens")
		}
	})
}

func TestNonRenewableTokensAreReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, time.Hour, time.Hour)
		role.NonRenewable = true
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		<-time.After(24 * time.Hour)
		synctest.Wait()
		if n := h.count(opLogin, "ok"); n < 36 || n > 37 {
			t.Errorf("%d logins, want one each 40 minutes", n)
		}
		if n := h.server.Count("/v1/auth/token/"); n != 0 {
			t.Errorf("%d attempts to renew what can't be renewed", n)
		}
	})
}

func TestRenewalOutlivesAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, time.Hour, 100*time.Hour)
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		_, _ = h.resolve(false)
		synctest.Wait() // for the first renewal, at once
		h.server.SetOutage(vaulttest.Outage{Status: 503, Path: "/v1/auth/"})
		<-time.After(55 * time.Minute)
		if h.count(opRenew, "unavailable") == 0 {
			t.Error("nobody tried to renew")
		}
		checkProblem(t, h.client.Ready(), provision.SecretUnavailable, "renew the token")
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary) // the token still lives
		h.server.SetOutage(vaulttest.Outage{})
		<-time.After(2 * time.Minute)
		if err := h.client.Ready(); err != nil || h.count(opRenew, "ok") < 2 || h.count(opLogin, "ok") != 1 {
			t.Errorf("Ready: %v; want another renewal and no second login", err)
		}
	})
}

func TestOutagePastTheTokensEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, time.Hour, 100*time.Hour)
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		_, _ = h.resolve(false)
		h.server.SetOutage(vaulttest.Outage{Status: 503, Path: "/v1/auth/"})
		<-time.After(2 * time.Hour)
		_, err := h.resolve(false)
		checkProblem(t, err, provision.SecretUnavailable, "auth/approle/login")
		if ttl := h.client.session.ttl(); ttl != 0 {
			t.Errorf("ttl is %v after the token's end", ttl)
		}
		h.server.SetOutage(vaulttest.Outage{})
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
	})
}

func TestGivenTokenIsRenewedToItsMaxTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(vaulttest.Config{})
		token := server.NewToken(vaulttest.Role{TTL: time.Hour, MaxTTL: 10 * time.Hour})
		h := start(t, server, Config{Token: provision.NewSensitive(token)})
		<-time.After(9*time.Hour + 59*time.Minute)
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		if !strings.Contains(h.witness.String(), "VAULT_TOKEN ends") {
			t.Error("nobody was warned")
		}
		<-time.After(2 * time.Minute)
		_, err = h.resolve(false)
		checkProblem(t, err, provision.SecretDenied, "VAULT_TOKEN")
		checkProblem(t, h.client.Ready(), provision.SecretDenied, "VAULT_TOKEN")
	})
}

func TestGivenTokenWithoutRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(vaulttest.Config{})
		token := server.NewToken(vaulttest.Role{TTL: time.Hour, NonRenewable: true})
		h := start(t, server, Config{Token: provision.NewSensitive(token)})
		<-time.After(59 * time.Minute)
		if err := h.client.Ready(); err != nil {
			t.Errorf("Ready before the end: %v", err)
		}
		if n := strings.Count(h.witness.String(), "VAULT_TOKEN ends"); n != 1 {
			t.Errorf("%d warnings, want 1", n)
		}
		server.Revoke(token)
		_, err := h.resolve(false)
		checkProblem(t, err, provision.SecretDenied, "invalid token")
		checkProblem(t, h.client.Ready(), provision.SecretDenied)
	})
}

// TestDeniedRenewalIsNoTrouble: a policy may leave renew-self out. The token is good all the same.
func TestDeniedRenewalIsNoTrouble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, time.Hour, 0)
		server := serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}})
		server.Deny("auth/token/renew-self")
		h := start(t, server, conf)
		for range 24 * 2 {
			<-time.After(30 * time.Minute)
			got, err := h.resolve(false)
			checkValue(t, got, err, "dapi-"+canary)
			if err := h.client.Ready(); err != nil {
				t.Fatal(err)
			}
		}
		if n := h.count(opLogin, "ok"); n < 36 || n > 37 {
			t.Errorf("%d logins in 24 h, want one each 40 minutes", n)
		}
	})
}

// TestRevokedTokenIsNoticedByTheRenewal, without any read.
func TestRevokedTokenIsNoticedByTheRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, time.Hour, 0)
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		_, _ = h.resolve(false)
		synctest.Wait()
		h.server.RevokeAll()
		<-time.After(50 * time.Minute)
		synctest.Wait()
		if h.count(opRenew, "denied") != 1 || h.count(opLogin, "ok") != 2 {
			t.Errorf("%d refused renewals, %d logins", h.count(opRenew, "denied"), h.count(opLogin, "ok"))
		}
		if err := h.client.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// TestThrottledRenewalWaitsAsAsked: a Retry-After that is longer than our own wait is heeded.
func TestThrottledRenewalWaitsAsAsked(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]vaulttest.Outage{
		"429": {Status: 429, RetryAfter: 5 * time.Minute}, "503": {Status: 503, RetryAfter: 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				role, conf := approle(t, time.Hour, 0)
				h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
				_, _ = h.resolve(false)
				synctest.Wait()
				o.Path = "/v1/auth/"
				h.server.SetOutage(o)
				<-time.After(59 * time.Minute)
				if n := h.count(opRenew, "unavailable"); n < 3 || n > 4 {
					t.Errorf("%d tries in the last 15 to 18 minutes of the token, want one each 5", n)
				}
			})
		})
	}
}

// TestShortTokensDontFloodTheLogin has Vault give tokens that the next renewal ends.
func TestShortTokensDontFloodTheLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, time.Hour, time.Second)
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		<-time.After(time.Minute)
		synctest.Wait()
		if n := h.count(opLogin, "ok"); n < 30 || n > 61 {
			t.Errorf("%d logins in a minute, want at most one a second", n)
		}
	})
}

// TestRenewalsForLessDontFloodTheLogin has each renewal give a token a sixth of what the login gave it.
func TestRenewalsForLessDontFloodTheLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, time.Hour, 0)
		server := serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}})
		conf.transport = inMemory{lying{server, nil, func(auth map[string]any) { auth["lease_duration"] = 600 }}}
		h := start(t, server, conf)
		<-time.After(time.Hour)
		synctest.Wait()
		if n := h.count(opLogin, "ok"); n < 9 || n > 10 {
			t.Errorf("%d logins in an hour, want one each 400 s", n)
		}
		if err := h.client.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// TestStopEndsARenewal that hangs.
func TestStopEndsARenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, time.Hour, 0)
		server := serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}})
		server.SetOutage(vaulttest.Outage{Hang: true, Path: "/v1/auth/token/renew-self"})
		ctx, stop := context.WithCancel(t.Context())
		conf.Address, conf.transport = "https://vault.test:8200", inMemory{server}
		client, err := New(conf)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- client.Run(ctx) }()
		synctest.Wait()
		begun := time.Now()
		stop()
		if err := <-done; err != nil || time.Since(begun) != 0 {
			t.Errorf("Run ended with %v after %v", err, time.Since(begun))
		}
	})
}

func TestTokenGauge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, time.Hour, 0)
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		_, _ = h.resolve(false)
		<-time.After(10 * time.Minute)
		if ttl := h.client.session.ttl(); ttl != 3000 {
			t.Errorf("ttl is %v, want 3000", ttl)
		}
		root := start(t, h.server, Config{})
		_, _ = root.resolve(false)
		if ttl := root.client.session.ttl(); !math.IsInf(ttl, 1) {
			t.Errorf("ttl of root is %v, want +Inf", ttl)
		}
	})
}

// TestLeaseBeginsWhenItIsAskedFor, not when the answer comes, for a login and a renewal.
func TestLeaseBeginsWhenItIsAskedFor(t *testing.T) {
	t.Parallel()
	for path, ttl := range map[string]float64{"/v1/auth/approle/login": 3595, "/v1/auth/token/renew-self": 3595} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				role, conf := approle(t, time.Hour, 0)
				server := serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}})
				server.SetOutage(vaulttest.Outage{Hang: true, Path: path})
				h := start(t, server, conf)
				<-time.After(5 * time.Second)
				if path == "/v1/auth/approle/login" {
					server.SetOutage(vaulttest.Outage{Hang: true, Path: "/v1/auth/token/"}) // no renewal corrects it
				} else {
					server.SetOutage(vaulttest.Outage{})
				}
				synctest.Wait()
				if got := h.client.session.ttl(); got != ttl {
					t.Errorf("the token is said to last %v s, want %v", got, ttl)
				}
				if want := server.Count(path); want != 1 {
					t.Errorf("%d answers, want 1", want)
				}
			})
		})
	}
}
