package vault

import (
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
		if n := h.count(opRenew, "ok"); n < 48 || n > 80 {
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
		h.server.SetOutage(vaulttest.Outage{Status: 503, Path: "/v1/auth/"})
		<-time.After(50 * time.Minute)
		if h.count(opRenew, "unavailable") == 0 {
			t.Error("nobody tried to renew")
		}
		checkProblem(t, h.client.Ready(), provision.SecretUnavailable, "renew the token")
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary) // the token still lives
		h.server.SetOutage(vaulttest.Outage{})
		<-time.After(2 * time.Minute)
		if err := h.client.Ready(); err != nil || h.count(opRenew, "ok") != 1 || h.count(opLogin, "ok") != 1 {
			t.Errorf("Ready: %v; want one renewal and no second login", err)
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
