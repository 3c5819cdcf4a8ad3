package app_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// fakeVault is vaulttest as a rotatingVault.
type fakeVault struct {
	*vaulttest.Server
	address string
	serial  int
}

func newFakeVault(t *testing.T) *fakeVault {
	t.Helper()
	v := &fakeVault{Server: vaulttest.New(vaulttest.Config{})}
	at := httptest.NewServer(v)
	t.Cleanup(at.Close)
	v.address = at.URL
	return v
}

func (v *fakeVault) Address() string { return v.address }
func (v *fakeVault) RoleID() string  { return "worker" }
func (v *fakeVault) Put(path string, fields map[string]any) {
	v.Server.Put("flow/tenants/"+path, fields)
}
func (v *fakeVault) RevokeTokens() { v.RevokeAll() }

// NewSecretID replaces the one before: vaulttest knows one at a time.
func (v *fakeVault) NewSecretID() string {
	v.serial++
	id := fmt.Sprint("secret-id-", v.serial)
	v.SetRole(vaulttest.Role{RoleID: v.RoleID(), SecretID: id})
	return id
}

func (v *fakeVault) DestroySecretID(string) {}

// upstream is the emulator behind one that knows which Databricks tokens are good.
type upstream struct {
	http.Handler // the emulator
	refusing     http.Handler
	mu           sync.Mutex
	bad          []string
	refused      []string
}

func newUpstream(em *flowtest.Emulator) *upstream {
	refusing := flowtest.New(flowtest.Config{AllowAnyToken: true})
	refusing.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectBadCredentials})
	return &upstream{Handler: em, refusing: refusing}
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, flowtest.MaxBody))
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if u.refuses(body) {
		u.refusing.ServeHTTP(w, r)
		return
	}
	u.Handler.ServeHTTP(w, r)
}

func (u *upstream) refuses(body []byte) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, token := range u.bad {
		if bytes.Contains(body, []byte(token)) {
			u.refused = append(u.refused, token)
			return true
		}
	}
	return false
}
