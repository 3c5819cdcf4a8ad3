package event

import (
	"bytes"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/flow-worker/flow-worker/internal/provision"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var trace = provision.Trace{Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", State: "a=1"}

// results are one result of every kind, by the name of its golden file.
func results() map[string]provision.Result {
	key := provision.Key{Tenant: "acme", Source: "/portal", ID: "r-1"}
	base := provision.Result{
		Request: provision.RequestID{ID: key.ID, Source: key.Source}, Tenant: key.Tenant, Sandbox: "prod", Name: `a <b> & "c"`,
		ConnectionSpec: &provision.ConnectionSpec{ID: "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", Version: "1.0"},
		Attempts:       1, RequestedAt: entered, StartedAt: entered.Add(time.Second).In(time.FixedZone("", 3600)), CompletedAt: entered.Add(2 * time.Second),
	}
	created := base
	created.Outcome, created.EventID = provision.OutcomeCreated, key.EventID(0, provision.OutcomeCreated)
	created.Connection = &provision.Connection{ID: "1f4c9a2d", Etag: `"7200ab12"`}
	created.Trace = trace
	adopted := created
	adopted.Adopted, adopted.Attempts, adopted.Trace = true, 0, provision.Trace{}
	failed := base
	failed.Outcome, failed.EventID = provision.OutcomeFailed, key.EventID(1, provision.OutcomeFailed)
	failed.Error = &provision.Failure{Reason: provision.ReasonFlowRejected, Message: "HTTP 400: no such spec", HTTPStatus: 400,
		Code: "FLOW-1413-400", UpstreamRequestID: "u-1"}
	invalid := provision.Result{
		Outcome: provision.OutcomeFailed, EventID: "0123", Request: base.Request, Tenant: "acme",
		RequestedAt: entered, StartedAt: entered, CompletedAt: entered,
		Error: provision.Fail(provision.ReasonInvalidRequest, "the request is not valid: body: empty"),
	}
	return map[string]provision.Result{"created": created, "adopted": adopted, "failed": failed, "invalid": invalid}
}

func encode(t testing.TB, r provision.Result) []byte {
	t.Helper()
	body, err := EncodeResult(r)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestEncodeResultGolden(t *testing.T) {
	t.Parallel()
	for name, r := range results() {
		file := filepath.Join("testdata", "result-"+name+".json")
		got := append(encode(t, r), '\n')
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestDecodeResultInvertsEncode(t *testing.T) {
	t.Parallel()
	for name, r := range results() {
		body := encode(t, r)
		back, err := DecodeResult(body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, back); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if again := encode(t, back); !bytes.Equal(body, again) {
			t.Errorf("%s: encoded twice, it differs:\n%s\n%s", name, body, again)
		}
	}
}

// The SDK is what readers of our results are likely to use.
func TestResultIsACloudEvent(t *testing.T) {
	t.Parallel()
	for name, r := range results() {
		var e ce.Event
		if err := json.Unmarshal(encode(t, r), &e); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := e.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if e.ID() != r.EventID || e.Source() != "/flow-worker/acme" || e.Subject() != "r-1" ||
			e.Type() != "flowworker.connection."+r.Outcome+".v1" || !e.Time().Equal(r.CompletedAt) || e.DataContentType() != "application/json" {
			t.Errorf("%s: attributes\n%s", name, e)
		}
		if r.Trace.Parent != "" && (e.Extensions()["traceparent"] != r.Trace.Parent || e.Extensions()["tracestate"] != r.Trace.State) {
			t.Errorf("%s: trace lost: %v", name, e.Extensions())
		}
	}
}

// strict compiles a published schema with its formats asserted.
func strict(t testing.TB, outcome string) *jsonschema.Schema {
	t.Helper()
	name := "connection-" + outcome + ".v1.json"
	text, err := os.ReadFile("schema/" + name)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(name, doc); err != nil {
		t.Fatal(err)
	}
	return c.MustCompile(name)
}

func TestResultsFitTheirSchemas(t *testing.T) {
	t.Parallel()
	for name, r := range results() {
		var e struct{ Data any }
		if err := json.Unmarshal(encode(t, r), &e); err != nil {
			t.Fatal(err)
		}
		s := strict(t, r.Outcome)
		if err := s.Validate(e.Data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		documented(t, name, e.Data, s)
		other := map[string]string{"created": "failed", "failed": "created"}[r.Outcome]
		if strict(t, other).Validate(e.Data) == nil {
			t.Errorf("%s: fits the schema of %s too", name, other)
		}
	}
}

// documented fails on fields that the schema does not name: it lets them pass, for it may grow.
func documented(t testing.TB, at string, v any, s *jsonschema.Schema) {
	t.Helper()
	fields, _ := v.(map[string]any)
	for name, value := range fields {
		if s.Properties[name] == nil {
			t.Errorf("%s/%s is not in the schema", at, name)
			continue
		}
		documented(t, at+"/"+name, value, s.Properties[name])
	}
}

func TestSchemaKnowsEveryReason(t *testing.T) {
	t.Parallel()
	var want []any
	for _, r := range provision.Reasons {
		want = append(want, string(r))
	}
	got := strict(t, "failed").Properties["error"].Properties["reason"].Enum.Values
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSchemaFiles(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(os.DirFS("schema"), "*")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"connection-create.v1.json", "connection-created.v1.json", "connection-failed.v1.json"}; !slices.Equal(files, want) {
		t.Errorf("got %v, want %v", files, want)
	}
	closed(t, "data", strict(t, "create"))
}

// closed fails where an object lets unknown fields pass.
func closed(t testing.TB, at string, s *jsonschema.Schema) {
	t.Helper()
	if s.Properties != nil && s.AdditionalProperties != false {
		t.Errorf("%s lets unknown fields pass", at)
	}
	for name, child := range s.Properties {
		closed(t, at+"/"+name, child)
	}
}

func TestResultSubject(t *testing.T) {
	t.Parallel()
	r := results()
	for name, want := range map[string]string{"created": "connections.results.acme.created", "failed": "connections.results.acme.failed"} {
		if got := ResultSubject(r[name]); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := RequestSubject("acme"); got != "connections.requests.acme" {
		t.Error(got)
	}
}

func TestEncodeResultRefuses(t *testing.T) {
	t.Parallel()
	r := results()["created"]
	r.Outcome = "maybe"
	if _, err := EncodeResult(r); err == nil {
		t.Error("an outcome that is none was encoded")
	}
	r = results()["created"]
	r.CompletedAt = time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)
	if _, err := EncodeResult(r); err == nil {
		t.Error("a year of five digits was encoded")
	}
}

func TestDecodeResultRefuses(t *testing.T) {
	t.Parallel()
	good := string(encode(t, results()["failed"]))
	for name, changes := range map[string]map[string]any{
		"request":      {"type": TypeCreate},
		"version":      {"specversion": "2.0"},
		"no id":        {"id": absent{}},
		"other tenant": {"source": "/flow-worker/umbrella"},
		"no data":      {"data": absent{}},
	} {
		if _, err := DecodeResult([]byte(with(t, good, changes))); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
	if _, err := DecodeResult([]byte("nope")); err == nil {
		t.Error("no JSON: decoded")
	}
	if r, err := DecodeResult([]byte(with(t, good, map[string]any{"data.later": 1, "later": "x"}))); err != nil || r.Error == nil {
		t.Errorf("a field of a later version: %v", err)
	}
}

func BenchmarkEncodeResult(b *testing.B) {
	r := results()["created"]
	b.ReportAllocs()
	for b.Loop() {
		encode(b, r)
	}
}
