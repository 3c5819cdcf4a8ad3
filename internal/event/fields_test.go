package event

import (
	"encoding/json"
	"mime"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Every field of Data arrives: one that is new in the type must be read, too.
func TestDecodeDataReadsEveryField(t *testing.T) {
	t.Parallel()
	body := with(t, goodData, map[string]any{"auth.params.catalog": "main", "ifExists": "adopt"})
	got := decode(nil, body).Request.Data
	var want provision.Data
	if err := json.Unmarshal([]byte(body), &want); err != nil {
		t.Fatal(err)
	}
	want.Auth.Params.AccessToken = provision.SecretRef{Path: "databricks/acme", Field: "accessToken"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	everyFieldSet(t, "data", reflect.ValueOf(got))
}

func everyFieldSet(t *testing.T, at string, v reflect.Value) {
	t.Helper()
	for i := range v.NumField() {
		name, field := at+"."+v.Type().Field(i).Name, v.Field(i)
		switch {
		case field.Kind() == reflect.Struct && field.Type() != reflect.TypeFor[provision.SecretRef]():
			everyFieldSet(t, name, field)
		case field.IsZero():
			t.Errorf("%s is not read", name)
		}
	}
}

func TestMediaTypeAgreesWithMime(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", "application/json", " Application/CloudEvents+JSON ; charset=UTF-8", "text/plain;a=b;a=c",
		"text/plain; a", "application/json;", ";", "no type", "a/b/c", "application/json; charset=\"", "\tTEXT/json\t;v=1"} {
		want, _, err := mime.ParseMediaType(value)
		if got := (headers{"content-type": {value}}).mediaType(); err == nil && got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

// BenchmarkDecode reads a request as a portal would send it.
func BenchmarkDecode(b *testing.B) {
	body, headers := []byte(structured(b, goodData, nil)), head(HeaderContentType, ContentType)
	b.ReportAllocs()
	for b.Loop() {
		if d := decoder.Decode("acme", headers, body, meta); d.Invalid != nil {
			b.Fatal(d.Invalid)
		}
	}
}
