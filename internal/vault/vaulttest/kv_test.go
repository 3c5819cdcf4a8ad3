package vaulttest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKV2(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	if v := c.server.Put("a/b", map[string]any{"f": "one", "n": 1}); v != 1 {
		t.Errorf("version %d", v)
	}
	a := c.do("PUT", "secret/data/a/b", `{"data":{"f":"two"}}`).want(t, 200)
	if a.Data["version"] != 2.0 {
		t.Errorf("written as version %v", a.Data["version"])
	}
	a = c.do("GET", "secret/data/a/b", "").want(t, 200)
	if diff := cmp.Diff(map[string]any{"f": "two"}, a.Data["data"]); diff != "" {
		t.Error(diff)
	}
	c.do("GET", "secret/data/a/b?version=1", "").want(t, 200, `"n":1`, `"version":1`)
	c.do("GET", "secret/data/a/b?version=0", "").want(t, 200, `"two"`)
	c.do("GET", "secret/data/a/b?version=3", "").want(t, 404, `{"errors":[]}`)
	c.do("GET", "secret/data/a/b?version=-1", "").want(t, 200, `"two"`)
	c.do("GET", "secret/data/a/b?version=x", "").want(t, 400)
	c.do("GET", "secret/data/a", "").want(t, 404, `{"errors":[]}`)
	c.do("GET", "secret/metadata/a/b", "").want(t, 200, `"current_version":2`)
	c.do("GET", "secret/metadata/a", "").want(t, 404)
	c.do("PUT", "secret/data/a/b", `{"f":"x"}`).want(t, 400)
	c.do("PUT", "secret/data/a/b", `{"data":"x"}`).want(t, 400)
	c.do("PUT", "secret/data/a/b", `{`).want(t, 500)
	c.do("GET", "secret/a/b", "").want(t, 404, "Invalid path for a versioned K/V secrets engine")
	c.do("GET", "secret/data", "").want(t, 404, "root of a K/V v2 mount")
	c.do("DELETE", "secret/metadata/a/b", "").want(t, 204)
	c.do("GET", "secret/data/a/b", "").want(t, 404, `{"errors":[]}`)
}

func TestDeletedVersions(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	for range 3 {
		c.server.Put("p", map[string]any{"f": "value"})
	}
	gone := func(n string, destroyed string) {
		t.Helper()
		a := c.do("GET", "secret/data/p?version="+n, "").want(t, 404, `"data":null`, `"destroyed":`+destroyed, `"version":`+n)
		if strings.Contains(a.text, "value") || a.Errors != nil {
			t.Errorf("got %s", a.text)
		}
	}
	c.server.Delete("p")
	gone("3", "false")
	c.do("GET", "secret/data/p", "").want(t, 404, `"version":3`) // no falling back to version 2
	c.do("PUT", "secret/undelete/p", `{"versions":[3]}`).want(t, 204)
	c.do("GET", "secret/data/p", "").want(t, 200, "value")
	c.do("DELETE", "secret/data/p", "").want(t, 204)
	gone("3", "false")
	c.do("PUT", "secret/delete/p", `{"versions":[1]}`).want(t, 204)
	gone("1", "false")
	c.do("PUT", "secret/destroy/p", `{"versions":[1]}`).want(t, 204)
	gone("1", "true")
	c.do("PUT", "secret/undelete/p", `{"versions":[1]}`).want(t, 204)
	gone("1", "true")
	c.do("PUT", "secret/destroy/p", `{"versions":[2]}`).want(t, 204)
	gone("2", "true")
	c.server.Delete("p", 7)
	c.server.Delete("nowhere")
	c.do("PUT", "secret/destroy/p", `{}`).want(t, 400)
	if v := c.server.Put("p", map[string]any{"f": "new"}); v != 4 {
		t.Errorf("version %d after a deletion", v)
	}
}

func TestOldVersionsAreForgotten(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	for i := range 12 {
		c.server.Put("p", map[string]any{"f": i})
	}
	c.do("GET", "secret/data/p?version=2", "").want(t, 404)
	c.do("GET", "secret/data/p?version=3", "").want(t, 200)
}

func TestPutRefusesWhatIsNoJSON(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{})
	if v := c.server.Put("p", map[string]any{"f": func() {}}); v != 0 {
		t.Errorf("version %d", v)
	}
	c.do("GET", "secret/data/p", "").want(t, 404)
}

func TestKV1(t *testing.T) {
	t.Parallel()
	c := newClient(t, Config{KVVersion: 1, Mount: "/kv/old/"})
	if v := c.server.Put("a/b", map[string]any{"f": "one"}); v != 0 {
		t.Errorf("version %d", v)
	}
	a := c.do("GET", "kv/old/a/b", "").want(t, 200)
	if diff := cmp.Diff(map[string]any{"f": "one"}, a.Data); diff != "" {
		t.Error(diff)
	}
	c.do("PUT", "kv/old/a/b", `{"f":"two"}`).want(t, 204)
	c.do("GET", "kv/old/a/b", "").want(t, 200, `"two"`)
	c.do("PUT", "kv/old/a/b", `[]`).want(t, 400)
	c.do("GET", "kv/old/data/a/b", "").want(t, 404, `{"errors":[]}`)
	c.do("DELETE", "kv/old/a/b", "").want(t, 204)
	c.do("GET", "kv/old/a/b", "").want(t, 404)
	c.server.Put("x", map[string]any{"f": "one"})
	c.server.Delete("x")
	c.do("GET", "kv/old/x", "").want(t, 404)
	c.do("GET", "sys/internal/ui/mounts/kv/old", "").want(t, 200, `"version":"1"`, `"path":"kv/old/"`)
}
