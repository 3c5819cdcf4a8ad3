//go:build realvault

package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/vault/vaultdev"
)

// secretsOf are the secrets that there are, each with a value that is found nowhere else.
var secretsOf = map[string]string{ // :: path in the mount → value
	"flow/tenants/acme/adobe": "canary-acme-adobe", "flow/tenants/acme/databricks/a/b": "canary-acme-databricks",
	"flow/tenants/globex/adobe": "canary-globex-adobe", "flow/tenants/acme-test/adobe": "canary-acmetest-adobe",
	"flow/tenants/adobe": "canary-short", "flow/tenants2/acme/adobe": "canary-prefix", "flow/other": "canary-other", "unrelated": "canary-unrelated",
}

// vaultRole is a column of the matrix.
type vaultRole struct {
	name    string
	token   string
	tenants string // whose secrets it may see, as a part of their values
}

func put(ctx context.Context, t *testing.T, root *api.Client, path string, data map[string]any) *api.Secret {
	t.Helper()
	secret, err := root.Logical().WriteWithContext(ctx, path, data)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return secret
}

// vaultScene writes what an operator writes, and returns the roles.
func vaultScene(ctx context.Context, t *testing.T, root *api.Client) []vaultRole {
	t.Helper()
	err := errors.Join(
		root.Sys().MountWithContext(ctx, "secret", &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}),
		root.Sys().MountWithContext(ctx, "other", &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}),
		root.Sys().MountWithContext(ctx, "kv1", &api.MountInput{Type: "kv", Options: map[string]string{"version": "1"}}),
		root.Sys().EnableAuthWithOptionsWithContext(ctx, "approle", &api.EnableAuthOptions{Type: "approle"}))
	if err != nil {
		t.Fatal(err)
	}
	for path, value := range secretsOf {
		put(ctx, t, root, "secret/data/"+path, map[string]any{"data": map[string]any{"field": value}})
	}
	put(ctx, t, root, "other/data/flow/tenants/acme/adobe", map[string]any{"data": map[string]any{"field": "canary-mount"}})
	put(ctx, t, root, "kv1/flow/tenants/acme/adobe", map[string]any{"field": "canary-kv1"})
	roles := []vaultRole{
		{"policy", "", "canary-acme-,canary-globex-,canary-acmetest-"}, {"policy-tenants", "", "canary-acme-"}, {"policy-entity", "", "canary-acme-"},
	}
	for i := range roles {
		name := "flow-worker-" + roles[i].name
		if err := root.Sys().PutPolicyWithContext(ctx, name, string(read(t, "vault/"+roles[i].name+".hcl"))); err != nil {
			t.Fatal(err)
		}
		metadata := map[string]any{}
		if roles[i].name == "policy-entity" {
			metadata["tenant"] = "acme"
		}
		roles[i].token = login(ctx, t, root, name, metadata)
	}
	stranger := login(ctx, t, root, "flow-worker-policy-entity", nil)
	return append(roles, vaultRole{"…, no tenant", stranger, "none"}, vaultRole{"no token", "", "none"})
}

// login makes a role of approle with one policy, an entity for it unless metadata is nil, and logs in.
func login(ctx context.Context, t *testing.T, root *api.Client, policy string, metadata map[string]any) string {
	t.Helper()
	role := fmt.Sprintf("%s-%t", policy, metadata != nil)
	put(ctx, t, root, "auth/approle/role/"+role, map[string]any{"token_policies": policy, "token_no_default_policy": true, "token_period": "1h"})
	id, err := root.Logical().ReadWithContext(ctx, "auth/approle/role/"+role+"/role-id")
	if err != nil {
		t.Fatal(err)
	}
	secretID := put(ctx, t, root, "auth/approle/role/"+role+"/secret-id", nil)
	if metadata != nil {
		auth, err := root.Sys().ListAuthWithContext(ctx)
		if err != nil {
			t.Fatal(err)
		}
		entity := put(ctx, t, root, "identity/entity", map[string]any{"name": role, "metadata": metadata})
		put(ctx, t, root, "identity/entity-alias", map[string]any{
			"name": id.Data["role_id"], "canonical_id": entity.Data["id"], "mount_accessor": auth["approle/"].Accessor})
	}
	in := put(ctx, t, root, "auth/approle/login", map[string]any{"role_id": id.Data["role_id"], "secret_id": secretID.Data["secret_id"]})
	return in.Auth.ClientToken
}

// vaultProbes are the rows: paths as they go over the wire, by method.
var vaultProbes = []struct{ methods, paths string }{
	{"GET", `secret/data/flow/tenants/acme/adobe secret/data/flow/tenants/acme/adobe?version=1 secret/data/flow/tenants/acme/databricks/a/b
		secret/data/flow/tenants/globex/adobe secret/data/flow/tenants/acme-test/adobe`},
	{"PUT", `auth/token/renew-self`}, {"GET", `auth/token/lookup-self`},
	// The same secrets by other ways.
	{"PUT POST PATCH DELETE LIST", `secret/data/flow/tenants/acme/adobe`},
	{"GET PUT DELETE LIST", `secret/metadata/flow/tenants/acme/adobe`},
	{"GET", `secret/subkeys/flow/tenants/acme/adobe secret/data/flow/tenants/acme?list=true secret/metadata/flow/tenants?list=true secret/config`},
	{"LIST", `secret/metadata secret/metadata/flow/tenants secret/metadata/flow/tenants/acme secret/data/flow/tenants/acme`},
	{"PUT", `secret/delete/flow/tenants/acme/adobe secret/undelete/flow/tenants/acme/adobe secret/destroy/flow/tenants/acme/adobe secret/config`},
	// Other places.
	{"GET", `secret/data/flow/tenants/adobe secret/data/flow/tenants/acme secret/data/flow/tenants2/acme/adobe secret/data/flow/other secret/data/unrelated
		secret/flow/tenants/acme/adobe other/data/flow/tenants/acme/adobe kv1/flow/tenants/acme/adobe cubbyhole/x`},
	{"PUT", `cubbyhole/x`},
	// Ways around.
	{"GET", `secret/data/flow/tenants/acme/../globex/adobe secret/data/flow/tenants/acme/%2e%2e/globex/adobe secret/data/flow/tenants/acme/..%2fglobex%2fadobe
		secret/data/flow/tenants/acme/%2e%2e%2fglobex%2fadobe secret/data/flow/tenants/acme/%252e%252e/globex/adobe
		secret/data/flow/tenants/acme/../../other secret/data/flow/tenants/acme/..%2f..%2fother secret/data/flow/tenants/acme/%2e%2e/%2e%2e/%2e%2e/unrelated
		secret/data/flow/tenants/acme/x/../../../other secret/data/flow/tenants/acme/..;/globex/adobe secret/data/flow/tenants/acme/%5c..%5c..%5cglobex/adobe
		secret/data/flow/tenants/acme/%ef%bc%8e%ef%bc%8e/globex/adobe secret/data/flow/tenants/acme/./adobe secret/data/flow/tenants/acme//adobe
		secret/data/flow/tenants//adobe secret/data/flow/tenants/acme%2fadobe secret/data/flow/tenants%2fglobex%2fadobe secret/data/flow%2ftenants%2facme%2fadobe
		secret/data/flow/tenants/acme/adobe%00 secret/data/flow/tenants/acme/%00/../../globex/adobe secret/data/flow/tenants/acme/adobe%0a secret/data/flow/tenants/acme/adobe/
		secret/data/flow/tenants/ACME/adobe secret/data/flow/tenants/%2b/adobe secret/data/flow/tenants/*/adobe
		secret/data/flow/tenants/acme/%2e%2e/%2e%2e/%2e%2e/%2e%2e/metadata/unrelated secret/data/../../sys/mounts secret/data/flow/tenants/acme/..%2f..%2f..%2f..%2f..%2fsys%2fmounts`},
	// Tokens, logins, identities.
	{"PUT", `auth/token/lookup auth/token/renew auth/token/create auth/token/create-orphan auth/token/revoke-self auth/token/revoke
		auth/token/lookup-accessor auth/approle/role/mine identity/entity identity/lookup/entity`},
	{"GET LIST", `auth/token/accessors auth/approle/role identity/entity/id`},
	// The server.
	{"GET", `sys/mounts sys/auth sys/policies/acl/flow-worker-policy sys/audit sys/leases/count sys/host-info sys/metrics sys/internal/ui/mounts sys/internal/ui/mounts/secret
		sys/internal/ui/mounts/other sys/internal/counters/activity sys/config/state/sanitized sys/raw/core/mounts sys/storage/raft/snapshot sys/pprof/goroutine sys/seal-status sys/health`},
	{"PUT", `sys/seal sys/step-down sys/policies/acl/flow-worker-policy sys/mounts/mine sys/auth/mine sys/capabilities-self sys/wrapping/wrap sys/tools/random sys/rotate sys/leases/lookup`},
}

// vaultSays returns what a role comes to, and fails where it sees a secret that is none of its business.
func vaultSays(ctx context.Context, t *testing.T, at *url.URL, role vaultRole, method, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, at.String(), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	raw, query, _ := strings.Cut(path, "?")
	req.URL.Opaque, req.URL.RawQuery = "/v1/"+raw, query // to the wire as it is
	if role.token != "" {
		req.Header.Set("X-Vault-Token", role.token)
	}
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json") // Vault asks for that first
	}
	resp, err := http.DefaultTransport.RoundTrip(req) // it follows no redirects
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, tenant := range strings.Split(role.tenants, ",") {
		body = []byte(strings.ReplaceAll(string(body), tenant, "ours-"))
	}
	if strings.Contains(string(body), "canary-") {
		t.Errorf("%s: %s %s shows %s", role.name, method, path, body)
	}
	switch {
	case resp.StatusCode < 300:
		return allowed
	case resp.StatusCode == http.StatusForbidden:
		return refused
	}
	return fmt.Sprint(resp.StatusCode)
}

// TestVaultMatrix tries every row with every role.
func TestVaultMatrix(t *testing.T) {
	root := realVault(t)
	ctx := testContext(t)
	roles := vaultScene(ctx, t, root)
	at, err := url.Parse(root.Address())
	if err != nil {
		t.Fatal(err)
	}
	var page strings.Builder
	page.WriteString("| call | path |")
	for _, role := range roles {
		page.WriteString(" " + role.name + " |")
	}
	page.WriteString("\n|---" + strings.Repeat("|---", 1+len(roles)) + "|\n")
	n := map[string]int{}
	for _, p := range vaultProbes {
		for _, path := range strings.Fields(p.paths) {
			for _, method := range strings.Fields(p.methods) {
				fmt.Fprintf(&page, "| %s | `%s` |", method, path)
				for _, role := range roles {
					outcome := vaultSays(ctx, t, at, role, method, path)
					n[outcome]++
					page.WriteString(" " + outcome + " |")
				}
				page.WriteString("\n")
			}
		}
	}
	t.Logf("outcomes: %v", n)
	checkPage(t, "vault", page.String())
}

// However many encoded dots lead out of a tenant's folder, and wherever to, nothing of another's is shown.
func TestVaultShowsNothingAroundCorners(t *testing.T) {
	root := realVault(t)
	ctx := testContext(t)
	roles := vaultScene(ctx, t, root)
	at, err := url.Parse(root.Address())
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	targets := strings.Fields(`globex/adobe flow/tenants/globex/adobe other flow/other unrelated data/unrelated metadata/unrelated data/flow/tenants/globex/adobe
		secret/data/unrelated secret/metadata/unrelated other/data/flow/tenants/acme/adobe kv1/flow/tenants/acme/adobe sys/mounts v1/sys/mounts`)
	for _, up := range []string{"%2e%2e/", "..%2f", "%2e%2e%2f", ".%2e/", "%2e./", "../", "%252e%252e/", "..%5c", "..%252f"} {
		for depth := range 8 {
			for _, target := range targets {
				path := "secret/data/flow/tenants/acme/" + strings.Repeat(up, depth+1)
				for _, role := range roles[1:3] {
					outcome := vaultSays(ctx, t, at, role, http.MethodGet, path+target)
					n[outcome]++
					if outcome == allowed {
						t.Errorf("%s: %s%s is there", role.name, path, target)
					}
				}
			}
		}
	}
	t.Logf("outcomes: %v", n)
}

// realVault starts the real Vault, and returns a client with all rights. See package vaultdev for where it
// comes from.
func realVault(t *testing.T) *api.Client {
	t.Helper()
	v, err := vaultdev.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Stop(); err != nil || t.Failed() {
			t.Logf("%v\n%s", err, v.Log())
		}
	})
	return vaultClient(t, v.Address, v.RootToken)
}

func vaultClient(t *testing.T, address, token string) *api.Client {
	t.Helper()
	client, err := api.NewClient(&api.Config{Address: address, HttpClient: &http.Client{Transport: &http.Transport{}}})
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(token)
	return client
}
