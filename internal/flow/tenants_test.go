package flow

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// mixup is an Adobe that gives every credential a token of its own, and takes down which organisation
// came with which token and key.
type mixup struct {
	mu     sync.Mutex
	tokens map[string]int    // :: client id and secret → how many tokens it was given
	seen   map[string]string // :: organisation → Authorization and API key
	wrong  []string
	made   int
}

func (m *mixup) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.URL.Path == "/ims/token/v3" {
		credential := r.FormValue("client_id") + "/" + r.FormValue("client_secret") + "/" + r.FormValue("scope")
		m.tokens[credential]++
		reply(w, 200, fmt.Sprintf(`{"access_token":"token-of-%s","token_type":"bearer","expires_in":86399}`, credential))
		return
	}
	org, came := r.Header.Get("X-Gw-Ims-Org-Id"), r.Header.Get("Authorization")+" "+r.Header.Get("X-Api-Key")
	if before, ok := m.seen[org]; ok && before != came {
		m.wrong = append(m.wrong, org+" came with "+before+" and with "+came)
	}
	m.seen[org] = came
	m.made++
	reply(w, 201, fmt.Sprintf(`{"id":"c-%d","etag":"e-1"}`, m.made))
}

// TestTokensNeverCrossTenants has tenants whose credentials differ in one part only call all at once.
func TestTokensNeverCrossTenants(t *testing.T) {
	t.Parallel()
	m := &mixup{tokens: map[string]int{}, seen: map[string]string{}}
	addr, _ := serve(t, m.ServeHTTP)
	r := newRig(t, addr)
	oauth := func(org, id, secret, scopes string) provision.Credentials {
		return provision.Credentials{OrgID: org + "@AdobeOrg", ClientID: id, ClientSecret: provision.NewSensitive(secret), Scopes: scopes}
	}
	want := map[string]string{} // :: organisation → what it must come with
	accounts := []provision.Credentials{
		oauth("A", "same", "secret-a", "s"),
		oauth("B", "same", "secret-b", "s"), // the same client id with another secret
		oauth("C", "other", "secret-a", "s"),
		oauth("D", "same", "secret-a", "s,t"), // the same credential with more scopes
		oauth("E", "same", "secret-a", "s"),   // the very same credential
		{OrgID: "F@AdobeOrg", AccessToken: provision.NewSensitive("static-f"), APIKey: "same"},
		{OrgID: "G@AdobeOrg", AccessToken: provision.NewSensitive("static-g"), APIKey: "same"},
	}
	var all sync.WaitGroup
	for i, cr := range accounts {
		want[cr.OrgID] = fmt.Sprintf("Bearer token-of-%s/%s/%s %s", cr.ClientID, cr.ClientSecret.Reveal(), cr.Scopes, cr.ClientID)
		if static(cr) {
			want[cr.OrgID] = "Bearer " + cr.AccessToken.Reveal() + " " + cr.APIKey
		}
		for range 20 {
			all.Go(func() {
				as := provision.Account{Tenant: fmt.Sprint("t", i), Sandbox: "prod", Credentials: cr}
				if _, err := r.create(t, as); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	m.check(t, want)
}

func (m *mixup) check(t *testing.T, want map[string]string) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for org, came := range want {
		if m.seen[org] != came {
			t.Errorf("%s came with %q, want %q", org, m.seen[org], came)
		}
	}
	if len(m.wrong) > 0 {
		t.Errorf("%d mixed up: %v", len(m.wrong), m.wrong)
	}
	if n := m.tokens["same/secret-a/s"]; n != 2 {
		t.Errorf("two organisations with one credential got %d tokens, want one each", n)
	}
}

// TestADroppedTokenIsDroppedForItsTenantOnly: the refusal of one tenant's token costs no other its own.
func TestADroppedTokenIsDroppedForItsTenantOnly(t *testing.T) {
	t.Parallel()
	m := &mixup{tokens: map[string]int{}, seen: map[string]string{}}
	addr, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Gw-Ims-Org-Id") == "A@AdobeOrg" {
			reply(w, 401, `{"error_code":"401013","message":"Oauth token is not valid"}`)
			return
		}
		m.ServeHTTP(w, r)
	})
	r := newRig(t, addr)
	account := func(org string) provision.Account {
		as := imsAccount()
		as.Tenant, as.Credentials.OrgID, as.Credentials.Scopes = org, org+"@AdobeOrg", "s"
		return as
	}
	for range 3 {
		if _, err := r.create(t, account("B")); err != nil {
			t.Fatal(err)
		}
		if _, err := r.create(t, account("A")); err == nil || err.Verdict != provision.VerdictUnauthorized {
			t.Fatalf("got %+v", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.tokens["client-id/"+imsSecret+"/s"]; n != 4 {
		t.Errorf("%d tokens; want three for A and one for B", n)
	}
}
