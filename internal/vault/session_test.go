package vault

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// writeFile returns the path of a new file.
func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credential")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// approle is a role, and the Config of who has it.
func approle(t *testing.T, ttl, maxTTL time.Duration) (vaulttest.Role, Config) {
	role := vaulttest.Role{RoleID: "worker", SecretID: "secret-id-" + canary, TTL: ttl, MaxTTL: maxTTL}
	return role, Config{Auth: AuthAppRole, RoleID: "worker", SecretIDFile: writeFile(t, role.SecretID+"\n")}
}

func TestLoginMethods(t *testing.T) {
	t.Parallel()
	jwt := "eyJ-" + canary
	for name, tc := range map[string]struct {
		role vaulttest.Role
		conf Config
	}{
		"approle": {
			vaulttest.Role{RoleID: "r", SecretID: "s-" + canary},
			Config{Auth: AuthAppRole, RoleID: "r", SecretIDFile: writeFile(t, " s-"+canary+"\n")},
		},
		"approle without secret id": {vaulttest.Role{RoleID: "r"}, Config{Auth: AuthAppRole, RoleID: "r"}},
		"kubernetes": {
			vaulttest.Role{Name: "worker", JWT: jwt},
			Config{Auth: AuthKubernetes, Role: "worker", JWTFile: writeFile(t, jwt)},
		},
		"jwt at another mount": {
			vaulttest.Role{Mount: "ci/jwt", Name: "worker", JWT: jwt},
			Config{Auth: AuthJWT, AuthMount: "/ci/jwt/", Role: "worker", JWTFile: writeFile(t, jwt)},
		},
		"token": {vaulttest.Role{}, Config{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{tc.role}}), tc.conf)
				got, err := h.resolve(false)
				checkValue(t, got, err, "dapi-"+canary)
				if err := h.client.Ready(); err != nil {
					t.Errorf("Ready: %v", err)
				}
				if h.count(opLogin, "ok") != 1 {
					t.Error("not one login")
				}
			})
		})
	}
}

func TestRefusedLogins(t *testing.T) {
	t.Parallel()
	jwtRole := vaulttest.Role{Name: "worker", JWT: "right-" + canary}
	for name, tc := range map[string]struct {
		conf  Config
		want  provision.SecretProblem
		parts []string
	}{
		"wrong secret id": {
			Config{Auth: AuthAppRole, RoleID: "r", SecretIDFile: writeFile(t, "wrong-"+canary)},
			provision.SecretDenied, []string{"auth/approle/login", "400", "invalid role or secret ID"},
		},
		"unknown role": {
			Config{Auth: AuthKubernetes, Role: "nobody", JWTFile: writeFile(t, "wrong-"+canary)},
			provision.SecretDenied, []string{"auth/kubernetes/login", "nobody"},
		},
		"wrong jwt": {
			Config{Auth: AuthKubernetes, Role: "worker", JWTFile: writeFile(t, "wrong-"+canary)},
			provision.SecretDenied, []string{"403", "permission denied"},
		},
		"wrong token": {Config{Token: "wrong-" + canary}, provision.SecretDenied, []string{"VAULT_TOKEN", "invalid token"}},
		"no file": {
			Config{Auth: AuthJWT, Role: "worker", JWTFile: "/nowhere/jwt"},
			provision.SecretUnavailable, []string{"VAULT_JWT_FILE", "/nowhere/jwt"},
		},
		"empty file": {
			Config{Auth: AuthAppRole, RoleID: "r", SecretIDFile: writeFile(t, " \n")},
			provision.SecretUnavailable, []string{"VAULT_SECRET_ID_FILE"},
		},
		"huge file": {
			Config{Auth: AuthAppRole, RoleID: "r", SecretIDFile: writeFile(t, strings.Repeat(canary, 20000))},
			provision.SecretUnavailable, []string{"VAULT_SECRET_ID_FILE"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				roles := []vaulttest.Role{{RoleID: "r", SecretID: "right-" + canary}, jwtRole}
				h := start(t, serverOf(vaulttest.Config{Roles: roles}), tc.conf)
				_, err := h.resolve(false)
				checkProblem(t, err, tc.want, tc.parts...)
				checkProblem(t, h.client.Ready(), tc.want, tc.parts...)
				if h.client.session.ttl() != 0 {
					t.Error("a token's time is told without a token")
				}
			})
		})
	}
}

func TestStartWhileVaultIsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(vaulttest.Config{})
		server.Seal()
		h := start(t, server, Config{})
		_, err := h.resolve(false)
		checkProblem(t, err, provision.SecretUnavailable, "sealed")
		checkProblem(t, h.client.Ready(), provision.SecretUnavailable, "sealed")
		<-time.After(10 * time.Minute)
		if n := h.count(opLogin, "unavailable"); n < 15 || n > 60 {
			t.Errorf("%d tries in 10 minutes; want one each half minute, more or less", n)
		}
		server.Unseal()
		begun := time.Now()
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		if waited := time.Since(begun); waited > 2*loginGap {
			t.Errorf("waited %v for a login; a read should ask for one", waited)
		}
	})
}

func TestReadsWaitForTheFirstLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(vaulttest.Config{})
		server.SetOutage(vaulttest.Outage{Hang: true, Path: "/v1/auth/"})
		h := start(t, server, Config{})
		got := make(chan error, 1)
		go func() {
			_, err := h.resolve(false)
			got <- err
		}()
		synctest.Wait()
		select {
		case err := <-got:
			t.Fatalf("the read did not wait: %v", err)
		default:
		}
		server.SetOutage(vaulttest.Outage{})
		if err := <-got; err != nil {
			t.Error(err)
		}
	})
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

func TestRevokedTokenIsReplacedByTheRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, 0, 0)
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		_, _ = h.resolve(false)
		h.server.RevokeAll()
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		if h.count(opLogin, "ok") != 2 || h.count(opRead, "denied") != 1 {
			t.Errorf("%d logins, %d refusals", h.count(opLogin, "ok"), h.count(opRead, "denied"))
		}
	})
}

func TestRefusedPathsDontFloodTheLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, 0, 0)
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		h.server.Deny("secret/data/flow/tenants/acme/*")
		for range 100 {
			_, err := h.resolve(false)
			checkProblem(t, err, provision.SecretDenied, "403", "permission denied")
		}
		if n := h.count(opLogin, "ok"); n != 2 {
			t.Errorf("%d logins for refused reads at one moment, want 1 and the first", n)
		}
		<-time.After(forcedGap)
		_, err := h.resolve(false)
		checkProblem(t, err, provision.SecretDenied)
		if n := h.count(opLogin, "ok"); n != 3 {
			t.Errorf("%d logins, want one more half a minute later", n)
		}
		h.server.Permit()
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
	})
}

func TestReloginDuringAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, 0, 0)
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		_, _ = h.resolve(false)
		h.server.RevokeAll()
		h.server.SetOutage(vaulttest.Outage{Status: 500, Path: "/v1/auth/"})
		_, err := h.resolve(false)
		checkProblem(t, err, provision.SecretUnavailable, "auth/approle/login")
		h.server.SetOutage(vaulttest.Outage{})
		<-time.After(2 * loginDelayMax)
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
	})
}

func TestGivenTokenIsRenewedToItsMaxTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(vaulttest.Config{})
		token := server.NewToken(vaulttest.Role{TTL: time.Hour, MaxTTL: 10 * time.Hour})
		h := start(t, server, Config{Token: provision.Sensitive(token)})
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
		h := start(t, server, Config{Token: provision.Sensitive(token)})
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

func TestMetricsExistFromTheStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(vaulttest.Config{})
		server.SetOutage(vaulttest.Outage{Hang: true})
		h := start(t, server, Config{})
		n, err := testutil.GatherAndCount(h.reg, "flow_worker_vault_requests_total", "flow_worker_vault_token_ttl_seconds")
		if err != nil || n != 3*4+1 {
			t.Errorf("%d series, %v; want 13", n, err)
		}
		if problems, err := testutil.GatherAndLint(h.reg); err != nil || len(problems) > 0 {
			t.Errorf("lint: %v, %v", problems, err)
		}
	})
}
