//go:build realvault

package app_test

import (
	"maps"
	"net/http"
	"testing"

	"github.com/flow-worker/flow-worker/internal/vault/vaultdev"
)

// realVault is the real Vault as a rotatingVault.
type realVault struct {
	*vaultdev.Vault
	t      *testing.T
	roleID string
}

const rotationPolicy = `path "secret/data/flow/tenants/*" { capabilities = ["read"] }`

// TestRotationUnderLoadOnRealVault is TestRotationUnderLoad on the real Vault.
func TestRotationUnderLoadOnRealVault(t *testing.T) {
	v, err := vaultdev.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Stop(); err != nil || t.Failed() {
			t.Logf("%v\n%s", err, v.Log())
		}
	})
	r := &realVault{Vault: v, t: t}
	r.call("sys/mounts/secret", map[string]any{"type": "kv", "options": map[string]any{"version": "2"}})
	if err := v.AwaitEngine(t.Context(), "secret"); err != nil {
		t.Fatal(err)
	}
	r.call("sys/policies/acl/worker", map[string]any{"policy": rotationPolicy})
	r.call("sys/auth/approle", map[string]any{"type": "approle"})
	r.call("auth/approle/role/worker", map[string]any{"token_policies": "worker"})
	role, err := v.Call(t.Context(), http.MethodGet, "auth/approle/role/worker/role-id", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.roleID, _ = role.Data["role_id"].(string)
	checkRotationUnderLoad(t, r)
}

func (r *realVault) call(path string, body map[string]any) vaultdev.Answer {
	r.t.Helper()
	a, err := r.Call(r.t.Context(), http.MethodPut, path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *realVault) Address() string { return r.Vault.Address }
func (r *realVault) RoleID() string  { return r.roleID }

func (r *realVault) Put(path string, fields map[string]any) {
	r.call("secret/data/flow/tenants/"+path, map[string]any{"data": maps.Clone(fields)})
}

func (r *realVault) NewSecretID() string {
	id, _ := r.call("auth/approle/role/worker/secret-id", nil).Data["secret_id"].(string)
	return id
}

func (r *realVault) DestroySecretID(id string) {
	r.call("auth/approle/role/worker/secret-id/destroy", map[string]any{"secret_id": id})
}

// RevokeTokens ends every token that came out of an AppRole login.
func (r *realVault) RevokeTokens() { r.call("sys/leases/revoke-prefix/auth/approle/login", nil) }
