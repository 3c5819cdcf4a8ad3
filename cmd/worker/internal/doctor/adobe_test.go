package doctor

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

func TestFlowServiceAndItsClock(t *testing.T) {
	t.Parallel()
	status, date := http.StatusUnauthorized, time.Now().Add(-time.Hour)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("credentials were sent")
		}
		w.Header().Set("Date", date.UTC().Format(http.TimeFormat))
		w.WriteHeader(status)
	}))
	t.Cleanup(srv.Close)
	check := func(url string) []Finding {
		return found(func(x *examination) { x.Settings.FlowURL = url; x.flowService(testContext(t)) })
	}
	if got := check(srv.URL + "/"); len(got) != 2 || got[0].Status != OK || got[1].Status != Warn || !strings.Contains(got[1].What, "behind") {
		t.Errorf("an hour behind: %+v", got)
	}
	status = http.StatusBadGateway
	if got := check(srv.URL); got[0].Status != Fail || !strings.Contains(got[0].What, "502") {
		t.Errorf("failing: %+v", got)
	}
	if got := check("http://a b"); len(got) != 1 || got[0].Status != Fail {
		t.Errorf("no URL: %+v", got)
	}
}

// That the token service answers is looked at without a tenant, too, unless nobody needs one.
func TestTokenService(t *testing.T) {
	t.Parallel()
	vault := vaulttest.New(vaulttest.Config{})
	srv := httptest.NewServer(vault)
	t.Cleanup(srv.Close)
	status := http.StatusMethodNotAllowed
	ims := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/ims/token/v3" || r.Header.Get("Authorization") != "" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(ims.Close)
	vault.Put("flow/tenants/static/adobe", map[string]any{"orgId": "a@AdobeOrg", "apiKey": "k", "accessToken": "static"})
	vault.Put("flow/tenants/oauth/adobe", map[string]any{"orgId": "a@AdobeOrg", "clientId": "c", "clientSecret": "s", "scopes": "openid"})
	check := func(url, token string, tenants ...string) []Finding {
		return found(func(x *examination) {
			x.Settings = load(t, "VAULT_ADDR="+srv.URL, "VAULT_TOKEN="+token, "FLOW_URL="+srv.URL, "IMS_URL="+url)
			x.tenants = tenants
			x.upstream(testContext(t))
		})
	}
	const away = "http://127.0.0.1:1"
	if got := check(ims.URL, vault.Token()); !has(got, "ims", OK, "reachable at "+ims.URL) {
		t.Errorf("it answers: %+v", got)
	}
	for name, got := range map[string][]Finding{
		"no tenants":      check(away, vault.Token()),
		"one needs it":    check(away, vault.Token(), "oauth", "static"),
		"Vault refuses":   check(away, "wrong"),
		"a tenant's gone": check(away, vault.Token(), "initech"),
	} {
		if !has(got, "ims", Fail, "refused") || !strings.Contains(fmt.Sprint(got), "check IMS_URL") {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := check(away, vault.Token(), "static"); has(got, "ims", Fail, "") || !has(got, "tenants", OK, "static") {
		t.Errorf("nobody needs it: %+v", got)
	}
	status = http.StatusServiceUnavailable
	if got := check(ims.URL, vault.Token()); !has(got, "ims", Fail, "503") {
		t.Errorf("failing: %+v", got)
	}
}
