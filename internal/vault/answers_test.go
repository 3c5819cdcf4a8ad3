package vault

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

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
