package vault

import (
	"errors"
	"path"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// hostile are paths and fields that must not get out of the tenant's place, nor reach its Adobe
// credentials.
var hostile = []provision.SecretRef{
	ref("../other/databricks/acme", "accessToken"),
	ref("databricks/../../other/databricks/acme", "accessToken"),
	ref("x/../../../../../sys/health", "version"),
	ref("..", "accessToken"),
	ref(".", "accessToken"),
	ref("", "accessToken"),
	ref("/", "accessToken"),
	ref("/databricks/acme", "accessToken"),
	ref("databricks//acme", "accessToken"),
	ref("databricks/acme/", "accessToken"),
	ref("./databricks/acme", "accessToken"),
	ref("..%2fother/databricks/acme", "accessToken"),
	ref("%2e%2e/other/databricks/acme", "accessToken"),
	ref("databricks/acme?version=1", "accessToken"),
	ref("databricks/acme#x", "accessToken"),
	ref(`..\other\databricks\acme`, "accessToken"),
	ref("databricks/acme\n", "accessToken"),
	ref("databricks/acme\x00", "accessToken"),
	ref("databricks/аcme", "accessToken"), // a Cyrillic a
	ref("*", "accessToken"),
	ref("+/acme", "accessToken"),
	ref("adobe", "clientSecret"),
	ref("ADOBE", "clientSecret"),
	ref("databricks/../adobe", "clientSecret"),
	ref("adobe/.", "clientSecret"),
	ref("databricks/acme", ""),
	ref("databricks/acme", "access Token"),
	{Path: "databricks/acme", Field: "accessToken", Version: -1},
}

func TestHostileReferences(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		_, _ = h.resolve(false)
		before := len(h.server.Requests())
		for _, r := range hostile {
			if _, err := h.resolveRef(r, false); err == nil {
				t.Errorf("%q was resolved", r.String())
			} else {
				checkProblem(t, err, provision.SecretMissing)
			}
		}
		if after := len(h.server.Requests()); after != before {
			t.Errorf("hostile references led to %d requests: %v", after-before, h.server.Requests()[before:])
		}
	})
}

func TestHostileTenants(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		for _, tenant := range []string{"", "..", ".", "acme/databricks", "../tenants/acme", "ACME", "acme ", "acme\n", "-acme", "%61cme"} {
			_, err := h.client.Resolve(t.Context(), tenant, ref("databricks/acme", "accessToken"), false)
			checkProblem(t, err, provision.SecretMissing, "tenant")
			_, err = h.client.Credentials(t.Context(), tenant, false)
			checkProblem(t, err, provision.SecretMissing, "tenant")
		}
		if n := h.server.Count("/v1/secret/"); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestPlaceAlone checks the second wall without the first.
func TestPlaceAlone(t *testing.T) {
	t.Parallel()
	for _, r := range hostile {
		if strings.EqualFold(r.Path, provision.AdobeSecret) || plainPath(r.Path) {
			continue // no matter of paths
		}
		if _, err := placeOf("flow/tenants", "acme", r.Path); !errors.Is(err, provision.ErrForbiddenRef) {
			t.Errorf("%q: error is %v", r.Path, err)
		}
	}
	p, err := placeOf("flow/tenants", "acme", "databricks/a.b_c-D9")
	if err != nil || p.path != "flow/tenants/acme/databricks/a.b_c-D9" {
		t.Errorf("got %q, %v", p.path, err)
	}
}

func FuzzPlace(f *testing.F) {
	for _, r := range hostile {
		f.Add("acme", r.Path)
	}
	f.Add("acme", "databricks/acme")
	f.Fuzz(func(t *testing.T, tenant, rel string) {
		p, err := placeOf("flow/tenants", tenant, rel)
		if err != nil {
			return
		}
		// What Vault's client makes of it.
		sent := path.Join("/", "/v1/"+"secret/data/"+p.path)
		if want := "/v1/secret/data/flow/tenants/" + tenant + "/" + rel; sent != want || strings.Contains(tenant, "/") {
			t.Errorf("tenant %q and %q lead to %q", tenant, rel, sent)
		}
	})
}

func FuzzCheckRef(f *testing.F) {
	for _, r := range hostile {
		f.Add(r.Path, r.Field, r.Version)
	}
	f.Fuzz(func(t *testing.T, p, field string, version int) {
		r := provision.SecretRef{Path: p, Field: field, Version: version}
		if checkRef(r) != nil {
			return
		}
		if _, err := placeOf("flow/tenants", "acme", p); err != nil {
			t.Errorf("%q passes the first wall and not the second: %v", r.String(), err)
		}
		if version < 0 || field == "" {
			t.Errorf("%+v passes", r)
		}
	})
}
