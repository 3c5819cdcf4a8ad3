package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// backend is a running Vault, vaulttest's or the real one, with the content that the suite wants:
// a KV engine at mount, and logins that may read all tenants' secrets there but none of the tenant
// "walled".
type backend struct {
	address, root, unsealKey string
	mount                    string
	kv                       int // version of the engine

	approle    Config // a login; short lives 6 s, at most 14 s with renewals
	short      Config
	jwt        Config
	kubernetes Config

	// newRole returns the login of another AppRole role, which nobody else has.
	newRole func(t *testing.T) Config

	// rotate gives the role of a third login a new secret id, the only one that is good then, and
	// writes it to the file; to a new one where the path is empty. It returns the login.
	rotate func(t *testing.T, file string) Config
}

// call sends a request with the root token and returns the answer's data and auth.
func (b backend) call(t *testing.T, method, path string, body any) (data, auth map[string]any) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, b.address+"/v1/"+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", b.root)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s %s: HTTP %d: %s, %v", method, path, resp.StatusCode, text, err)
	}
	var answer struct{ Data, Auth map[string]any }
	if len(text) > 0 && json.Unmarshal(text, &answer) != nil {
		t.Fatalf("%s %s: %s", method, path, text)
	}
	return answer.Data, answer.Auth
}

// put writes a secret of a tenant.
func (b backend) put(t *testing.T, path string, fields map[string]any) {
	t.Helper()
	if b.kv == 1 {
		b.call(t, "PUT", b.mount+"/flow/tenants/"+path, fields)
		return
	}
	b.call(t, "PUT", b.mount+"/data/flow/tenants/"+path, map[string]any{"data": fields})
}

// change deletes, undeletes or destroys versions.
func (b backend) change(t *testing.T, how, path string, versions ...int) {
	t.Helper()
	b.call(t, "PUT", b.mount+"/"+how+"/flow/tenants/"+path, map[string]any{"versions": versions})
}

// with returns conf, or else the root token, at this Vault.
func (b backend) with(conf Config) Config {
	if conf.Auth == "" && conf.Token.IsZero() {
		conf.Token = provision.NewSensitive(b.root)
	}
	conf.Address = b.address
	if conf.KVMount == "" {
		conf.KVMount = b.mount
	}
	return conf
}

func (b backend) start(t *testing.T, conf Config) *harness {
	t.Helper()
	h := &harness{t: t, reg: prometheus.NewPedanticRegistry(), witness: &witness{}}
	h.run(b.with(conf))
	return h
}

func fakeBackend(t *testing.T, kv int) backend {
	t.Helper()
	allow := []string{"secret/data/flow/tenants/*", "secret/flow/tenants/*"}
	jwt := "jwt-" + canary
	s := vaulttest.New(vaulttest.Config{KVVersion: kv, Roles: []vaulttest.Role{
		{RoleID: "worker", SecretID: "id-" + canary, Allow: allow},
		{RoleID: "short", SecretID: "id-" + canary, Allow: allow, TTL: 6 * time.Second, MaxTTL: 14 * time.Second},
		{Mount: "jwt", Name: "worker", JWT: jwt, Allow: allow},
		{Name: "worker", JWT: jwt, Allow: allow},
	}})
	s.Deny("secret/data/flow/tenants/walled/*", "secret/flow/tenants/walled/*")
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	ids := 0
	newRole := func(t *testing.T) Config {
		ids++
		role := vaulttest.Role{RoleID: fmt.Sprint("role-", ids), SecretID: "id-" + canary, Allow: allow}
		s.SetRole(role)
		return Config{Auth: AuthAppRole, RoleID: role.RoleID, SecretIDFile: writeFile(t, role.SecretID)}
	}
	rotate := func(t *testing.T, file string) Config {
		ids++
		id := fmt.Sprint("id-", ids, canary)
		s.SetRole(vaulttest.Role{RoleID: "rotating", SecretID: id, Allow: allow})
		return Config{Auth: AuthAppRole, RoleID: "rotating", SecretIDFile: rewriteFile(t, file, id)}
	}
	idFile, jwtFile := writeFile(t, "id-"+canary), writeFile(t, jwt)
	return backend{
		address: server.URL, root: s.Token(), unsealKey: s.UnsealKey(), mount: "secret", kv: kv,
		approle:    Config{Auth: AuthAppRole, RoleID: "worker", SecretIDFile: idFile},
		short:      Config{Auth: AuthAppRole, RoleID: "short", SecretIDFile: idFile},
		jwt:        Config{Auth: AuthJWT, Role: "worker", JWTFile: jwtFile},
		kubernetes: Config{Auth: AuthKubernetes, Role: "worker", JWTFile: jwtFile},
		newRole:    newRole,
		rotate:     rotate,
	}
}

// rewriteFile replaces a file's content, or makes a new file for no path. It returns the path.
func rewriteFile(t *testing.T, path, content string) string {
	t.Helper()
	if path == "" {
		return writeFile(t, content)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
