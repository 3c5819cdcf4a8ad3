package vault

import (
	"fmt"
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
		"a byte order mark and CRLF in the file": {
			vaulttest.Role{Name: "worker", JWT: jwt},
			Config{Auth: AuthKubernetes, Role: "worker", JWTFile: writeFile(t, "\ufeff"+jwt+"\r\n")},
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
		"wrong token": {Config{Token: provision.NewSensitive("wrong-" + canary)}, provision.SecretDenied, []string{"VAULT_TOKEN", "invalid token"}},
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

func TestManyRefusedReadsShareOneLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, 0, 0)
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		_, _ = h.resolve(false)
		h.server.RevokeAll()
		h.server.SetOutage(vaulttest.Outage{Hang: true, Path: "/v1/auth/"}) // the login takes its time
		results := make(chan error, 20)
		for i := range 20 {
			name := fmt.Sprint("many/", i)
			h.server.Put("flow/tenants/acme/"+name, map[string]any{"f": canary})
			go func() {
				_, err := h.resolveRef(ref(name, "f"), false)
				results <- err
			}()
		}
		synctest.Wait()
		h.server.SetOutage(vaulttest.Outage{})
		for range 20 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if n := h.count(opLogin, "ok"); n != 2 {
			t.Errorf("%d logins, want 2", n)
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
