package vault

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

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
