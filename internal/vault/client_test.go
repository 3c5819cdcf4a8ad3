package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		if got.Version != 1 || got.Domain != "https://adb-1.azuredatabricks.net" {
			t.Errorf("version %d, domain %q", got.Version, got.Domain)
		}
	})
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		got, err := h.client.Credentials(t.Context(), "acme", false)
		h.see(got, err)
		want := provision.Credentials{
			OrgID: "ABC123@AdobeOrg", ClientID: "client", ClientSecret: provision.NewSensitive("p8-" + canary), Version: 1,
			Scopes: "openid,session,AdobeID,read_organizations,additional_info.projectedProductContext",
		}
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("got %+v, %v", got, err)
		}
		_, err = h.client.Credentials(t.Context(), "nobody", false)
		h.see(nil, err)
		checkProblem(t, err, provision.SecretMissing, "secret/flow/tenants/nobody/adobe", "vault kv put")
	})
}

func TestReadEveryTimeWithoutCacheTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		for range 3 {
			_, _ = h.resolve(false)
		}
		if n := h.server.Count("/v1/secret/data/"); n != 3 {
			t.Errorf("%d reads, want 3", n)
		}
		h.server.Delete("flow/tenants/acme/databricks/acme")
		_, err := h.resolve(false)
		checkProblem(t, err, provision.SecretMissing, "deleted")
		h.server.Put("flow/tenants/acme/databricks/acme", map[string]any{"accessToken": "new-" + canary})
		got, err := h.resolve(false)
		checkValue(t, got, err, "new-"+canary)
	})
}

func TestQuickRetries(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		outage vaulttest.Outage
		want   provision.SecretProblem // empty: works
		cause  provision.Cause
		reads  int
	}{
		"one 500":                {vaulttest.Outage{Status: 500, Times: 1}, "", provision.CauseStatus, 2},
		"two 503":                {vaulttest.Outage{Status: 503, Times: 2}, "", provision.CauseStatus, 3},
		"a lagging standby":      {vaulttest.Outage{Status: 412, Times: 1}, "", provision.CauseStatus, 2},
		"throttled":              {vaulttest.Outage{Status: 429, Times: 1, RetryAfter: time.Second}, "", provision.CauseThrottled, 2},
		"throttled for long":     {vaulttest.Outage{Status: 429, RetryAfter: time.Minute}, provision.SecretUnavailable, provision.CauseThrottled, 1},
		"down":                   {vaulttest.Outage{Status: 502}, provision.SecretUnavailable, provision.CauseStatus, 3},
		"hangs":                  {vaulttest.Outage{Hang: true}, provision.SecretUnavailable, provision.CauseTimeout, 3},
		"hangs once":             {vaulttest.Outage{Hang: true, Times: 1}, "", provision.CauseTimeout, 2},
		"a proxy's error page":   {vaulttest.Outage{Status: 404, Body: "<html>X-Vault-Token: vaulttest-root"}, provision.SecretUnavailable, provision.CauseStatus, 1},
		"a proxy's refusal":      {vaulttest.Outage{Status: 403, Body: "vaulttest-root"}, provision.SecretUnavailable, provision.CauseStatus, 1},
		"not Vault's JSON":       {vaulttest.Outage{Status: 200, Body: "vaulttest-root"}, provision.SecretUnavailable, provision.CauseStatus, 3},
		"an answer of another":   {vaulttest.Outage{Status: 204}, provision.SecretUnavailable, provision.CauseStatus, 1},
		"not JSON to the end":    {vaulttest.Outage{Status: 200, Body: `{"data":{"data":{"accessToken":"c4n4ry`}, provision.SecretUnavailable, provision.CauseStatus, 3},
		"an upgrade in progress": {vaulttest.Outage{Status: 400}, provision.SecretUnavailable, provision.CauseStatus, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { checkOutage(t, tc.outage, tc.want, tc.cause, tc.reads) })
		})
	}
}

func checkOutage(t *testing.T, o vaulttest.Outage, want provision.SecretProblem, cause provision.Cause, reads int) {
	h := start(t, serverOf(vaulttest.Config{}), Config{})
	_, _ = h.resolve(false)
	before := h.server.Count("/v1/secret/")
	o.Path = "/v1/secret/"
	h.server.SetOutage(o)
	got, err := h.resolve(false)
	if want == "" {
		checkValue(t, got, err, "dapi-"+canary)
	} else if e := checkProblem(t, err, want, "flow/tenants/acme/databricks/acme"); e.Cause != cause {
		t.Errorf("cause is %q, want %q", e.Cause, cause)
	}
	if n := h.server.Count("/v1/secret/") - before; n != reads {
		t.Errorf("%d requests, want %d", n, reads)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.retries) != reads-1 {
		t.Errorf("retries told: %v, want %d of them", h.retries, reads-1)
	}
	for _, c := range h.retries {
		if c != cause {
			t.Errorf("retry told with cause %q, want %q", c, cause)
		}
	}
}

func TestCallersContextEndsTheWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		h.server.SetOutage(vaulttest.Outage{Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		_, err := h.client.Resolve(ctx, "acme", ref("databricks/acme", "accessToken"), false)
		if e := checkProblem(t, err, provision.SecretUnavailable); e.Cause != provision.CauseTimeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v with cause %q", err, e.Cause)
		}
		if waited := time.Since(begun); waited != time.Second {
			t.Errorf("waited for %v", waited)
		}
		cancel()
		before := h.server.Count("/")
		_, err = h.client.Resolve(ctx, "acme", ref("databricks/acme", "accessToken"), false)
		checkProblem(t, err, provision.SecretUnavailable)
		if h.server.Count("/") != before {
			t.Error("a context that has ended still led to a request")
		}
		h.server.SetOutage(vaulttest.Outage{})
	})
}

// TestHealthBesideALogin: probes ask while the token changes. Only the race detector sees what goes wrong.
func TestHealthBesideALogin(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(vaulttest.New(vaulttest.Config{}))
	t.Cleanup(server.Close)
	client, err := New(Config{Address: server.URL, Token: provision.NewSensitive("hvs.given")})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // takes Run's place
		defer close(done)
		for n := range 50 {
			client.session.conclude(fmt.Sprint("hvs.", n), lease{}, nil)
		}
	}()
	for range 50 {
		if err := client.Health(t.Context()); err != nil {
			t.Errorf("Health: %v", err)
		}
	}
	<-done
}

func TestHealth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		if err := h.client.Health(t.Context()); err != nil {
			t.Errorf("Health: %v", err)
		}
		h.server.Seal()
		checkProblem(t, h.client.Health(t.Context()), provision.SecretUnavailable, "sealed")
		h.server.Unseal()
		h.server.SetOutage(vaulttest.Outage{Hang: true})
		checkProblem(t, h.client.Health(t.Context()), provision.SecretUnavailable, "no answer in time")
		h.server.SetOutage(vaulttest.Outage{})
	})
}

// TestHealthOfEachKind answers as Vault does to the client, which asks for 299 where a node isn't active.
func TestHealthOfEachKind(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status int
		body   string
		part   string // of the error; empty means healthy
	}{
		"active":               {200, `{"initialized":true,"sealed":false,"standby":false}`, ""},
		"a standby forwards":   {299, `{"initialized":true,"sealed":false,"standby":true}`, ""},
		"performance standby":  {299, `{"initialized":true,"sealed":false,"standby":true,"performance_standby":true}`, ""},
		"DR primary":           {200, `{"initialized":true,"sealed":false,"replication_dr_mode":"primary"}`, ""},
		"DR secondary":         {299, `{"initialized":true,"sealed":false,"replication_dr_mode":"secondary"}`, "disaster recovery secondary"},
		"sealed":               {299, `{"initialized":true,"sealed":true}`, "sealed"},
		"not initialized":      {299, `{"initialized":false,"sealed":true}`, "not initialized"},
		"a proxy's bad day":    {502, `<html>`, "502"},
		"something else there": {200, `<html>`, "health"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = w.Write([]byte(tc.body))
			})
			client, err := New(Config{Address: "https://vault.test:8200", Token: provision.NewSensitive("t"), transport: inMemory{answer}})
			if err != nil {
				t.Fatal(err)
			}
			err = client.Health(t.Context())
			if tc.part == "" && err != nil {
				t.Errorf("unwell: %v", err)
			} else if tc.part != "" {
				checkProblem(t, err, provision.SecretUnavailable, tc.part)
			}
		})
	}
}

// namespaced is a Vault with one namespace beside the root, which has nothing.
type namespaced struct {
	http.Handler
	name string

	mu   sync.Mutex
	seen map[string]string // :: path → namespace it was asked for in
}

func (n *namespaced) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	asked := strings.Trim(r.Header.Get("X-Vault-Namespace"), "/")
	n.mu.Lock()
	n.seen[r.URL.Path] = asked
	n.mu.Unlock()
	if asked != n.name && r.URL.Path != "/v1/sys/health" {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"errors":["namespace not found"]}`))
		return
	}
	n.Handler.ServeHTTP(w, r)
}

// TestNamespace has every call but the health's made in the namespace.
func TestNamespace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		role, conf := approle(t, time.Hour, 0)
		server := serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}})
		vault := &namespaced{Handler: server, name: "team/a", seen: map[string]string{}}
		conf.Namespace, conf.transport = "team/a", inMemory{vault}
		h := start(t, server, conf)
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		if err := h.client.Health(t.Context()); err != nil {
			t.Error(err)
		}
		given := start(t, server, Config{Namespace: "team/a", transport: inMemory{vault}})
		_, err = given.resolve(false)
		if err != nil {
			t.Error(err)
		}
		synctest.Wait()
		for path, want := range map[string]string{
			"/v1/auth/approle/login": "team/a", "/v1/auth/token/lookup-self": "team/a", "/v1/auth/token/renew-self": "team/a",
			"/v1/sys/internal/ui/mounts/secret": "team/a", "/v1/secret/data/" + acmePath: "team/a", "/v1/sys/health": "",
		} {
			if got, ok := vault.seen[path]; !ok || got != want {
				t.Errorf("%s was asked in namespace %q (%v), want %q", path, got, ok, want)
			}
		}
	})
}

// TestWrongNamespaceIsNoMissingSecret: no tenant is to fail for good because of a setting.
func TestWrongNamespaceIsNoMissingSecret(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(vaulttest.Config{})
		vault := &namespaced{Handler: server, name: "", seen: map[string]string{}}
		h := start(t, server, Config{transport: inMemory{vault}})
		_, _ = h.resolve(false)
		vault.mu.Lock()
		vault.name = "moved"
		vault.mu.Unlock()
		_, err := h.resolve(true)
		checkProblem(t, err, provision.SecretUnavailable, "namespace not found")
		late := start(t, server, Config{transport: inMemory{vault}})
		_, err = late.resolve(false)
		checkProblem(t, err, provision.SecretUnavailable, "namespace not found")
	})
}
