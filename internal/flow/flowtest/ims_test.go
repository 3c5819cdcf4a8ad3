package flowtest

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

type tokenReply struct {
	Token   string `json:"access_token"`
	Expires int    `json:"expires_in"`
}

// ims asks for a token with these form values.
func (b *bed) ims(pairs ...string) reply {
	b.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	return b.do(http.MethodPost, tokenPath, form.Encode(), map[string]string{
		"Content-Type": "application/x-www-form-urlencoded", "Authorization": "", "x-api-key": "", "x-gw-ims-org-id": "", "x-sandbox-name": "",
	})
}

func (b *bed) token(pairs ...string) string {
	b.t.Helper()
	var r tokenReply
	b.ims(pairs...).want(b.t, 200).decode(b.t, &r)
	return r.Token
}

// listWith lists connections with a token and returns the status.
func (b *bed) listWith(token string, header map[string]string) int {
	b.t.Helper()
	all := map[string]string{"Authorization": "Bearer " + token}
	for key, value := range header {
		all[key] = value
	}
	return b.do("GET", "/connections", "", all).status
}

func TestTokenWithoutClients(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	r := b.ims("client_id", testKey, "client_secret", "anything", "scope", "openid,session").want(t, 200)
	wantGolden(t, "ims-token-200", r.body)
	token := b.token("client_id", testKey, "client_secret", "anything")
	if got := b.listWith(token, map[string]string{"x-gw-ims-org-id": "ANY@AdobeOrg"}); got != 200 {
		t.Errorf("status = %d, want 200 in any organization", got)
	}
	if got := b.listWith(token, map[string]string{"x-api-key": "other"}); got != 403 {
		t.Errorf("status = %d with another API key, want 403", got)
	}
}

func TestTokenWithClients(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.AddClient(Client{OrgID: testOrg, ClientID: "id", ClientSecret: provision.NewSensitive("s3cret"), Scopes: "openid,session"})
	b.em.AddClient(Client{OrgID: testOrg, ClientID: "one-secret", ClientSecret: provision.NewSensitive("s3cret")})
	for name, tt := range map[string]struct {
		pairs  []string
		status int
		err    string
	}{
		"good":               {[]string{"client_id", "id", "client_secret", "s3cret", "scope", "openid"}, 200, ""},
		"both scopes":        {[]string{"client_id", "id", "client_secret", "s3cret", "scope", "session,openid"}, 200, ""},
		"any scope":          {[]string{"client_id", "one-secret", "client_secret", "s3cret", "scope", "x"}, 200, ""},
		"unknown client":     {[]string{"client_id", "other", "client_secret", "s3cret"}, 400, "invalid_client"},
		"wrong secret":       {[]string{"client_id", "id", "client_secret", "S3CRET"}, 400, "invalid_client"},
		"empty secret":       {[]string{"client_id", "one-secret", "client_secret", ""}, 400, "invalid_request"},
		"blanks for commas":  {[]string{"client_id", "id", "client_secret", "s3cret", "scope", "openid session"}, 400, "invalid_scope"},
		"scope not entitled": {[]string{"client_id", "id", "client_secret", "s3cret", "scope", "openid,admin"}, 400, "invalid_scope"},
		"grant type":         {[]string{"client_id", "id", "client_secret", "s3cret", "grant_type", "password"}, 400, "unsupported_grant_type"},
	} {
		var got struct{ Error string }
		r := b.ims(tt.pairs...)
		if r.decode(t, &got); r.status != tt.status || got.Error != tt.err {
			t.Errorf("%s: %d %q, want %d %q", name, r.status, got.Error, tt.status, tt.err)
		}
		if tt.err == "invalid_scope" {
			wantGolden(t, "ims-error-invalid-scope-400", r.body)
		}
	}
	token := b.token("client_id", "id", "client_secret", "s3cret")
	if got := b.listWith(token, map[string]string{"x-api-key": "id", "x-gw-ims-org-id": "OTHER@AdobeOrg"}); got != 403 {
		t.Errorf("status = %d in another organization, want 403", got)
	}
}

func TestTokenRequestForms(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	q := "grant_type=client_credentials&client_id=a&client_secret=b"
	b.do(http.MethodPost, tokenPath+"?"+q, "", nil).want(t, 200)
	b.do(http.MethodPost, tokenPath, q, map[string]string{"Content-Type": "text/plain"}).want(t, 400)
	b.do(http.MethodPost, tokenPath, "%zz", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}).want(t, 400)
	b.do(http.MethodGet, tokenPath+"?"+q, "", nil).want(t, 405)
}

func TestTokenExpiry(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.ExpiresIn = 90*time.Second + time.Millisecond })
	var r tokenReply
	b.ims("client_id", testKey, "client_secret", "s").want(t, 200).decode(t, &r)
	if r.Expires != 90 {
		t.Errorf("expires_in = %d, want 90", r.Expires)
	}
	b.clock.advance(90*time.Second - 1)
	if got := b.listWith(r.Token, nil); got != 200 {
		t.Errorf("status = %d just before expiry, want 200", got)
	}
	b.clock.advance(1)
	if got := b.listWith(r.Token, nil); got != 401 {
		t.Errorf("status = %d at expiry, want 401", got)
	}
}

func TestExpireTokens(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	issued := b.token("client_id", testKey, "client_secret", "s")
	b.em.ExpireTokens()
	for _, token := range []string{issued, testToken} {
		if got := b.listWith(token, nil); got != 401 {
			t.Errorf("status = %d, want 401", got)
		}
	}
	if got := b.listWith(b.token("client_id", testKey, "client_secret", "s"), nil); got != 200 {
		t.Errorf("status = %d with a new token, want 200", got)
	}
}

func TestAllowAnyToken(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.AllowAnyToken = true })
	anyone := map[string]string{"x-gw-ims-org-id": "ANY@AdobeOrg", "x-api-key": "any"}
	if got := b.listWith("whatever", anyone); got != 200 {
		t.Errorf("status = %d, want 200", got)
	}
	if got := b.do("GET", "/connections", "", map[string]string{"Authorization": "Basic abc"}).status; got != 401 {
		t.Errorf("status = %d with another scheme than Bearer, want 401", got)
	}
	b.em.ExpireTokens()
	if got := b.listWith(testToken, nil); got != 401 {
		t.Errorf("status = %d with an expired token, want 401", got)
	}
}

func TestTokenFaults(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.AddFault(Fault{Operation: OpToken, Effect: EffectStatus, Status: 503, Times: 1})
	var got struct{ Error string }
	b.ims("client_id", "a", "client_secret", "b").want(t, 503).decode(t, &got)
	if got.Error == "" {
		t.Error("the answer has not the shape of IMS")
	}
	b.em.AddFault(Fault{Operation: OpToken, Effect: EffectRateLimit, PerSecond: 1})
	b.ims("client_id", "a", "client_secret", "b").want(t, 200)
	b.ims("client_id", "a", "client_secret", "b").want(t, 429)
}

// TestTokensAreForgotten shows that stale tokens do not pile up.
func TestTokensAreForgotten(t *testing.T) {
	t.Parallel()
	i := newIdentities(newDice(1, 1))
	now := time.Unix(0, 0)
	for range 10_000 {
		i.issue(grant{expires: now.Add(time.Second)}, now)
		now = now.Add(time.Second)
	}
	if n := len(i.tokens); n > 2048 {
		t.Errorf("%d tokens are kept, of which one is alive", n)
	}
}
