package vault

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
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
		if strings.EqualFold(r.Path, provision.AdobeSecret) || r.Path == "databricks/acme" {
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

// FuzzPlace tries the second wall without the first. The judge is a server that reads the request line:
// what it receives must be, byte by byte, the tenant's place and the path below it, made of letters that
// mean nothing but themselves. The walls together are tried in test/confinement.
func FuzzPlace(f *testing.F) {
	for _, r := range hostile {
		f.Add("acme", r.Path)
		f.Add(r.Path, "databricks/acme")
	}
	f.Add("acme", "databricks/acme")
	f.Add("acme", "a../..b/...")
	w := newWire(f)
	f.Fuzz(func(t *testing.T, tenant, rel string) {
		p, err := placeOf("flow/tenants", tenant, rel)
		if err != nil {
			return
		}
		for form, read := range w.forms() {
			_, bad := read(p)
			want := "/v1/secret/" + form + "flow/tenants/" + tenant + "/" + rel
			if got := w.received(); !slices.Equal(got, []string{want}) {
				t.Errorf("tenant %q and %q lead to %q (%v), want %q", tenant, rel, got, bad, want)
			}
		}
		if !provision.ValidTenant(tenant) || strings.ContainsFunc(rel, func(r rune) bool { return r != '/' && !refRune(r) }) {
			t.Errorf("tenant %q and %q pass", tenant, rel)
		}
		for seg := range strings.SplitSeq(rel, "/") {
			if strings.Trim(seg, ".") == "" && len(seg) < 3 {
				t.Errorf("%q passes with the segment %q", rel, seg)
			}
		}
	})
}

func refRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("_.-", r)
}

// wire is an engine at a server that keeps the targets of all request lines below /v1/secret.
type wire struct {
	engine  *engine
	mu      sync.Mutex
	targets []string
}

func newWire(t testing.TB) *wire {
	t.Helper()
	w := &wire{}
	vault := serverOf(vaulttest.Config{})
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.RequestURI, "/v1/auth/token/lookup-self") {
			w.mu.Lock()
			w.targets = append(w.targets, r.RequestURI)
			w.mu.Unlock()
		}
		vault.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	client, err := New(Config{Address: server.URL, Token: provision.NewSensitive(vault.Token())})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-done
	})
	w.engine = client.kv
	return w
}

// forms are the ways to read a place, by what stands before it.
func (w *wire) forms() map[string]func(place) (*stored, *failure) {
	return map[string]func(place) (*stored, *failure){
		"data/": func(p place) (*stored, *failure) { return w.engine.read2(context.Background(), p, 0) },
		"": func(p place) (*stored, *failure) {
			got, _, err := w.engine.read1(context.Background(), p, 0, false)
			return got, err
		},
	}
}

// received returns the targets since the last call.
func (w *wire) received() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	targets := w.targets
	w.targets = nil
	return targets
}
