package vault

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// trap is where redirects lead. It takes down everything that arrives.
type trap struct {
	*httptest.Server
	mu  sync.Mutex
	got []string
}

func newTrap(t *testing.T) *trap {
	t.Helper()
	tr := new(trap)
	tr.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.got = append(tr.got, fmt.Sprint(r.Method, r.URL, r.Header, string(body)))
		w.WriteHeader(http.StatusOK)
	}))
	t.Cleanup(tr.Close)
	return tr
}

func (tr *trap) arrivals() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.got
}

// standby is a Vault that redirects what begins with from.
func standby(t *testing.T, vault http.Handler, secure bool, from string, status int, to string) *httptest.Server {
	t.Helper()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, from) {
			w.Header().Set("Location", to)
			w.WriteHeader(status)
			return
		}
		vault.ServeHTTP(w, r)
	})
	srv := httptest.NewUnstartedServer(h)
	if secure {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv
}

// TestRedirectsAreNotFollowed has each kind of call redirected, in every way, to each kind of place.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	tr := newTrap(t)
	port := tr.URL[strings.LastIndex(tr.URL, ":"):]
	t.Cleanup(func() {
		if got := tr.arrivals(); len(got) != 0 {
			t.Errorf("%d requests arrived where redirects lead; the first: %s", len(got), got[0])
		}
	})
	for place, to := range map[string]string{
		"same host, other port": tr.URL + "/v1/x", "other host": "http://localhost" + port + "/v1/x",
		"no scheme": "//127.0.0.1" + port + "/v1/x", "same server": "/v1/elsewhere", "none": "",
	} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			for _, call := range []string{"/v1/auth/approle/login", "/v1/auth/token/lookup-self", "/v1/secret/data", "/v1/sys/health", "/v1/sys/internal"} {
				for _, secure := range []bool{false, true} {
					t.Run(fmt.Sprint(call[3:], " ", status, " ", place, " TLS ", secure), func(t *testing.T) {
						t.Parallel()
						checkNotFollowed(t, call, status, to, secure)
					})
				}
			}
		}
	}
}

// checkNotFollowed makes a call that is redirected, and wants the error to say so.
func checkNotFollowed(t *testing.T, call string, status int, to string, secure bool) {
	t.Helper()
	vault := serverOf(vaulttest.Config{Roles: []vaulttest.Role{{RoleID: "role", SecretID: "secret-id-" + canary}}})
	srv := standby(t, vault, secure, call, status, to)
	conf := Config{Token: provision.NewSensitive(vault.Token())}
	if strings.Contains(call, "approle") {
		file := filepath.Join(t.TempDir(), "secret-id")
		if err := os.WriteFile(file, []byte("secret-id-"+canary), 0o600); err != nil {
			t.Fatal(err)
		}
		conf = Config{Auth: AuthAppRole, RoleID: "role", SecretIDFile: file}
	}
	conf.Address, conf.TLS = srv.URL, &vaultapi.TLSConfig{Insecure: secure}
	h := &harness{t: t, server: vault, reg: prometheus.NewPedanticRegistry(), witness: &witness{}}
	h.run(conf)
	_, err := h.resolve(false)
	if call == "/v1/sys/health" {
		err = h.client.Health(t.Context())
	}
	if strings.HasSuffix(call, "lookup-self") { // only a hint: reads work
		if err != nil {
			t.Errorf("%v:\n%s", err, h.witness)
		}
		h.witness.await(t, "redirects to another address", 1) // it is said beside the reads
	} else {
		checkProblem(t, err, provision.SecretUnavailable, "redirects to another address", "VAULT_ADDR")
	}
	if n := vault.Count("/v1/elsewhere"); n != 0 {
		t.Errorf("followed %d times on the same server", n)
	}
}

// TestTheTrapWorks: Vault's own client, left as it is, is caught.
func TestTheTrapWorks(t *testing.T) {
	t.Parallel()
	tr := newTrap(t)
	srv := standby(t, http.NotFoundHandler(), false, "/", 307, tr.URL+"/v1/x")
	conf := vaultapi.DefaultConfig()
	conf.Address = srv.URL
	api, err := vaultapi.NewClient(conf)
	if err != nil {
		t.Fatal(err)
	}
	api.SetToken("hvs." + canary)
	_, _ = api.Logical().Read("secret/x") // the trap's answer is no secret
	if got := tr.arrivals(); len(got) != 1 || !strings.Contains(got[0], canary) {
		t.Errorf("the trap got %q", got)
	}
}

// A read for a request passes its trace context on; what is no request's, as the login, has none. What
// Config.Trace puts there counts.
func TestTraceGoesToVault(t *testing.T) {
	t.Parallel()
	const own, inner = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-1111111111111111-01"
	for name, wrap := range map[string]bool{"as it came": false, "wrapped": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := serverOf(vaulttest.Config{})
			var mu sync.Mutex
			heard, routes := map[string]string{}, map[string]bool{}
			conf := Config{transport: inMemory{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				heard[r.URL.Path] = r.Header.Get("Traceparent") + " " + r.Header.Get("Tracestate")
				mu.Unlock()
				server.ServeHTTP(w, r)
			})}}
			want := own + " a=b"
			if wrap {
				want = inner + " "
				conf.Trace = func(route func(*http.Request) string, next http.RoundTripper) http.RoundTripper {
					return wrapped(func(r *http.Request) (*http.Response, error) {
						mu.Lock()
						routes[route(r)] = true
						mu.Unlock()
						if provision.PurposeOf(r.Context()) != nil {
							r = r.Clone(r.Context())
							r.Header.Set("Traceparent", inner)
						}
						return next.RoundTrip(r)
					})
				}
			}
			h := start(t, server, conf)
			e := &provision.Purpose{Trace: provision.Trace{Parent: own, State: "a=b"}}
			if _, err := h.client.Resolve(e.Into(t.Context()), "acme", ref("databricks/acme", "accessToken"), false); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			reads := 0
			for path, got := range heard {
				isRead := strings.HasPrefix(path, "/v1/secret/data/")
				if isRead {
					reads++
				}
				if isRead && !strings.HasPrefix(got, want) || strings.HasPrefix(path, "/v1/auth/") && got != " " {
					t.Errorf("%s was called with %q", path, got)
				}
			}
			if reads != 1 || wrap && (!routes["/v1/{mount}/{path}"] || !routes["/v1/auth/{path}"] || !routes["/v1/sys/{path}"] || len(routes) != 3) {
				t.Errorf("%d reads, routes %v", reads, routes)
			}
		})
	}
}

type wrapped func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f wrapped) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// foreignAnswers are what proxies, portals and other services say in Vault's place.
var foreignAnswers = map[string]vaulttest.Outage{
	"Kong has no route":        {Status: 404, Body: `{"message":"no Route matched with those values"}`},
	"Kong has no route, newer": {Status: 404, Body: `{"message":"no Route matched with those values","request_id":"8f1b"}`},
	"nginx":                    {Status: 404, Body: "<html><head><title>404 Not Found</title></head></html>"},
	"Envoy's empty body":       {Status: 404, Body: " "},
	"Kubernetes":               {Status: 404, Body: `{"kind":"Status","status":"Failure","message":"not found","code":404}`},
	"problem details":          {Status: 404, Body: `{"title":"Not Found","status":404,"errors":[]}`},
	"errors are objects":       {Status: 404, Body: `{"errors":[{"message":"Not Found"}]}`},
	"errors are a text":        {Status: 404, Body: `{"errors":"Not Found"}`},
	"errors are null":          {Status: 404, Body: `{"errors":null}`},
	"data is null":             {Status: 404, Body: `{"data":null}`},
	"a deprecated route":       {Status: 404, Body: `{"warnings":["deprecated route"]}`},
	"metadata of no Vault":     {Status: 404, Body: `{"data":{"data":null,"metadata":{"version":3,"destroyed":true}}}`},
	"data is empty":            {Status: 404, Body: `{"data":{}}`},
	"no JSON to the end":       {Status: 404, Body: `{"errors":[]`},
	"a captive portal":         {Status: 200, Body: "<html>please log in</html>"},
	"a mock":                   {Status: 200, Body: `{"data":{"data":{"accessToken":"x"},"metadata":{"version":1}},"auth":{"client_token":"x","lease_duration":60}}`},
	"an empty frame":           {Status: 200, Body: `{"request_id":"","data":{"data":{"accessToken":"x"},"metadata":{"version":1},"ttl":60}}`},
	"an empty object":          {Status: 200, Body: `{}`},
	"nothing":                  {Status: 200, Body: " "},
	"accepted":                 {Status: 202, Body: `{"request_id":"x","data":{}}`},
	"a gateway forbids":        {Status: 403, Body: `{"message":"Forbidden"}`},
	"a WAF":                    {Status: 403, Body: "<html>Request blocked</html>"},
	"a gateway wants a key":    {Status: 401, Body: `{"message":"No API key found in request"}`},
	"a method is refused":      {Status: 405, Body: `{"message":"Method Not Allowed"}`},
	"a redirect":               {Status: 302, Body: "<html>moved</html>"},
}

// A foreign answer is believed of no call: it is no secret and no missing one, no token and no refused one.
func TestForeignAnswersDecideNothing(t *testing.T) {
	t.Parallel()
	role, conf := approle(t, 0, 0)
	for name, answer := range foreignAnswers {
		for _, path := range []string{"/v1/secret/", "/v1/auth/approle/login", "/v1/sys/health"} {
			t.Run(name+" at "+path, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					server := serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}})
					there := answer
					there.Path = path
					server.SetOutage(there)
					h := start(t, server, conf)
					_, err := h.resolve(false)
					switch path {
					case "/v1/sys/health":
						err = h.client.Health(t.Context())
					case "/v1/auth/approle/login":
						checkProblem(t, h.client.Ready(), provision.SecretUnavailable)
					default:
						_, missing := h.client.Credentials(t.Context(), "nobody", false)
						checkProblem(t, missing, provision.SecretUnavailable)
					}
					checkProblem(t, err, provision.SecretUnavailable)
				})
			})
		}
	}
}

// An answer with Vault's frame that is no KV engine's says nothing of a secret, whether it is there or not.
func TestAnswersThatAreNoKVReadsDecideNothing(t *testing.T) {
	t.Parallel()
	const fields = `{"request_id":"x","data":{"data":{"accessToken":"c4n4ry"},"metadata":{"version":`
	for _, kv := range []int{1, 2} {
		for body, status := range map[string]int{
			`{"request_id":"x","message":"login required"}`:                         200,
			`{"request_id":"x","data":null}`:                                        200,
			`{"request_id":"x","data":{}}`:                                          200,
			`{"request_id":"x","warnings":["deprecated"]}`:                          200,
			`{"request_id":"x","data":{"metadata":{}}}`:                             404,
			`{"request_id":"x","data":{"metadata":{"version":3}}}`:                  404,
			`{"request_id":"x","data":{"data":null,"metadata":{"version":3}}}`:      404,
			`{"request_id":"x","data":{"data":{"f":"v"},"metadata":{"version":3}}}`: 404,
		} {
			checkAnswered(t, kv, status, body, "not Vault's own")
		}
	}
	for body, status := range map[string]int{
		`{"request_id":"x","data":{"error":"upstream timeout"}}`:               200,
		`{"request_id":"x","data":{"data":{"accessToken":"c4n4ry"}}}`:          200,
		`{"request_id":"x","data":{"data":"c4n4ry","metadata":{"version":1}}}`: 200,
		`{"request_id":"x","data":{"metadata":{"version":1}}}`:                 200,
		`{"request_id":"x","warnings":["deprecated route"]}`:                   404,
		fields + `"3"}}}`: 200, fields + `1.5}}}`: 200, fields + `0}}}`: 200, fields + `null}}}`: 200,
	} {
		checkAnswered(t, 2, status, body, "not Vault's own")
	}
}

// checkAnswered expects that what answers reads in Vault's place decides nothing.
func checkAnswered(t *testing.T, kv, status int, body string, parts ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(vaulttest.Config{KVVersion: kv})
		server.SetOutage(vaulttest.Outage{Status: status, Body: body, Path: "/v1/secret/"})
		h := start(t, server, Config{})
		pinned := ref("databricks/acme", "accessToken")
		_, err := h.resolveRef(pinned, false)
		checkProblem(t, err, provision.SecretUnavailable, parts...)
		_, err = h.client.Credentials(t.Context(), "acme", false)
		checkProblem(t, err, provision.SecretUnavailable, parts...)
	})
}

// Another version than the one that was asked for is no answer: its token must not be posted.
func TestAnotherVersionIsNotTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(vaulttest.Config{})
		const newest = `{"request_id":"x","data":{"data":{"accessToken":"c4n4ry"},"metadata":{"version":3,"deletion_time":"","destroyed":false}}}`
		server.SetOutage(vaulttest.Outage{Status: 200, Path: "/v1/secret/", Body: newest})
		h := start(t, server, Config{})
		pinned := ref("databricks/acme", "accessToken")
		pinned.Version = 2
		_, err := h.resolveRef(pinned, false)
		checkProblem(t, err, provision.SecretUnavailable, "version 3 where version 2 was asked for")
		server.SetOutage(vaulttest.Outage{Status: 404, Path: "/v1/secret/", Body: `{"request_id":"x","data":{"data":null,"metadata":{"version":3,"destroyed":true}}}`})
		_, err = h.resolveRef(pinned, false)
		checkProblem(t, err, provision.SecretUnavailable, "version 3 where version 2 was asked for")
		pinned.Version = 3
		_, err = h.resolveRef(pinned, false)
		checkProblem(t, err, provision.SecretMissing, "has been destroyed")
		server.SetOutage(vaulttest.Outage{Status: 200, Path: "/v1/secret/", Body: newest})
		got, err := h.resolveRef(pinned, false)
		checkValue(t, got, err, canary)
	})
}

// Where a proxy lets reads through and nothing else, the engine's version is found by reading.
func TestDetectionBehindAProxyThatLetsOnlyReadsThrough(t *testing.T) {
	t.Parallel()
	for _, kv := range []int{1, 2} {
		for name, answer := range foreignAnswers {
			if answer.Status == 302 {
				continue
			}
			t.Run(fmt.Sprint(name, " before version ", kv), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					server := serverOf(vaulttest.Config{KVVersion: kv})
					there := answer
					there.Path = "/v1/sys/internal/"
					server.SetOutage(there)
					h := start(t, server, Config{})
					got, err := h.resolve(false)
					checkValue(t, got, err, "dapi-"+canary)
				})
			})
		}
	}
}

// What may be a secret of a version 1 engine is not missing because only the path of version 2 was read.
func TestAGuessIsNotConcludedByHalf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(vaulttest.Config{KVVersion: 1})
		server.Deny("sys/internal/ui/mounts/*")
		server.SetOutage(vaulttest.Outage{Status: 503, Path: "/v1/secret/flow/"})
		h := start(t, server, Config{Token: provision.NewSensitive(server.NewToken(vaulttest.Role{}))})
		_, err := h.resolve(false)
		checkProblem(t, err, provision.SecretUnavailable, "503")
	})
}

// A read by the path of version 1 of an engine that may have been upgraded needs Vault's word on that.
func TestAnUpgradeIsNotConcludedByHalf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		h.engine().version.Store(1)
		h.server.SetOutage(vaulttest.Outage{Status: 503, Path: "/v1/sys/internal/"})
		_, err := h.resolve(false)
		checkProblem(t, err, provision.SecretUnavailable, "503")
	})
}

// A policy with min_wrapping_ttl has Vault answer with a wrapping token, which is told by name.
func TestWrappedAnswersAreNamed(t *testing.T) {
	t.Parallel()
	const wrapped = `{"request_id":"","lease_id":"","renewable":false,"lease_duration":0,"data":null,"wrap_info":` +
		`{"token":"hvs.c4n4ry","accessor":"a","ttl":60,"creation_time":"2026-11-22T03:00:00Z","creation_path":"secret/data/x"},"warnings":null,"auth":null}`
	role, conf := approle(t, 0, 0)
	for _, path := range []string{"/v1/secret/", "/v1/auth/approle/login"} {
		synctest.Test(t, func(t *testing.T) {
			server := serverOf(vaulttest.Config{Roles: []vaulttest.Role{role}})
			server.SetOutage(vaulttest.Outage{Status: 200, Body: wrapped, Path: path})
			h := start(t, server, conf)
			_, err := h.resolve(false)
			checkProblem(t, err, provision.SecretUnavailable, "wrapping token", "min_wrapping_ttl", "X-Vault-Wrap-TTL")
		})
	}
}

// What Vault itself says passes, at each call.
func TestGenuineAnswers(t *testing.T) {
	t.Parallel()
	const deleted = `{"request_id":"1","data":{"data":null,"metadata":{"version":2,"destroyed":true}},"wrap_info":null,"warnings":null}`
	for _, tc := range []struct {
		path   string
		status int
		body   string
	}{
		{"/v1/secret/data/x", 200, `{"request_id":"1","data":{},"wrap_info":null}`},
		{"/v1/secret/data/x", 404, `{"errors":[]}`},
		{"/v1/nowhere/x", 404, `{"errors":["no handler for route"]}`},
		{"/v1/secret/data/x", 404, deleted},
		{"/v1/secret/x", 404, `{"request_id":"1","data":null,"warnings":["Invalid path for a versioned K/V secrets engine."]}`},
		{"/v1/secret/data/x", 403, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`},
		{"/v1/auth/token/renew-self", 400, `{"errors":["lease is not renewable"],"data":null}`},
		{"/v1/auth/token/lookup-self", 405, `{"errors":[]}`},
		{"/v1/sys/health", 200, `{"initialized":true,"sealed":false,"standby":false}`},
		{"/v1/sys/health", 299, `{"initialized":true,"sealed":true}`},
	} {
		if err := genuine(tc.path, tc.status, []byte(tc.body)); err != nil {
			t.Errorf("%s %d %s: %v", tc.path, tc.status, tc.body, err)
		}
	}
	if err := genuine("/v1/secret/data/x", 404, []byte(strings.Replace(deleted, `"request_id":"1",`, "", 1))); err == nil {
		t.Error("a deleted version without Vault's frame passes")
	}
	for _, status := range []int{http.StatusRequestTimeout, http.StatusPreconditionFailed, http.StatusTooManyRequests, 500, 503} {
		if !decidesNothing(status) {
			t.Errorf("HTTP %d is to be tried again", status)
		}
	}
}
