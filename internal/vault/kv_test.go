package vault

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"

	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// TestDetectionDenied has Vault refuse to tell the engine's version.
func TestDetectionDenied(t *testing.T) {
	t.Parallel()
	for _, kv := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			server := serverOf(vaulttest.Config{KVVersion: kv})
			server.Deny("sys/internal/ui/mounts/*")
			token := server.NewToken(vaulttest.Role{})
			h := start(t, server, Config{Token: provision.NewSensitive(token)})
			_, err := h.resolveRef(ref("nothing", "f"), false)
			checkProblem(t, err, provision.SecretMissing, "there is no secret at secret/flow/tenants/acme/nothing")
			if v := h.engine().version.Load(); v != 0 {
				t.Errorf("an empty place settled the version as %d", v)
			}
			got, err := h.resolve(false)
			checkValue(t, got, err, "dapi-"+canary)
			if v := h.engine().version.Load(); int(v) != kv {
				t.Errorf("the version was settled as %d, want %d", v, kv)
			}
			synctest.Wait() // for the first renewal
			before := server.Count("/v1/")
			_, _ = h.resolve(false)
			if n := server.Count("/v1/") - before; n != 1 {
				t.Errorf("%d requests for a read in a known engine, want 1", n)
			}
			if n := h.count(opLogin, "ok"); n != 1 {
				t.Errorf("%d logins: the refused question led to some", n)
			}
		})
	}
}

// TestDetectionDeniedInAVersion1Engine has the policy allow version 1 paths only.
func TestDetectionDeniedInAVersion1Engine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(vaulttest.Config{KVVersion: 1})
		server.Deny("sys/internal/ui/mounts/*")
		token := server.NewToken(vaulttest.Role{Allow: []string{"secret/flow/tenants/*"}})
		h := start(t, server, Config{Token: provision.NewSensitive(token)})
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		pinned := ref("databricks/acme", "accessToken")
		pinned.Version = 1
		_, err = h.resolveRef(pinned, false)
		checkProblem(t, err, provision.SecretMissing, "keeps no versions")
	})
}

func TestDetectionIsNotGuessedDuringAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		h.server.SetOutage(vaulttest.Outage{Status: 500, Path: "/v1/sys/internal/"})
		_, err := h.resolve(false)
		checkProblem(t, err, provision.SecretUnavailable, "sys/internal/ui/mounts/secret")
		if n := h.server.Count("/v1/secret/"); n != 0 {
			t.Errorf("%d reads in an engine of unknown version", n)
		}
		h.server.SetOutage(vaulttest.Outage{})
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
	})
}

// TestUpgradedEngine has the engine become one of version 2 under way.
func TestUpgradedEngine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		old, upgraded := serverOf(vaulttest.Config{KVVersion: 1}), serverOf(vaulttest.Config{})
		var now atomic.Pointer[vaulttest.Server]
		now.Store(old)
		h := start(t, old, Config{transport: inMemory{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.Load().ServeHTTP(w, r) })}})
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		now.Store(upgraded)
		got, err = h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		if got.Version != 1 {
			t.Errorf("version %d, want one", got.Version)
		}
		now.Store(old)
		h.engine().version.Store(1)
		pinned := ref("databricks/acme", "accessToken")
		pinned.Version = 1
		_, err = h.resolveRef(pinned, false)
		checkProblem(t, err, provision.SecretMissing, "keeps no versions")
		now.Store(upgraded)
		got, err = h.resolveRef(pinned, false)
		checkValue(t, got, err, "dapi-"+canary)
	})
}

func (h *harness) engine() *engine { return h.client.kv }

func TestMountAnswers(t *testing.T) {
	t.Parallel()
	e := &engine{mount: "secret"}
	options := func(v any) map[string]any { return map[string]any{"version": v} }
	for name, tc := range map[string]struct {
		data map[string]any
		want int32
		bad  bool
	}{
		"version 2":       {map[string]any{"path": "secret/", "type": "kv", "options": options("2")}, 2, false},
		"version 1":       {map[string]any{"path": "secret/", "type": "kv", "options": options("1")}, 1, false},
		"no options":      {map[string]any{"path": "secret/", "type": "kv", "options": nil}, 1, false},
		"before versions": {map[string]any{"path": "secret/", "type": "generic"}, 1, false},
		"odd options":     {map[string]any{"path": "secret/", "type": "kv", "options": options(json.Number("2"))}, 1, false},
		"another engine":  {map[string]any{"path": "secret/", "type": "transit"}, 0, true},
		"another mount":   {map[string]any{"path": "sec/", "type": "kv"}, 0, true},
		"nothing":         {nil, 0, false},
	} {
		got, err := e.mounted(&vaultapi.Secret{Data: tc.data})
		if got != tc.want || (err != nil) != tc.bad {
			t.Errorf("%s: got %d, %v", name, got, err)
		}
	}
	if got, err := e.mounted(nil); got != 0 || err != nil {
		t.Errorf("an empty answer: got %d, %v", got, err)
	}
}

// TestStrangeAnswers feeds what no Vault should say.
func TestStrangeAnswers(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{}`, `null`, `[]`, `1`, `""`, `{"data":null}`, `{"data":[]}`, `{"data":{}}`, `{"data":{"data":null}}`,
		`{"data":{"data":[],"metadata":{"version":1}}}`, `{"data":{"data":{"accessToken":"c4n4ry"}}}`,
		`{"data":{"data":{"accessToken":"c4n4ry"},"metadata":{"version":"1"}}}`,
		`{"data":{"data":{"accessToken":"c4n4ry"},"metadata":{"version":1.5}}}`,
		`{"data":{"data":{"accessToken":"c4n4ry"},"metadata":[]}}`,
		`{"data":{"data":{"accessToken":"c4n4ry"},"metadata":{"version":99999999999999999999}}}`,
		`{"data":{"data":"c4n4ry","metadata":{"version":1}}}`,
		`{"errors":["nothing here"]}`, `{"errors":[],"warnings":["c4n4ry"]}`, `{"errors":"c4n4ry","x":1}`, `{"wrap_info":{"token":"c4n4ry"}}`,
	} {
		for _, status := range []int{200, 404} {
			synctest.Test(t, func(t *testing.T) {
				h := start(t, serverOf(vaulttest.Config{}), Config{})
				_, _ = h.resolve(false)
				h.server.SetOutage(vaulttest.Outage{Status: status, Body: body, Path: "/v1/secret/"})
				if got, err := h.resolve(false); err == nil {
					t.Errorf("HTTP %d %s: read as %v", status, body, got)
				}
			})
		}
	}
}
