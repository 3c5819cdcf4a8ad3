package flowtest

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// golden returns a sample of testdata/golden: bodies in the shapes of Adobe's public documentation,
// with invented values.
func golden(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "golden", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// volatile are the fields whose values no sample can foretell; only their JSON type is compared.
var volatile = map[string]bool{
	"id": true, "etag": true, "version": true, "createdBy": true, "updatedBy": true, "sandboxId": true,
	"createdAt": true, "updatedAt": true, "request-id": true, "href": true, "access_token": true,
}

// shape replaces volatile values below v by the name of their type. The version of a connectionSpec
// is not volatile.
func shape(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = shape(v[i])
		}
	case map[string]any:
		_, isRef := v["version"]
		for key, member := range v {
			if scalar, ok := scalarType(member); ok && volatile[key] && !(isRef && len(v) == 2) {
				v[key] = scalar
			} else {
				v[key] = shape(member)
			}
		}
	}
	return v
}

func scalarType(v any) (string, bool) {
	switch v.(type) {
	case string:
		return "a string", true
	case float64:
		return "a number", true
	}
	return "", false
}

func wantGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	var want, have any
	if err := json.Unmarshal(golden(t, name), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got, &have); err != nil {
		t.Fatalf("%s: %v", got, err)
	}
	if diff := cmp.Diff(shape(want), shape(have)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// TestGoldenConnections walks through a connection's life and compares every answer with its sample.
func TestGoldenConnections(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	wantGolden(t, "connections-list-empty-200", b.get("/connections").want(t, 200).body)

	var request map[string]any
	if err := json.Unmarshal(golden(t, "connection-create-request"), &request); err != nil {
		t.Fatal(err)
	}
	// The samples' answers, unlike their request, have no catalog.
	delete(request["auth"].(map[string]any)["params"].(map[string]any), "catalog")
	body, _ := json.Marshal(request)
	created := b.do(http.MethodPost, flowBase+"/connections", string(body), nil).want(t, 201)
	wantGolden(t, "connection-create-201", created.body)
	var made idEtag
	created.decode(t, &made)
	if got, want := created.header.Get("Location"), flowBase+"/connections/"+made.ID; got != want {
		t.Errorf("Location = %q, want %q", got, want)
	}
	one := "/connections/" + made.ID
	wantGolden(t, "connection-get-200", b.get(one).want(t, 200).body)
	wantGolden(t, "connections-list-by-name-200", b.get(query("name=="+testName)).want(t, 200).body)
	wantGolden(t, "connections-count-200", b.get("/connections?count=true").want(t, 200).body)
	wantGolden(t, "connection-test-200-ok", b.get(one+"/test").want(t, 200).body)
	wantGolden(t, "explore-root-200", b.get(one+"/explore?objectType=root").want(t, 200).body)
	wantGolden(t, "explore-table-200", b.get(one+"/explore?objectType=table&object=orders_db.orders").want(t, 200).body)

	b.em.AddFault(Fault{Operation: OpCreate, Effect: EffectInitializing, Delay: 1})
	b.do(http.MethodPost, "/connections", string(body), nil).want(t, 201)
	wantGolden(t, "connections-list-duplicate-200", b.get(query("name=="+testName)).want(t, 200).body)
	b.clock.advance(1)
	b.do(http.MethodDelete, one, "", nil).want(t, 204)
	b.do(http.MethodPost, "/connections", string(body), nil).want(t, 201)
	b.clock.advance(1)
	wantGolden(t, "connections-list-paged-200", b.get("/connections?limit=1").want(t, 200).body)
}

// replaced returns a good create body in which one text is another.
func replaced(old, new string) string { return strings.Replace(createJSON("a", ""), old, new, 1) }

// TestGoldenErrorsRaised provokes the documented errors by what a client does wrong.
func TestGoldenErrorsRaised(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	one := "/connections/" + b.create(testName).ID
	without := func(header string) map[string]string { return map[string]string{header: ""} }
	wrong := func(header, value string) map[string]string { return map[string]string{header: value} }
	post, patch := http.MethodPost, http.MethodPatch
	rotate := string(golden(t, "connection-patch-rotate-request"))
	for _, tt := range []struct {
		golden, method, path, body string
		header                     map[string]string
		status                     int
	}{
		{"error-gateway-403010", "GET", one, "", without("Authorization"), 403},
		{"error-gateway-403000", "GET", one, "", without("x-api-key"), 403},
		{"error-gateway-401013", "GET", one, "", wrong("Authorization", "Bearer other"), 401},
		{"error-gateway-403003", "GET", one, "", wrong("x-api-key", "other"), 403},
		{"error-gateway-400003", "GET", one, "", without("x-gw-ims-org-id"), 400},
		{"error-gateway-403027", "GET", one, "", wrong("x-gw-ims-org-id", "1234567890ABCDEF12345678"), 403},
		{"error-gateway-403025", "GET", one, "", wrong("x-gw-ims-org-id", "OTHER@AdobeOrg"), 403},
		{"error-rfc7807-contenttype-400", post, "/connections", createJSON("a", ""), without("Content-Type"), 400},
		{"error-flow-400-authspec", post, "/connections", replaced(DatabricksAuthSpec, "Acces Token"), nil, 400},
		{"error-flow-404", "GET", "/connections/3b0f6c1e", "", nil, 404},
		{"error-flow-412", patch, one, rotate, wrong("If-Match", `"aa"`), 412},
	} {
		t.Run(tt.golden, func(t *testing.T) {
			r := b.do(tt.method, tt.path, tt.body, tt.header).want(t, tt.status)
			wantGolden(t, tt.golden, r.body)
		})
	}
}

// TestGoldenErrorsByFault makes faults answer with the documented errors that nothing else provokes.
func TestGoldenErrorsByFault(t *testing.T) {
	t.Parallel()
	status := func(status int, body BodyKind, code, message string) Fault {
		return Fault{Effect: EffectStatus, Status: status, Body: body, Code: code, Message: message}
	}
	for golden, f := range map[string]Fault{
		"error-flow-403":              status(403, "", "", ""),
		"error-flow-504":              status(504, BodyFlow, "", ""),
		"error-flow-400-inuse":        status(400, "", "1418-400", ""),
		"error-flow-400-provider":     {Operation: OpList, Effect: EffectClusterStopped, Message: "<text from the Microsoft provider>"},
		"error-gateway-429050":        status(429, BodyGateway, "", ""),
		"error-gateway-401013-number": status(401, BodyGatewayNumber, "401013", ""),
		"error-legacy-404":            status(404, BodyLegacy, "", "connections not found with id = [3b0f6c1e]"),
		"error-legacy-412":            status(412, BodyLegacy, "", `Supplied version=["aa"] does not match the current version on entity=["bb"]`),
	} {
		t.Run(golden, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.em.AddFault(f)
			r := b.get("/connections")
			wantGolden(t, golden, r.body)
			if f.Status != 0 {
				r.want(t, f.Status)
			}
		})
	}
}
