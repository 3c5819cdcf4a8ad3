package event

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// A dead letter that lost nothing goes back with its identity in ce- headers and a fresh message id,
// and must be the very same request: another fingerprint would make it id_reused.
func TestDeadLetterComesBackAsTheSameRequest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		headers map[string][]string
		body    string
	}{
		"bare, named by message id": {head("Nats-Msg-Id", "50% ü"), goodData},
		"bare, named by its place":  {nil, goodData},
		"binary":                    {binary(map[string]string{"ce-id": "a%20b", "ce-expirytime": "2026-11-23T00:00:00Z"}), goodData},
		"structured":                {head("Content-Type", ContentType), structured(t, goodData, map[string]any{"id": " é/% "})},
		"structured by its body":    {nil, structured(t, goodData, nil)},
	} {
		first := decode(c.headers, c.body)
		wantValid(t, first)
		l := letter(c.headers, c.body)
		l.Key = first.Request.Key
		dead := decoder.DeadLetter(l)
		key, err := provision.ParseKey(dead.Headers[HeaderRequestKey][0])
		if err != nil {
			t.Fatal(err)
		}
		back := maps.Clone(dead.Headers)
		back["ce-id"], back["ce-source"] = []string{EncodeHeader(key.ID)}, []string{EncodeHeader(key.Source)}
		back[HeaderRetry], back[HeaderMsgID] = []string{"1"}, []string{"fresh"}
		again := decode(back, string(dead.Body))
		want := first
		want.Request.Retry = 1
		if diff := cmp.Diff(want, again); diff != "" {
			t.Errorf("%s (-first +again):\n%s", name, diff)
		}
	}
}

// What the CloudEvents SDK writes is what our users send.
func TestDecodeReadsTheSDK(t *testing.T) {
	t.Parallel()
	e := ce.New()
	e.SetID("r-1")
	e.SetSource("/portal")
	e.SetType(TypeCreate)
	e.SetTime(entered)
	e.SetExtension("partitionkey", "p")
	e.SetExtension("sequence", 3)
	if err := e.SetData(ce.ApplicationJSON, json.RawMessage(goodData)); err != nil {
		t.Fatal(err)
	}
	plain, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	e.DataBase64 = true
	encoded, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	want := decode(binary(nil), goodData)
	wantValid(t, want)
	for _, body := range []string{string(plain), string(encoded)} {
		got := decode(head("Content-Type", ContentType), body)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", body, diff)
		}
	}
	if !strings.Contains(string(encoded), "data_base64") {
		t.Error("the SDK wrote no base64")
	}
}

// The published schema must not promise what the code refuses for its shape, nor the other way
// round: whoever validates with it wants to know beforehand.
func TestSchemaAndCodeAgree(t *testing.T) {
	t.Parallel()
	schema := strict(t, "create")
	for path, values := range map[string][]any{
		"sandbox":                 {"prod", "", "Prod", 1, nil, absent{}, strings.Repeat("a", 256), strings.Repeat("a", 257)},
		"name":                    {"a", "", 1, absent{}, strings.Repeat("a", 255), strings.Repeat("a", 256)},
		"description":             {"", nil, absent{}, strings.Repeat("a", 512), strings.Repeat("a", 513)},
		"auth":                    {absent{}, "", []any{}, map[string]any{}},
		"auth.specName":           {"x", "", absent{}, strings.Repeat("a", 256), strings.Repeat("a", 257)},
		"auth.params.accessToken": {"vault:a#b", "x", 1, absent{}, nil},
		"auth.params.database":    {"x", "", 1, absent{}},
		"auth.params.catalog":     {"x", "", 1, absent{}},
		"auth.params.oops":        {1},
		"connectionSpec":          {absent{}, map[string]any{"id": "x", "version": "1.0"}},
		"connectionSpec.id":       {"E9D7EC6B-0873-4E57-AD21-B3A7C65E310B", "e9d7ec6b08734e57ad21b3a7c65e310b", "", absent{}},
		"connectionSpec.version":  {"1.0", "", 1, absent{}, strings.Repeat("1", 65)},
		"ifExists":                {"create", "adopt", "reject", "", nil, 1, absent{}},
		"oops":                    {1},
	} {
		for _, value := range values {
			body := with(t, goodData, map[string]any{path: value})
			var doc any
			if err := json.Unmarshal([]byte(body), &doc); err != nil {
				t.Fatal(err)
			}
			bySchema, byCode := schema.Validate(doc), decode(nil, body).Invalid
			if (bySchema == nil) != (byCode == nil) {
				t.Errorf("%s = %.40v: the schema says %v, the code %v", path, value, bySchema, byCode)
			}
		}
	}
}

func TestHeadersAreReadWithoutCase(t *testing.T) {
	t.Parallel()
	h := fold(head("nats-MSG-id", "a", "CONTENT-type", " Application/CloudEvents+JSON ; charset=UTF-8"))
	if v, ok, err := h.get(HeaderMsgID); v != "a" || !ok || err != nil {
		t.Errorf("got %q %v %v", v, ok, err)
	}
	if got := h.mediaType(); got != ContentType {
		t.Errorf("media type %q", got)
	}
	if _, ok, err := h.get("none"); ok || err != nil {
		t.Errorf("got %v %v", ok, err)
	}
	for in, want := range map[string]string{"": "", "application/json;;;": "application/json", "garbage": "garbage", "a b; c": "a b"} {
		if got := fold(head("Content-Type", in)).mediaType(); got != want {
			t.Errorf("%q: media type %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]bool{"application/json": true, "text/json": true, "application/x+json": true, "text/plain": false, "json": false} {
		if jsonMedia(in) != want {
			t.Errorf("%q is JSON: %v", in, !want)
		}
	}
}
