package vault

import (
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
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
