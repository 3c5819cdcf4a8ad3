package vault

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

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
						if provision.ErrandOf(r.Context()) != nil {
							r = r.Clone(r.Context())
							r.Header.Set("Traceparent", inner)
						}
						return next.RoundTrip(r)
					})
				}
			}
			h := start(t, server, conf)
			e := &provision.Errand{Trace: provision.Trace{Parent: own, State: "a=b"}}
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
