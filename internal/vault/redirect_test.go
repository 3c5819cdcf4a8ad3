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
