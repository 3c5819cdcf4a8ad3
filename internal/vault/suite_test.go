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
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// reads checks that the client reads a secret of its own.
func (h *harness) reads(b backend, name string) {
	h.t.Helper()
	b.put(h.t, "acme/"+name, map[string]any{"accessToken": name + "-" + canary})
	got, err := h.resolveRef(ref(name, "accessToken"), true)
	checkValue(h.t, got, err, name+"-"+canary)
}

// TestSuite runs the suite on vaulttest.
func TestSuite(t *testing.T) {
	t.Parallel()
	for _, kv := range []int{1, 2} {
		t.Run(map[int]string{1: "kv1", 2: "kv2"}[kv], func(t *testing.T) {
			t.Parallel()
			runSuite(t, fakeBackend(t, kv))
		})
	}
}

// runSuite checks what the client relies on, and so keeps vaulttest true. It seals the Vault, so its
// parts run one after the other.
func runSuite(t *testing.T, b backend) {
	parts := []struct {
		name string
		run  func(*testing.T, backend)
	}{
		{"answers", suiteAnswers},
		{"secrets", suiteSecrets},
		{"logins", suiteLogins},
		{"refusals", suiteRefusals},
		{"mended", suiteMended},
		{"lockout", suiteLockout},
		{"engines", suiteEngines},
		{"revoked", suiteRevoked},
		{"given", suiteGivenToken},
		{"renewal", suiteRenewal},
		{"rotation", suiteRotation},
		{"namespace", suiteNamespace},
		{"sealed", suiteSealed},
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) { p.run(t, b) })
	}
	if b.kv == 2 {
		t.Run("versions", func(t *testing.T) { suiteVersions(t, b) })
		t.Run("answers2", func(t *testing.T) { suiteAnswers2(t, b) })
	}
}

func suiteSecrets(t *testing.T, b backend) {
	h := b.start(t, b.approle)
	_, err := h.resolveRef(ref("secrets", "accessToken"), false)
	checkProblem(t, err, provision.SecretMissing, "there is no secret at "+b.mount+"/flow/tenants/acme/secrets")
	h.reads(b, "secrets")
	_, err = h.resolveRef(ref("secrets", "other"), false)
	checkProblem(t, err, provision.SecretMissing, "no field other")
	b.put(t, "acme/odd", map[string]any{"number": 42, "flag": true, "none": nil, "list": []string{"x"}})
	for field, part := range map[string]string{"number": "a number", "flag": "a boolean", "none": "null", "list": "a list"} {
		_, err := h.resolveRef(ref("odd", field), false)
		checkProblem(t, err, provision.SecretMissing, part)
	}
	pinned := ref("secrets", "accessToken")
	pinned.Version = 1
	got, err := h.resolveRef(pinned, false)
	if b.kv == 1 {
		checkProblem(t, err, provision.SecretMissing, "keeps no versions")
	} else {
		checkValue(t, got, err, "secrets-"+canary)
	}
	b.put(t, "acme/adobe", map[string]any{"orgId": "A@AdobeOrg", "accessToken": "t-" + canary, "apiKey": "key"})
	c, err := h.client.Credentials(t.Context(), "acme", false)
	if err != nil || c.OrgID != "A@AdobeOrg" || c.AccessToken.Reveal() != "t-"+canary {
		t.Errorf("credentials: %+v, %v", c, err)
	}
}

func suiteVersions(t *testing.T, b backend) {
	h := b.start(t, b.approle)
	for _, v := range []string{"one", "two", "three"} {
		b.put(t, "acme/versions", map[string]any{"f": v + canary})
	}
	at := func(n int) provision.SecretRef { return provision.SecretRef{Path: "versions", Field: "f", Version: n} }
	got, err := h.resolveRef(at(0), false)
	checkValue(t, got, err, "three"+canary)
	got, err = h.resolveRef(at(2), false)
	checkValue(t, got, err, "two"+canary)
	if got.Version != 2 {
		t.Errorf("version %d", got.Version)
	}
	_, err = h.resolveRef(at(9), false)
	checkProblem(t, err, provision.SecretMissing, "there is no version 9")

	b.change(t, "delete", "acme/versions", 3)
	_, err = h.resolveRef(at(0), false) // Vault does not fall back to version 2
	checkProblem(t, err, provision.SecretMissing, "version 3", "deleted", "undelete")
	b.change(t, "undelete", "acme/versions", 3)
	got, err = h.resolveRef(at(0), false)
	checkValue(t, got, err, "three"+canary)
	b.change(t, "destroy", "acme/versions", 3)
	_, err = h.resolveRef(at(0), false)
	checkProblem(t, err, provision.SecretMissing, "version 3", "destroyed")
	got, err = h.resolveRef(at(1), false)
	checkValue(t, got, err, "one"+canary)
}

func suiteLogins(t *testing.T, b backend) {
	for name, conf := range map[string]Config{"token": {}, "approle": b.approle, "jwt": b.jwt, "kubernetes": b.kubernetes} {
		t.Run(name, func(t *testing.T) {
			h := b.start(t, conf)
			h.reads(b, "logins")
			if err := h.client.Ready(); err != nil {
				t.Errorf("Ready: %v", err)
			}
		})
	}
}

func suiteRefusals(t *testing.T, b backend) {
	wrongID, wrongJWT, unknown := b.approle, b.jwt, b.jwt
	wrongID.SecretIDFile = writeFile(t, "wrong-"+canary)
	wrongJWT.JWTFile = writeFile(t, "a.b.c"+canary)
	unknown.Role = "nobody"
	wrongPod := b.kubernetes
	wrongPod.JWTFile = writeFile(t, "a.b.c"+canary)
	nowhere := b.approle
	nowhere.AuthMount = "nowhere"
	for name, conf := range map[string]Config{
		"secret id": wrongID, "jwt": wrongJWT, "role": unknown, "pod": wrongPod, "mount": nowhere, "token": {Token: provision.NewSensitive("wrong-" + canary)},
	} {
		t.Run(name, func(t *testing.T) {
			h := b.start(t, conf)
			_, err := h.resolveRef(ref("refusals", "accessToken"), false)
			checkProblem(t, err, provision.SecretDenied)
			checkProblem(t, h.client.Ready(), provision.SecretDenied)
		})
	}
	h := b.start(t, b.approle)
	b.put(t, "walled/x", map[string]any{"accessToken": canary})
	_, err := h.client.Resolve(t.Context(), "walled", ref("x", "accessToken"), false)
	h.see(nil, err)
	checkProblem(t, err, provision.SecretDenied, "403", "permission denied")
	h.reads(b, "refusals")
}

// suiteMended has a wrong secret id in the file, then the right one.
func suiteMended(t *testing.T, b backend) {
	conf := b.newRole(t)
	right := readFile(t, conf.SecretIDFile)
	rewriteFile(t, conf.SecretIDFile, "wrong-"+canary)
	h := b.start(t, conf)
	_, err := h.resolveRef(ref("mended", "accessToken"), false)
	checkProblem(t, err, provision.SecretDenied, "login refused", "HTTP 400", "waiting for VAULT_SECRET_ID_FILE to change")
	checkProblem(t, h.client.Ready(), provision.SecretDenied, "waiting for VAULT_SECRET_ID_FILE to change")
	rewriteFile(t, conf.SecretIDFile, right)
	h.witness.await(t, "vault: logged in", 1)
	h.reads(b, "mended")
	if n := h.count(opLogin, "denied"); n != 1 {
		t.Errorf("%d refused logins, want 1", n)
	}
}

// lock has a role refused as often as Vault's default takes, by as many workers.
func (b backend) lock(t *testing.T, conf Config) {
	t.Helper()
	conf.SecretIDFile = writeFile(t, "wrong-"+canary)
	for range 5 {
		_, err := b.start(t, conf).resolveRef(ref("x", "f"), false)
		checkProblem(t, err, provision.SecretDenied, "HTTP 400")
	}
}

// suiteLockout: after that the right secret id is refused as well, and told apart.
func suiteLockout(t *testing.T, b backend) {
	conf := b.newRole(t)
	b.lock(t, conf)
	h := b.start(t, conf)
	_, err := h.resolveRef(ref("x", "f"), false)
	checkProblem(t, err, provision.SecretDenied, "login refused", "HTTP 403", "it may have locked the role", "for 5m0s at most")
}

func suiteEngines(t *testing.T, b backend) {
	h := b.start(t, Config{KVMount: "nowhere"})
	_, err := h.resolveRef(ref("x", "f"), false)
	checkProblem(t, err, provision.SecretUnavailable, "VAULT_KV_MOUNT")
	h = b.start(t, Config{KVMount: b.mount + "/flow"})
	_, err = h.resolveRef(ref("x", "f"), false)
	checkProblem(t, err, provision.SecretUnavailable, "VAULT_KV_MOUNT", b.mount+"/")
}

func suiteRevoked(t *testing.T, b backend) {
	h := b.start(t, b.approle)
	h.reads(b, "revoked")
	b.call(t, "PUT", "auth/token/revoke", map[string]any{"token": h.client.session.api.Token()})
	h.reads(b, "revoked")
	if n := h.count(opLogin, "ok"); n != 2 {
		t.Errorf("%d logins, want 2", n)
	}
}

// suiteGivenToken revokes a VAULT_TOKEN.
func suiteGivenToken(t *testing.T, b backend) {
	other := b.start(t, b.approle)
	other.reads(b, "given")
	token := other.client.session.api.Token()
	h := b.start(t, Config{Token: provision.NewSensitive(token)})
	h.reads(b, "given")
	if ttl := h.client.session.ttl(); ttl < 60 || ttl > 768*3600 {
		t.Errorf("ttl is %v", ttl)
	}
	b.call(t, "PUT", "auth/token/revoke", map[string]any{"token": token})
	_, err := h.resolveRef(ref("given", "accessToken"), true)
	checkProblem(t, err, provision.SecretDenied, "VAULT_TOKEN", "invalid token")
	checkProblem(t, h.client.Ready(), provision.SecretDenied)
}

// suiteRenewal lets a token of 6 s live through its renewals and its max TTL of 14 s.
func suiteRenewal(t *testing.T, b backend) {
	h := b.start(t, b.short)
	h.reads(b, "renewal")
	h.witness.await(t, "token renewed", 2)
	h.reads(b, "renewal")
	h.witness.await(t, "logged in", 2)
	h.reads(b, "renewal")
	if strings.Contains(h.witness.String(), "cannot") {
		t.Errorf("not without trouble:\n%s", h.witness)
	}
}

// suiteRotation replaces the secret id's file, destroys the old one and revokes the token, twice.
func suiteRotation(t *testing.T, b backend) {
	conf := b.rotate(t, "")
	h := b.start(t, conf)
	for range 2 {
		h.reads(b, "rotation")
		token := h.client.session.api.Token()
		b.rotate(t, conf.SecretIDFile)
		b.call(t, "PUT", "auth/token/revoke", map[string]any{"token": token})
	}
	h.reads(b, "rotation")
	if n := h.count(opLogin, "ok"); n != 3 || h.count(opLogin, "denied") != 0 {
		t.Errorf("%d logins, want 3", n)
	}
}

// suiteNamespace has a namespace set where there are none: the free Vault and ours take no notice.
func suiteNamespace(t *testing.T, b backend) {
	conf := b.approle
	conf.Namespace = "team/a"
	h := b.start(t, conf)
	h.reads(b, "namespace")
	if err := h.client.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

func suiteSealed(t *testing.T, b backend) {
	h := b.start(t, b.approle)
	h.reads(b, "sealed")
	b.call(t, "PUT", "sys/seal", nil)
	_, err := h.resolveRef(ref("sealed", "accessToken"), false)
	checkProblem(t, err, provision.SecretUnavailable, "503", "sealed")
	checkProblem(t, h.client.Health(t.Context()), provision.SecretUnavailable, "sealed")
	late := b.start(t, b.approle) // starts while Vault is sealed
	_, err = late.resolveRef(ref("sealed", "accessToken"), false)
	checkProblem(t, err, provision.SecretUnavailable, "sealed")
	b.call(t, "PUT", "sys/unseal", map[string]any{"key": b.unsealKey})
	for _, h := range []*harness{h, late} {
		h.reads(b, "sealed")
		if err := h.client.Health(t.Context()); err != nil {
			t.Errorf("Health: %v", err)
		}
	}
}

// suiteAnswers compares answers as they are on the wire, beyond what the client makes of them. KV
// stands for the mount, a "-" as the token for none.
func suiteAnswers(t *testing.T, b backend) {
	b.put(t, "acme/answers", map[string]any{"f": canary})
	login := b.start(t, b.approle)
	login.reads(b, "answers")
	own := login.client.session.api.Token()
	for _, tc := range []struct {
		method, path, body, token string
		status                    int
		part                      string
	}{
		{"GET", "KV/flow/tenants/acme/nothing", "", "", 404, ""},
		{"GET", "nowhere/data/x", "", "", 404, "no handler for route"},
		{"GET", "nowhere/data/x", "", own, 403, "permission denied"},
		{"GET", "nowhere/data/x", "", "wrong", 403, "invalid token"},
		{"GET", "nowhere/data/x", "", "-", 403, `{"errors":["permission denied"]}`},
		{"GET", "sys/internal/ui/mounts/KV", "", own, 200, `"path":"KV/"`},
		{"GET", "sys/internal/ui/mounts/KV/flow", "", own, 200, `"path":"KV/"`},
		{"GET", "sys/internal/ui/mounts/nowhere", "", own, 403, "preflight capability check returned 403"},
		{"GET", "sys/internal/ui/mounts/KV", "", "wrong", 403, "invalid token"},
		{"GET", "auth/token/lookup-self", "", "", 200, `"expire_time":null`},
		{"GET", "auth/token/lookup-self", "", own, 200, `"renewable":true`},
		{"GET", "auth/token/lookup-self", "", "wrong", 403, "invalid token"},
		{"PUT", "auth/token/renew-self", "{}", "", 400, "invalid lease ID"},
		{"PUT", "auth/token/renew-self", "{}", own, 200, `"lease_duration":2764800`},
		{"PUT", "auth/token/revoke", `{"token":"x"}`, own, 403, "permission denied"},
		{"PUT", "auth/token/revoke", "{}", "", 400, "missing token ID"},
		{"GET", "auth/token/nowhere", "", "", 404, "unsupported path"},
		{"PUT", "auth/nowhere/login", "{}", "-", 403, "permission denied"},
		{"PUT", "auth/nowhere/login", "{}", "", 404, "no handler for route"},
		{"PUT", "auth/approle/login", `{"role_id":"x","secret_id":"y"}`, "-", 400, "invalid role or secret ID"},
		{"PUT", "auth/jwt/login", `{"role":"x","jwt":"a.b.c"}`, "-", 400, `role \"x\" could not be found`},
		{"PUT", "auth/jwt/login", `{"role":"worker","jwt":"a.b.c"}`, "-", 400, "error validating token"},
		{"PUT", "auth/kubernetes/login", `{"role":"x","jwt":"a.b.c"}`, "-", 400, `invalid role name \"x\"`},
		{"PUT", "auth/jwt/login", "{", "-", 500, "malformed JSON"},
		{"GET", "sys/health", "", "-", 200, `"sealed":false`},
		{"GET", "sys/seal-status", "", "-", 200, `"sealed":false`},
		{"PUT", "sys/unseal", `{"key":"wrong"}`, "-", 400, "'key' must be a valid hex or base64 string"},
		{"PUT", "sys/seal", "", own, 403, "permission denied"},
	} {
		b.checkAnswer(t, tc.method, tc.path, tc.body, tc.token, tc.status, tc.part)
	}
}

// suiteAnswers2 is suiteAnswers of a version 2 engine.
func suiteAnswers2(t *testing.T, b backend) {
	at := "KV/data/flow/tenants/acme/answers2"
	const wrong = "Invalid path for a versioned K/V secrets engine"
	for _, tc := range []struct {
		method, path, body string
		status             int
		part               string
	}{
		{"GET", at, "", 404, `{"errors":[]}`},
		{"PUT", at, `{"data":{"f":"one"}}`, 200, `"version":1`},
		{"PUT", at, `{"data":{"f":"two"}}`, 200, `"version":2`},
		{"PUT", at, `{"f":"x"}`, 400, "no data provided"},
		{"PUT", at, `{"data":"x"}`, 400, "expected a map"},
		{"PUT", at, `{`, 500, "malformed JSON"},
		{"GET", at, "", 200, `"data":{"f":"two"}`},
		{"GET", at + "?version=0", "", 200, `"data":{"f":"two"}`},
		{"GET", at + "?version=-1", "", 200, `"data":{"f":"two"}`},
		{"GET", at + "?version=1", "", 200, `"data":{"f":"one"}`},
		{"GET", at + "?version=7", "", 404, `{"errors":[]}`},
		{"GET", at + "?version=x", "", 400, "Field validation failed"},
		{"DELETE", at, "", 204, ""},
		{"GET", at, "", 404, `"data":{"data":null,"metadata":{`},
		{"GET", at, "", 404, `"destroyed":false,"version":2`},
		{"PUT", "KV/destroy/flow/tenants/acme/answers2", "{}", 400, "no version number provided"},
		{"PUT", "KV/destroy/flow/tenants/acme/answers2", `{"versions":[2]}`, 204, ""},
		{"PUT", "KV/undelete/flow/tenants/acme/answers2", `{"versions":[2]}`, 204, ""},
		{"GET", at, "", 404, `"destroyed":true,"version":2`},
		{"GET", "KV/metadata/flow/tenants/acme/answers2", "", 200, `"current_version":2`},
		{"DELETE", "KV/metadata/flow/tenants/acme/answers2", "", 204, ""},
		{"DELETE", "KV/data/flow/tenants/acme/nothing", "", 204, ""},
		{"GET", at + "?version=1", "", 404, `{"errors":[]}`},
		{"GET", "KV/flow/tenants/acme/answers2", "", 404, wrong},
		{"GET", "KV/data", "", 404, "root of a K/V v2 mount"},
	} {
		b.checkAnswer(t, tc.method, tc.path, tc.body, "", tc.status, tc.part)
	}
}

// checkAnswer sends one request, with the root token unless another is given.
func (b backend) checkAnswer(t *testing.T, method, path, body, token string, status int, part string) {
	t.Helper()
	path, part = strings.Replace(path, "KV", b.mount, 1), strings.Replace(part, "KV", b.mount, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, b.address+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	switch token {
	case "":
		req.Header.Set("X-Vault-Token", b.root)
	case "-":
	default:
		req.Header.Set("X-Vault-Token", token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status || !strings.Contains(string(text), part) {
		t.Errorf("%s %s %s: HTTP %d %s; want %d and %q", method, path, body, resp.StatusCode, text, status, part)
	}
	if decidesNothing(resp.StatusCode) || resp.StatusCode == http.StatusNoContent || path == "sys/seal-status" {
		return // nothing that the client asks for
	}
	if err := genuine("/v1/"+path, resp.StatusCode, text); err != nil {
		t.Errorf("%s %s %s: HTTP %d %s: %v", method, path, body, resp.StatusCode, text, err)
	}
}

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
