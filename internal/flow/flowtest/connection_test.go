package flowtest

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestCreateRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for _, tt := range []struct {
		name, path, body string
		status           int
		code             string // "" where the body is of another shape
	}{
		{"empty body", "/connections", "", 400, "1405-400"},
		{"blank body", "/connections", " \n", 400, "1405-400"},
		{"empty object", "/connections", "{}", 400, "1405-400"},
		{"not JSON", "/connections", "{", 400, ""},
		{"not an object", "/connections", "[]", 400, ""},
		{"spec unknown", "/connections", replaced(DatabricksSpecID, "e9d7"), 400, "1413-400"},
		{"version unknown", "/connections", replaced(`"1.0"`, `"9"`), 400, "1413-400"},
		{"version missing", "/connections", replaced(`"1.0"`, `""`), 422, ""},
		{"auth spec unknown", "/connections", replaced(DatabricksAuthSpec, "Basic"), 400, "1415-400"},
		{"mandatory param missing", "/connections", replaced(`"accessToken"`, `"token"`), 400, "1304-400"},
		{"mandatory param empty", "/connections", replaced(`"orders_db"`, `""`), 400, "1304-400"},
		{"mandatory param no text", "/connections", replaced(`"orders_db"`, `7`), 400, "1304-400"},
		{"mode unknown", "/connections?mode=fast", createJSON("a", ""), 400, "1453-400"},
		{"too large", "/connections", strings.Repeat(" ", MaxBody+1), 413, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := b.do(http.MethodPost, tt.path, tt.body, nil).want(t, tt.status)
			if tt.code != "" {
				r.wantCode(t, tt.code)
			}
		})
	}
	b.wantStored(0)
}

func TestSandboxHeaders(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for code, header := range map[string]map[string]string{
		"2105-400": {"x-sandbox-name": ""},
		"2110-400": {"x-sandbox-id": "1"},
		"2111-403": {"x-sandbox-name": "*"},
	} {
		b.do("GET", "/connections", "", header).want(t, codeStatus(code)).wantCode(t, code)
	}
	b.get("/connections").want(t, 200)
}

// TestNamesAreNotUnique shows what makes blind repeats dangerous.
func TestNamesAreNotUnique(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	first, second := b.create("same"), b.create("same")
	if first.ID == second.ID {
		t.Fatalf("both have the id %s", first.ID)
	}
	if got := b.names(query("name==same")); len(got) != 2 {
		t.Errorf("listed: %q, want two", got)
	}
}

func TestIsolation(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.AddToken(provision.NewSensitive("other"), "OTHER@AdobeOrg", testKey)
	made := b.create("a")
	for name, header := range map[string]map[string]string{
		"sandbox": {"x-sandbox-name": "prod"},
		"org":     {"Authorization": "Bearer other", "x-gw-ims-org-id": "OTHER@AdobeOrg"},
	} {
		for _, method := range []string{"GET", "DELETE"} {
			b.do(method, "/connections/"+made.ID, "", header).want(t, 404).wantCode(t, "1439-404")
		}
		var l listReply
		b.do("GET", "/connections", "", header).want(t, 200).decode(t, &l)
		if len(l.Items) != 0 {
			t.Errorf("another %s sees %d connections", name, len(l.Items))
		}
	}
	b.wantStored(1)
}

func TestDelete(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	one := "/connections/" + b.create("a").ID
	b.create("b")
	if r := b.do("DELETE", one+"/", "", nil).want(t, 204); len(r.body) != 0 {
		t.Errorf("body = %q, want none", r.body)
	}
	b.do("DELETE", one, "", nil).want(t, 404)
	b.get(one).want(t, 404)
	if got := b.names("/connections"); !slices.Equal(got, []string{"b"}) {
		t.Errorf("left: %q, want b", got)
	}
}

func (b *bed) patch(id, etag, body string) reply {
	b.t.Helper()
	return b.do(http.MethodPatch, "/connections/"+id, body, map[string]string{"If-Match": etag})
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	made := b.create("a")
	rotate := string(golden(t, "connection-patch-rotate-request"))
	r := b.patch(made.ID, made.Etag, rotate).want(t, 200)
	wantGolden(t, "connection-patch-200", r.body)
	var changed idEtag
	r.decode(t, &changed)
	if changed.Etag == made.Etag || changed.ID != made.ID {
		t.Errorf("answer = %v after %v, want a new etag of the same connection", changed, made)
	}
	got := b.em.Connections()[0]
	if got.AccessToken.Reveal() != "EXAMPLE-NEW-NOT-A-TOKEN" || got.Params["catalog"] != "main" || got.Etag != changed.Etag {
		t.Errorf("stored: %+v, want all params replaced", got)
	}
	b.patch(made.ID, made.Etag, rotate).want(t, 412).wantCode(t, "1404-412")
	r = b.patch(made.ID, changed.Etag, `[{"op":"replace","path":"/name","value":"b"},{"op":"remove","path":"/description"}]`).want(t, 200)
	r.decode(t, &changed)
	if diff := cmp.Diff([]string{"b"}, b.names(query("name==b"))); diff != "" || len(b.names(query("name==a"))) != 0 {
		t.Errorf("the list does not follow the name: %s", diff)
	}
	// All params are replaced: what is left out is gone.
	b.patch(made.ID, changed.Etag, `[{"op":"add","path":"/auth/params","value":{"domain":"d","clusterId":"c","accessToken":"t","database":"e"}}]`).want(t, 200)
	if got := b.em.Connections()[0]; got.Params["catalog"] != nil || got.Description != "" {
		t.Errorf("stored: %+v, want no catalog and no description", got)
	}
}

func TestUpdateRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	made := b.create("a")
	name := `[{"op":"replace","path":"/name","value":"b"}]`
	for _, tt := range []struct{ name, etag, body, code string }{
		{"no If-Match", "", name, "1403-400"},
		{"stale", `"1f00a3c2-0000-0200-0000-690a1b2c0000"`, name, "1404-412"},
		{"unquoted", strings.Trim(made.Etag, `"`), name, "1404-412"},
		{"any", "*", name, "1404-412"},
		{"empty body", made.Etag, "", "1405-400"},
		{"no instruction", made.Etag, "[]", "1405-400"},
		{"not an array", made.Etag, `{"op":"REPLACE","path":"/name","value":"b"}`, ""},
		{"upper case", made.Etag, `[{"op":"REPLACE","path":"/name","value":"b"}]`, "1434-400"},
		{"move", made.Etag, `[{"op":"move","path":"/name","from":"/description"}]`, "1434-400"},
		{"unknown path", made.Etag, `[{"op":"replace","path":"/state","value":"disabled"}]`, "1455-400"},
		{"one param", made.Etag, `[{"op":"replace","path":"/auth/params/accessToken","value":"t"}]`, "1455-400"},
		{"params no object", made.Etag, `[{"op":"replace","path":"/auth/params","value":null}]`, "1455-400"},
		{"params incomplete", made.Etag, `[{"op":"replace","path":"/auth/params","value":{"accessToken":"t"}}]`, "1304-400"},
		{"name no text", made.Etag, `[{"op":"replace","path":"/name","value":7}]`, "1455-400"},
		{"name removed", made.Etag, `[{"op":"remove","path":"/name"}]`, "1455-400"},
		{"spec", made.Etag, `[{"op":"replace","path":"/connectionSpec/id","value":"b"}]`, "1414-400"},
		{"second one bad", made.Etag, `[{"op":"replace","path":"/name","value":"b"},{"op":"test","path":"/name"}]`, "1434-400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := b.patch(made.ID, tt.etag, tt.body)
			if tt.code == "" {
				r.want(t, 400)
				return
			}
			r.want(t, codeStatus(tt.code)).wantCode(t, tt.code)
		})
	}
	if got := b.em.Connections()[0]; got.Name != "a" || got.Etag != made.Etag {
		t.Errorf("stored: %+v, want it unchanged", got)
	}
	b.patch("none", made.Etag, name).want(t, 404)
}

// TestUpdateRace shows that of many PATCHes with one etag only one succeeds.
func TestUpdateRace(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	made := b.create("a")
	statuses := make(chan int)
	const writers = 8
	for range writers {
		go func() {
			r, _ := b.try(t.Context(), http.MethodPatch, "/connections/"+made.ID,
				`[{"op":"replace","path":"/name","value":"b"}]`, map[string]string{"If-Match": made.Etag})
			statuses <- r.status
		}()
	}
	won := 0
	for range writers {
		switch s := <-statuses; s {
		case 200:
			won++
		case 412:
		default:
			t.Errorf("status = %d", s)
		}
	}
	if won != 1 {
		t.Errorf("%d PATCHes with the same etag succeeded, want 1", won)
	}
}

func TestDraft(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	var made, published idEtag
	b.do(http.MethodPost, "/connections?mode=draft", createJSON("a", ""), nil).want(t, 201).decode(t, &made)
	if got := b.em.Connections()[0].State; got != stateDraft {
		t.Errorf("state = %q, want a draft", got)
	}
	act := "/connections/" + made.ID + "/action?op="
	b.do(http.MethodPost, act+"publish", "", nil).want(t, 200).decode(t, &published)
	if got := b.em.Connections()[0].State; got != stateEnabled || published.Etag == made.Etag {
		t.Errorf("state = %q, etag %s, want it enabled with a new etag", got, published.Etag)
	}
	b.do(http.MethodPost, act+"publish", "", nil).want(t, 200)
	b.do(http.MethodPost, act+"FINALIZE", "", nil).want(t, 400).wantCode(t, "1402-400")
	b.do(http.MethodPost, act+"explode", "", nil).want(t, 400).wantCode(t, "1453-400")
	b.do(http.MethodPost, "/connections/none/action?op=publish", "", nil).want(t, 404)
}

func TestSpecs(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.Specs = []Spec{{ID: "other", Name: "other"}} })
	type authSpec struct {
		Name string
		Spec struct {
			Required   []string
			Properties map[string]struct{ Format string }
		}
	}
	var all, one struct {
		Items []struct {
			ID       string
			AuthSpec []authSpec
		}
	}
	b.get(flowBase+"/connectionSpecs").want(t, 200).decode(t, &all)
	b.get("/connectionSpecs/"+DatabricksSpecID).want(t, 200).decode(t, &one)
	if len(all.Items) != 2 || len(one.Items) != 1 || len(one.Items[0].AuthSpec) != 1 {
		t.Fatalf("specs: %+v, one: %+v", all, one)
	}
	auth := one.Items[0].AuthSpec[0]
	if auth.Name != DatabricksAuthSpec || !slices.Contains(auth.Spec.Required, "clusterId") || auth.Spec.Properties["accessToken"].Format != "password" {
		t.Errorf("auth spec: %+v", auth)
	}
	b.get("/connectionSpecs/none").want(t, 404).wantCode(t, "1439-404")
}

func TestExploreRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	one := "/connections/" + b.create("a").ID
	b.get(one+"/explore").want(t, 400).wantCode(t, "1453-400")
	b.get(one+"/explore?objectType=TABLE&object=orders_db.none").want(t, 400).wantCode(t, "1453-400")
	b.get("/connections/none/explore?objectType=root").want(t, 404)
}

func TestNotServed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for path, status := range map[string]int{
		"/flows": 404, "/": 404, "//": 404, "/connections/a/b/c": 404, "/ims/token/v2": 404, "/_emulatorx": 404,
	} {
		b.get(path).want(t, status)
	}
	b.do(http.MethodPut, "/connections", "", nil).want(t, 405)
	b.do(http.MethodPost, "/connections/search", "{}", nil).want(t, 405)
	if got := b.em.Count(OpOther); got != 8 {
		t.Errorf("counted %d other calls, want 8", got)
	}
}
