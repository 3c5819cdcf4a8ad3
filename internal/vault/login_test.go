package vault

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// misconfigured is a Vault with a role for each method, and the logins of who has the wrong credential.
func misconfigured(t *testing.T) (*vaulttest.Server, map[string]Config) {
	server := serverOf(vaulttest.Config{Roles: []vaulttest.Role{
		{RoleID: "worker", SecretID: "right-" + canary},
		{Name: "worker", JWT: "right-" + canary},
		{Mount: "jwt", Name: "worker", JWT: "right-" + canary},
	}})
	return server, map[string]Config{
		"approle":    {Auth: AuthAppRole, RoleID: "worker", SecretIDFile: writeFile(t, "wrong-"+canary)},
		"kubernetes": {Auth: AuthKubernetes, Role: "worker", JWTFile: writeFile(t, "wrong-"+canary)},
		"jwt":        {Auth: AuthJWT, Role: "worker", JWTFile: writeFile(t, "wrong-"+canary)},
	}
}

// TestRefusedLoginWaitsForItsFile has reads ask for a login all the time.
func TestRefusedLoginWaitsForItsFile(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"approle", "kubernetes", "jwt"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server, logins := misconfigured(t)
				conf := logins[name]
				h := start(t, server, conf)
				setting, file := conf.credentialFile()
				for range 29 {
					<-time.After(10 * time.Second)
					begun := time.Now()
					_, err := h.resolve(false)
					checkProblem(t, err, provision.SecretDenied, "login refused", "waiting for "+setting+" to change, for ")
					if waited := time.Since(begun); waited != 0 {
						t.Fatalf("a read waited %v for a login that is not tried", waited)
					}
				}
				checkProblem(t, h.client.Ready(), provision.SecretDenied, "login refused", "auth/"+name+"/login", "waiting for "+setting+" to change, for ")
				if n := h.count(opLogin, "denied"); n != 1 {
					t.Errorf("%d tries in 290 s with the same credential, want 1", n)
				}
				rewriteFile(t, file, "right-"+canary)
				<-time.After(2*lookAgain + time.Millisecond)
				synctest.Wait()
				if err := h.client.Ready(); err != nil {
					t.Errorf("not logged in at once with the right credential: %v", err)
				}
				got, err := h.resolve(false)
				checkValue(t, got, err, "dapi-"+canary)
			})
		})
	}
}

// TestRefusedLoginIsTriedAgain though nothing changed at the worker: something may have at Vault.
func TestRefusedLoginIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]time.Duration{"approle": countedWait, "approle without secret id": countedWait, "kubernetes": refusedWait, "jwt": refusedWait} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server, logins := misconfigured(t)
				logins["approle without secret id"] = Config{Auth: AuthAppRole, RoleID: "nobody"}
				h := start(t, server, logins[name])
				<-time.After(2*time.Hour - time.Minute)
				if n, want := h.count(opLogin, "denied"), int(2*time.Hour/wait); n != want {
					t.Errorf("%d tries in two hours, want %d", n, want)
				}
				for _, role := range []vaulttest.Role{
					{RoleID: "nobody"}, {RoleID: "worker", SecretID: "wrong-" + canary}, {Name: "worker", JWT: "wrong-" + canary}, {Mount: "jwt", Name: "worker", JWT: "wrong-" + canary},
				} {
					server.SetRole(role)
				}
				<-time.After(2 * time.Minute)
				got, err := h.resolve(false)
				checkValue(t, got, err, "dapi-"+canary)
			})
		})
	}
}

// TestWhatIsARefusal: only what says something of the credential. The rest is tried on, as before.
func TestWhatIsARefusal(t *testing.T) {
	t.Parallel()
	const page = "<html>" + canary + "</html>"
	for name, tc := range map[string]struct {
		outage  vaulttest.Outage
		refusal bool
	}{
		"400": {vaulttest.Outage{Status: 400}, true}, "401": {vaulttest.Outage{Status: 401}, true},
		"403": {vaulttest.Outage{Status: 403}, true}, "404": {vaulttest.Outage{Status: 404}, true}, "422": {vaulttest.Outage{Status: 422}, true},
		"a proxy's 400": {vaulttest.Outage{Status: 400, Body: page}, false}, "a proxy's 403": {vaulttest.Outage{Status: 403, Body: page}, false},
		"a proxy's 404": {vaulttest.Outage{Status: 404, Body: page}, false}, "a proxy's 502": {vaulttest.Outage{Status: 502, Body: page}, false},
		"408": {vaulttest.Outage{Status: 408}, false}, "412": {vaulttest.Outage{Status: 412}, false}, "429": {vaulttest.Outage{Status: 429}, false},
		"500": {vaulttest.Outage{Status: 500}, false}, "503": {vaulttest.Outage{Status: 503}, false}, "hang": {vaulttest.Outage{Hang: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				role, conf := approle(t, 0, 0)
				server := serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}})
				tc.outage.Path = "/v1/auth/"
				server.SetOutage(tc.outage)
				h := start(t, server, conf)
				<-time.After(4*time.Minute + 59*time.Second)
				if n := server.Count("/v1/auth/"); tc.refusal != (n == 1) {
					t.Errorf("%d tries in 5 minutes", n)
				}
				if told := strings.Contains(h.client.Ready().Error(), "login refused"); told != tc.refusal {
					t.Errorf("said: %v", h.client.Ready())
				}
			})
		})
	}
}

// TestForeignAnswerToALoginIsNoRefusal: what answers in Vault's place says nothing of the credential, which is
// tried again soon; Vault's own refusal is waited for.
func TestForeignAnswerToALoginIsNoRefusal(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body string
		wait time.Duration
	}{"Vault's own": {"", countedWait}, "a proxy's": {`{"message":"Forbidden"}`, 2 * loginDelayMax}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				role, conf := approle(t, 0, 0)
				server := serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}})
				server.SetOutage(vaulttest.Outage{Path: "/v1/auth/", Status: 400, Body: tc.body})
				h := start(t, server, conf)
				<-time.After(10 * time.Second)
				server.SetOutage(vaulttest.Outage{})
				if h.client.Ready() == nil {
					t.Error("ready without a login")
				}
				<-time.After(tc.wait)
				if err := h.client.Ready(); err != nil {
					t.Errorf("after %v: %v", tc.wait, err)
				}
			})
		})
	}
}

// TestRefusedLoginKeepsTheOldToken: a secret id that is good for one login is no use when a read that lacks
// rights asks for another one.
func TestRefusedLoginKeepsTheOldToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, time.Hour, 100*time.Hour)
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		_, _ = h.resolve(false)
		role.SecretID = "used up-" + canary
		h.server.SetRole(role)
		h.server.Deny("secret/data/flow/tenants/walled/*")
		walled := func() {
			_, err := h.client.Resolve(t.Context(), "walled", ref("x", "f"), false)
			checkProblem(t, err, provision.SecretDenied, "login refused")
		}
		walled()
		checkProblem(t, h.client.Ready(), provision.SecretDenied, "login refused")
		for range 28 {
			<-time.After(time.Minute)
			walled()
		}
		if n := h.count(opLogin, "denied"); n != 1 {
			t.Errorf("%d refused logins in 28 minutes, want 1", n)
		}
		<-time.After(3 * time.Minute)
		if err := h.client.Ready(); err != nil || h.count(opLogin, "denied") != 1 {
			t.Errorf("the old token was renewed and nobody asks for another one: %v, %d refused logins", err, h.count(opLogin, "denied"))
		}
		<-time.After(24 * time.Hour)
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		if h.count(opLogin, "ok") != 1 || h.count(opRead, "denied") != 29 {
			t.Errorf("%d logins, %d refused reads", h.count(opLogin, "ok"), h.count(opRead, "denied"))
		}
	})
}

// TestRefusedLoginWithATokenThatEnds: the old token is used to its end, then reads are told at once.
func TestRefusedLoginWithATokenThatEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, time.Hour, time.Hour)
		role.NonRenewable = true
		h := start(t, serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}}), conf)
		_, _ = h.resolve(false)
		role.SecretID = "other-" + canary
		h.server.SetRole(role)
		<-time.After(59 * time.Minute)
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		checkProblem(t, h.client.Ready(), provision.SecretDenied, "login refused")
		<-time.After(time.Minute)
		_, err = h.resolve(false)
		checkProblem(t, err, provision.SecretDenied, "login refused")
		rewriteFile(t, conf.SecretIDFile, role.SecretID)
		<-time.After(3 * lookAgain)
		got, err = h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
	})
}

// TestHalfWrittenCredential: neither a file that is gone, empty or half written for a moment nor one that
// is written anew with what it held costs a try.
func TestHalfWrittenCredential(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, logins := misconfigured(t)
		conf := logins["approle"]
		h := start(t, server, conf)
		<-time.After(lookAgain / 2) // so that each of these is met by one look
		for _, content := range []string{"", "wrong-" + canary, " wrong-" + canary + "\n", "", "ri", "right-" + canary} {
			<-time.After(lookAgain)
			rewriteFile(t, conf.SecretIDFile, content)
		}
		if err := os.Rename(conf.SecretIDFile, conf.SecretIDFile+".old"); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * lookAgain)
		rewriteFile(t, conf.SecretIDFile, "wrong-"+canary)
		<-time.After(10 * lookAgain)
		if n := server.Count("/v1/auth/"); n != 1 {
			t.Errorf("%d tries, want 1", n)
		}
		rewriteFile(t, conf.SecretIDFile, "right-"+canary)
		<-time.After(3 * lookAgain)
		if err := h.client.Ready(); err != nil || server.Count("/v1/auth/approle/login") != 2 {
			t.Errorf("%v after %d logins", err, server.Count("/v1/auth/approle/login"))
		}
	})
}

// fleet starts workers of one role with one wrong secret id, some time after each other.
func fleet(t *testing.T, server *vaulttest.Server, conf Config, n int, apart time.Duration) []*harness {
	workers := make([]*harness, n)
	for i := range workers {
		workers[i] = start(t, server, conf)
		<-time.After(apart)
	}
	return workers
}

// TestFourWorkersDontLockTheRole, however long nobody mends their secret id, if they were refused within a
// quarter of an hour.
func TestFourWorkersDontLockTheRole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, logins := misconfigured(t)
		conf := logins["approle"]
		workers := fleet(t, server, conf, 4, 290*time.Second)
		<-time.After(6 * time.Hour)
		rewriteFile(t, conf.SecretIDFile, "right-"+canary)
		<-time.After(3 * lookAgain)
		for i, h := range workers {
			if err := h.client.Ready(); err != nil || h.count(opLogin, "denied") > 13 {
				t.Errorf("worker %d after %d refused logins: %v", i, h.count(opLogin, "denied"), err)
			}
		}
	})
}

// TestFiveWorkersLockTheRole: that can't be helped. The message says what it may be, and all are logged in
// soon after the lock's end.
func TestFiveWorkersLockTheRole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, logins := misconfigured(t)
		conf := logins["approle"]
		workers := fleet(t, server, conf, 6, 0)
		synctest.Wait()
		<-time.After(time.Minute)
		rewriteFile(t, conf.SecretIDFile, "right-"+canary)
		<-time.After(3 * lookAgain)
		for i, h := range workers {
			checkProblem(t, h.client.Ready(), provision.SecretDenied, "login refused", "403", "it may have locked the role", "vault read sys/locked-users", fmt.Sprint(refusedWait))
			if n := h.count(opLogin, "denied"); n != 2 {
				t.Errorf("worker %d: %d refused logins, want 2", i, n)
			}
		}
		<-time.After(15*time.Minute + refusedWait)
		for i, h := range workers {
			if err := h.client.Ready(); err != nil {
				t.Errorf("worker %d: %v", i, err)
			}
		}
	})
}
