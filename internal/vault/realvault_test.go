//go:build realvault

package vault

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/vault/vaultdev"
)

// TestRealVault runs the suite on the real Vault; see package vaultdev for where it comes from. Whoever sets the build tag wants it, so nothing is skipped.
func TestRealVault(t *testing.T) {
	v, err := vaultdev.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Stop(); err != nil || t.Failed() {
			t.Logf("%v\n%s", err, v.Log())
		}
	})
	b := backend{address: v.Address, root: v.RootToken, unsealKey: v.UnsealKey}
	b = b.setUp(t)
	for _, kv := range []int{1, 2} {
		b.kv, b.mount = kv, fmt.Sprintf("kv%d", kv)
		t.Run(b.mount, func(t *testing.T) { runSuite(t, b) })
	}
	t.Run("unlock", func(t *testing.T) { realUnlock(t, b) })
}

// realUnlock tries what docs/vault.md advises where refused logins have locked a role: to unlock it, and to
// have the mount lock none.
func realUnlock(t *testing.T, b backend) {
	conf := b.newRole(t)
	b.lock(t, conf)
	if locked, _ := b.call(t, "GET", "sys/locked-users", nil); !strings.Contains(fmt.Sprint(locked), conf.RoleID) {
		t.Errorf("sys/locked-users does not tell the role: %v", locked)
	}
	mounts, _ := b.call(t, "GET", "sys/auth", nil)
	mount, _ := mounts["approle/"].(map[string]any)
	b.call(t, "PUT", fmt.Sprintf("sys/locked-users/%v/unlock/%s", mount["accessor"], conf.RoleID), nil)
	b.start(t, conf).reads(b, "unlocked")

	b.call(t, "PUT", "sys/auth/approle/tune", map[string]any{"user_lockout_config": map[string]any{"lockout_disable": true}})
	conf = b.newRole(t)
	b.lock(t, conf)
	b.start(t, conf).reads(b, "unlocked")
}

const realPolicy = `
path "kv1/flow/tenants/*" { capabilities = ["read"] }
path "kv2/data/flow/tenants/*" { capabilities = ["read"] }
path "kv1/flow/tenants/walled/*" { capabilities = ["deny"] }
path "kv2/data/flow/tenants/walled/*" { capabilities = ["deny"] }
`

// setUp gives the Vault the engines and logins of the suite.
func (b backend) setUp(t *testing.T) backend {
	t.Helper()
	for _, v := range []string{"1", "2"} {
		b.call(t, "PUT", "sys/mounts/kv"+v, map[string]any{"type": "kv", "options": map[string]any{"version": v}})
	}
	b.awaitEngine(t, "kv2/config")
	b.call(t, "PUT", "sys/policies/acl/worker", map[string]any{"policy": realPolicy})
	for _, method := range []string{"approle", "jwt", "kubernetes"} {
		b.call(t, "PUT", "sys/auth/"+method, map[string]any{"type": method})
	}
	b.approle = b.appRole(t, "worker", map[string]any{"token_policies": "worker"})
	b.short = b.appRole(t, "short", map[string]any{"token_policies": "worker", "token_ttl": "6s", "token_max_ttl": "14s"})
	roles := 0
	b.newRole = func(t *testing.T) Config {
		roles++
		return b.appRole(t, fmt.Sprint("role-", roles), map[string]any{"token_policies": "worker"})
	}
	b.rotate = b.rotatingRole(t)
	b.jwt = b.jwtRole(t)
	b.kubernetes = b.kubernetesRole(t)
	return b
}

// awaitEngine waits until a new version 2 engine serves: it says 400 for a moment.
func (b backend) awaitEngine(t *testing.T, path string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, "GET", b.address+"/v1/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Vault-Token", b.root)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
	}
}

func (b backend) appRole(t *testing.T, name string, settings map[string]any) Config {
	t.Helper()
	role := "auth/approle/role/" + name
	b.call(t, "PUT", role, settings)
	id, _ := b.call(t, "GET", role+"/role-id", nil)
	secret, _ := b.call(t, "PUT", role+"/secret-id", nil)
	return Config{Auth: AuthAppRole, RoleID: id["role_id"].(string), SecretIDFile: writeFile(t, secret["secret_id"].(string))}
}

func (b backend) rotatingRole(t *testing.T) func(t *testing.T, file string) Config {
	conf := b.appRole(t, "rotating", map[string]any{"token_policies": "worker"})
	id := readFile(t, conf.SecretIDFile)
	return func(t *testing.T, file string) Config {
		t.Helper()
		const role = "auth/approle/role/rotating/"
		b.call(t, "PUT", role+"secret-id/destroy", map[string]any{"secret_id": id})
		secret, _ := b.call(t, "PUT", role+"secret-id", nil)
		id, _ = secret["secret_id"].(string)
		conf.SecretIDFile = rewriteFile(t, file, id)
		return conf
	}
}

func (b backend) jwtRole(t *testing.T) Config {
	t.Helper()
	key := newKey(t)
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	b.call(t, "PUT", "auth/jwt/config", map[string]any{"jwt_validation_pubkeys": []string{text}})
	b.call(t, "PUT", "auth/jwt/role/worker", map[string]any{
		"role_type": "jwt", "bound_audiences": []string{"vault"}, "user_claim": "sub", "token_policies": "worker",
	})
	token := signed(t, key, map[string]any{"aud": "vault", "sub": "worker"})
	return Config{Auth: AuthJWT, Role: "worker", JWTFile: writeFile(t, token)}
}

// kubernetesRole lets a service account log in, reviewed by the small part of a Kubernetes API server
// that Vault asks.
func (b backend) kubernetesRole(t *testing.T) Config {
	t.Helper()
	token := signed(t, newKey(t), map[string]any{
		"iss": "kubernetes", "sub": "system:serviceaccount:flow:worker", "aud": []string{"vault"},
		"kubernetes.io": map[string]any{"namespace": "flow", "serviceaccount": map[string]any{"name": "worker", "uid": "u-1"}},
	})
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { reviewToken(w, r, token) }))
	t.Cleanup(api.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}))
	b.call(t, "PUT", "auth/kubernetes/config", map[string]any{
		"kubernetes_host": api.URL, "kubernetes_ca_cert": ca, "token_reviewer_jwt": signed(t, newKey(t), map[string]any{}), "disable_local_ca_jwt": true,
	})
	b.call(t, "PUT", "auth/kubernetes/role/worker", map[string]any{
		"bound_service_account_names": "worker", "bound_service_account_namespaces": "flow", "token_policies": "worker", "audience": "vault",
	})
	return Config{Auth: AuthKubernetes, Role: "worker", JWTFile: writeFile(t, token)}
}

func reviewToken(w http.ResponseWriter, r *http.Request, good string) {
	var in struct{ Spec struct{ Token string } }
	if json.NewDecoder(r.Body).Decode(&in) != nil || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
		"status": map[string]any{
			"authenticated": in.Spec.Token == good, "audiences": []string{"vault"},
			"user": map[string]any{"username": "system:serviceaccount:flow:worker", "uid": "u-1", "groups": []string{"system:serviceaccounts"}},
		},
	})
}

func newKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signed returns a JWT that is good for an hour.
func signed(t *testing.T, key *rsa.PrivateKey, claims map[string]any) string {
	t.Helper()
	claims["iat"], claims["exp"] = time.Now().Unix(), time.Now().Add(time.Hour).Unix()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + enc.EncodeToString(body)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + enc.EncodeToString(signature)
}
