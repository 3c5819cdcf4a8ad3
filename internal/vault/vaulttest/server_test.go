package vaulttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// client speaks to a Server without a network.
type client struct {
	t      *testing.T
	server *Server
	token  string
}

func newClient(t *testing.T, conf Config) *client {
	t.Helper()
	s := New(conf)
	return &client{t: t, server: s, token: s.Token()}
}

// as returns a client with another token.
func (c *client) as(token string) *client { return &client{t: c.t, server: c.server, token: token} }

// answer is what a test looks at.
type answer struct {
	status int
	text   string
	header http.Header
	Errors []string
	Data   map[string]any
	Auth   map[string]any
	Warn   []string `json:"warnings"`
}

func (c *client) do(method, path, body string) answer {
	return c.doContext(c.t.Context(), method, path, body)
}

func (c *client) doContext(ctx context.Context, method, path, body string) answer {
	c.t.Helper()
	r := httptest.NewRequest(method, "/v1/"+path, strings.NewReader(body)).WithContext(ctx)
	r.Header.Set("X-Vault-Token", c.token)
	w := httptest.NewRecorder()
	c.server.ServeHTTP(w, r)
	a := answer{status: w.Code, text: w.Body.String(), header: w.Header()}
	_ = json.Unmarshal(w.Body.Bytes(), &a) // some bodies are broken on purpose
	return a
}

// want fails the test unless the answer has the status and its text all parts.
func (a answer) want(t *testing.T, status int, parts ...string) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("HTTP %d, want %d: %s", a.status, status, a.text)
	}
	for _, p := range parts {
		if !strings.Contains(a.text, p) {
			t.Errorf("the answer lacks %q: %s", p, a.text)
		}
	}
	return a
}

func TestAccess(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	c.server.Put("mine/x", map[string]any{"f": "v"})
	c.server.Put("other/x", map[string]any{"f": "v"})
	if a := c.as("").do("GET", "secret/data/mine/x", "").want(t, 403, "permission denied"); strings.Contains(a.text, "invalid") {
		t.Error("no token is called an invalid one")
	}
	c.as("unknown").do("GET", "secret/data/mine/x", "").want(t, 403, "invalid token")
	mine := c.as(c.server.NewToken(Role{Allow: []string{"secret/data/mine/*"}}))
	mine.do("GET", "secret/data/mine/x", "").want(t, 200)
	a := mine.do("GET", "secret/data/other/x", "").want(t, 403, "permission denied")
	if strings.Contains(a.text, "invalid token") {
		t.Error("a good token is called invalid")
	}
	mine.do("GET", "secret/data/mine/../other/x", "").want(t, 404)
	mine.do("GET", "sys/internal/ui/mounts/secret", "").want(t, 200, `"version":"2"`)
	mine.do("PUT", "sys/seal", "").want(t, 403)
	mine.do("PUT", "auth/token/revoke", `{"token":"x"}`).want(t, 403)
	stranger := c.as(c.server.NewToken(Role{Allow: []string{"elsewhere/*"}}))
	stranger.do("GET", "sys/internal/ui/mounts/secret", "").want(t, 403, "preflight capability check")
	c.do("GET", "sys/internal/ui/mounts/nowhere", "").want(t, 403, "preflight capability check")
	c.do("GET", "nowhere/data/x", "").want(t, 404, "no handler for route")
	c.do("GET", "auth/token/nowhere", "").want(t, 404)
	c.server.Deny("secret/data/mine/x", "sys/internal/ui/mounts/*")
	mine.do("GET", "secret/data/mine/x", "").want(t, 403)
	mine.do("GET", "sys/internal/ui/mounts/secret", "").want(t, 403)
	c.do("GET", "secret/data/mine/x", "").want(t, 200)
	c.server.Permit()
	mine.do("GET", "secret/data/mine/x", "").want(t, 200)
}

func TestLogins(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{Roles: []Role{
		{RoleID: "id", SecretID: "secret", TTL: time.Hour},
		{Name: "pod", JWT: "pod-jwt"},
		{Mount: "jwt", Name: "ci", JWT: "ci-jwt", NonRenewable: true},
	}})
	anyone := c.as("")
	a := anyone.do("PUT", "auth/approle/login", `{"role_id":"id","secret_id":"secret"}`).want(t, 200)
	if a.Auth["lease_duration"] != 3600.0 || a.Auth["renewable"] != true || a.Auth["client_token"] == "" {
		t.Errorf("auth is %v", a.Auth)
	}
	anyone.do("PUT", "auth/kubernetes/login", `{"role":"pod","jwt":"pod-jwt"}`).want(t, 200, `"renewable":true`)
	anyone.do("PUT", "auth/jwt/login", `{"role":"ci","jwt":"ci-jwt"}`).want(t, 200, `"renewable":false`)
	anyone.do("PUT", "auth/approle/login", `{"role_id":"id","secret_id":"wrong"}`).want(t, 400, "invalid role or secret ID")
	anyone.do("PUT", "auth/approle/login", `{"role_id":"x","secret_id":"secret"}`).want(t, 400, "invalid role or secret ID")
	anyone.do("PUT", "auth/jwt/login", `{"role":"x","jwt":"ci-jwt"}`).want(t, 400, "could not be found")
	anyone.do("PUT", "auth/jwt/login", `{"role":"ci","jwt":"wrong"}`).want(t, 400, "error validating token")
	anyone.do("PUT", "auth/jwt/login", `{"role":"ci"}`).want(t, 400)
	anyone.do("PUT", "auth/kubernetes/login", `{"role":"pod","jwt":"wrong"}`).want(t, 403, "permission denied")
	anyone.do("PUT", "auth/kubernetes/login", `{"role":"x","jwt":"wrong"}`).want(t, 400, "invalid role name")
	anyone.do("PUT", "auth/jwt/login", `{`).want(t, 500)
	anyone.do("PUT", "auth/jwt/login", `[]`).want(t, 400)
	anyone.do("PUT", "auth/nowhere/login", `{}`).want(t, 403)
	c.do("PUT", "auth/nowhere/login", `{}`).want(t, 404, "no handler for route")
	c.server.NewToken(Role{})
	anyone.do("PUT", "auth/token/login", `{"role":"create","jwt":""}`).want(t, 403)
}

func TestTokenLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, Config{})
		own := c.as(c.server.NewToken(Role{TTL: time.Hour, MaxTTL: 90 * time.Minute}))
		lookup := func() any { return own.do("GET", "auth/token/lookup-self", "").want(t, 200).Data["ttl"] }
		if ttl := lookup(); ttl != 3600.0 {
			t.Errorf("ttl is %v", ttl)
		}
		<-time.After(45 * time.Minute)
		a := own.do("PUT", "auth/token/renew-self", `{"increment":0}`).want(t, 200)
		if a.Auth["lease_duration"] != 45.0*60 {
			t.Errorf("renewed to %v beyond the max TTL", a.Auth["lease_duration"])
		}
		<-time.After(45 * time.Minute)
		own.do("GET", "auth/token/lookup-self", "").want(t, 403, "invalid token")

		fixed := c.as(c.server.NewToken(Role{NonRenewable: true}))
		fixed.do("PUT", "auth/token/renew-self", "").want(t, 400, "not renewable")
		c.do("GET", "auth/token/lookup-self", "").want(t, 200, `"expire_time":null`, `"ttl":0`)
		c.do("PUT", "auth/token/renew-self", "").want(t, 400)
	})
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	for name, revoke := range map[string]func(string){
		"Revoke":      c.server.Revoke,
		"RevokeAll":   func(string) { c.server.RevokeAll() },
		"revoke":      func(id string) { c.do("PUT", "auth/token/revoke", fmt.Sprintf(`{"token":%q}`, id)).want(t, 204) },
		"revoke-self": func(id string) { c.as(id).do("PUT", "auth/token/revoke-self", "").want(t, 204) },
	} {
		id := c.server.NewToken(Role{})
		revoke(id)
		if got := c.as(id).do("GET", "auth/token/lookup-self", ""); got.status != 403 {
			t.Errorf("%s: HTTP %d", name, got.status)
		}
	}
	c.do("PUT", "auth/token/revoke", `{}`).want(t, 400)
	c.do("GET", "auth/token/lookup-self", "").want(t, 200)
}

func TestSeal(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	c.server.Put("p", map[string]any{"f": "v"})
	c.do("GET", "sys/health", "").want(t, 200, `"sealed":false`)
	c.do("PUT", "sys/seal", "").want(t, 204)
	c.do("GET", "sys/health", "").want(t, 503, `"sealed":true`)
	c.do("GET", "sys/health?sealedcode=299", "").want(t, 299)
	c.do("GET", "sys/health?sealedcode=9", "").want(t, 503)
	c.do("GET", "sys/seal-status", "").want(t, 200, `"sealed":true`)
	c.do("GET", "secret/data/p", "").want(t, 503, "Vault is sealed")
	c.do("PUT", "auth/approle/login", `{}`).want(t, 503)
	c.do("PUT", "sys/unseal", `{"key":"wrong"}`).want(t, 400)
	c.do("PUT", "sys/unseal", fmt.Sprintf(`{"key":%q}`, c.server.UnsealKey())).want(t, 200, `"sealed":false`)
	c.do("GET", "secret/data/p", "").want(t, 200)
	c.server.Seal()
	c.do("GET", "secret/data/p", "").want(t, 503)
	c.server.Unseal()
	c.do("GET", "secret/data/p", "").want(t, 200)
}

func TestOutages(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	c.server.SetOutage(Outage{Status: 429, Times: 2, Path: "/v1/secret/", RetryAfter: 3 * time.Second})
	c.do("GET", "sys/health", "").want(t, 200)
	if a := c.do("GET", "secret/data/p", "").want(t, 429); a.header.Get("Retry-After") != "3" || len(a.Errors) != 1 {
		t.Errorf("got %v, %s", a.header, a.text)
	}
	c.do("GET", "secret/data/p", "").want(t, 429)
	c.do("GET", "secret/data/p", "").want(t, 404)
	c.server.SetOutage(Outage{Status: 502, Body: "<html>"})
	if a := c.do("GET", "sys/health", "").want(t, 502); a.text != "<html>" {
		t.Errorf("got %q", a.text)
	}
	c.server.SetOutage(Outage{})
	c.do("GET", "sys/health", "").want(t, 200)
}

func TestHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, Config{})
		c.server.SetOutage(Outage{Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		c.doContext(ctx, "GET", "sys/health", "")
		if time.Since(begun) != time.Minute || c.server.Requests()[0].Status != 0 {
			t.Errorf("after %v: %v", time.Since(begun), c.server.Requests())
		}
		got := make(chan answer, 1)
		go func() { got <- c.do("GET", "sys/health", "") }()
		synctest.Wait()
		c.server.SetOutage(Outage{})
		(<-got).want(t, 200)
	})
}

func TestLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, Config{})
		waited := make(chan error, 1)
		go func() { waited <- c.server.Wait(t.Context(), "/v1/secret/", 2) }()
		c.do("GET", "sys/health", "")
		c.do("GET", "secret/data/p", "")
		synctest.Wait()
		select {
		case err := <-waited:
			t.Fatalf("Wait returned early: %v", err)
		default:
		}
		c.do("GET", "secret/data/q?version=2", "")
		if err := <-waited; err != nil {
			t.Error(err)
		}
		want := []Request{{"GET", "/v1/sys/health", 200}, {"GET", "/v1/secret/data/p", 404}, {"GET", "/v1/secret/data/q", 404}}
		if diff := cmp.Diff(want, c.server.Requests()); diff != "" {
			t.Error(diff)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.server.Wait(ctx, "/v1/secret/", 3); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait: %v", err)
		}
	})
}

func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	for i := range maxLog + 5 {
		c.do("GET", fmt.Sprint("x", i), "")
	}
	got := c.server.Requests()
	if len(got) != maxLog || got[0].Path != "/v1/x5" || c.server.Count("/v1/x") != maxLog {
		t.Errorf("%d entries from %v", len(got), got[0])
	}
}

func TestStrangeRequests(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	for _, target := range []string{"/", "/v1", "/v1/", "/v2/secret", "/v1//", "/v1/secret/", "/v1/secret/data/", "/v1/auth//login", "/v1/auth/token/"} {
		for _, method := range []string{"GET", "PUT", "DELETE", "LIST", "PATCH"} {
			r := httptest.NewRequest(method, target, strings.NewReader("{"))
			r.Header.Set("X-Vault-Token", c.token)
			w := httptest.NewRecorder()
			c.server.ServeHTTP(w, r)
			if w.Code < 400 {
				t.Errorf("%s %s: HTTP %d", method, target, w.Code)
			}
		}
	}
	huge := httptest.NewRequest("PUT", "/v1/secret/data/p", io.LimitReader(zeros{}, maxBody+1))
	w := httptest.NewRecorder()
	c.server.ServeHTTP(w, huge)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("a huge body: HTTP %d", w.Code)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestLockout walks through Vault's default: five refusals, each at most 15 minutes after the one before.
func TestLockout(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	c := newClient(t, Config{Roles: []Role{{RoleID: "id", SecretID: "secret"}, {RoleID: "other", SecretID: "secret"}}}).as("")
	c.server.now = func() time.Time { return now }
	try := func(role, secret string, want int) {
		t.Helper()
		c.do("PUT", "auth/approle/login", `{"role_id":"`+role+`","secret_id":"`+secret+`"}`).want(t, want)
	}
	for range 4 {
		try("id", "wrong", 400)
		now = now.Add(15 * time.Minute)
	}
	try("id", "secret", 200) // which sets the count to zero
	for range 4 {
		try("id", "wrong", 400)
	}
	now = now.Add(15*time.Minute + time.Second) // and so does time
	for range 5 {
		try("id", "", 400) // is not counted
		try("id", "wrong", 400)
		now = now.Add(10 * time.Minute)
	}
	now = now.Add(-10 * time.Minute)
	try("id", "secret", 403)
	try("id", "wrong", 403) // is not counted, nor does it prolong the lock
	try("other", "secret", 200)
	now = now.Add(15*time.Minute - 1)
	try("id", "secret", 403)
	now = now.Add(1)
	try("id", "secret", 200)
}
