package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"mime"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gowebpki/jcs"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// checkFast holds both short cuts against the libraries that they stand for.
func checkFast(t testing.TB, src []byte) (canonical bool) {
	t.Helper()
	n, err := parse(src)
	if err != nil {
		return false
	}
	if err := createSchema().Validate(n.plain()); fits(n, createSchema()) != (err == nil) {
		t.Errorf("%.300s: fits says %v, the validator: %v", src, fits(n, createSchema()), err)
	}
	got, ok := appendCanonical(nil, n)
	if !ok {
		return false
	}
	if want, err := jcs.Transform(src); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%.300s: got %.300s, want %.300s, %v", src, got, want, err)
	}
	return true
}

// The short cut would pass what only a keyword that it doesn't know refuses.
func TestFitsKnowsEveryKeyword(t *testing.T) {
	t.Parallel()
	text, err := fs.ReadFile(Schemas(), "connection-create.v1.json")
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	knownKeywords(t, "", root)
}

func knownKeywords(t *testing.T, at string, s map[string]any) {
	t.Helper()
	known := []string{"$schema", "$id", "title", "description", "default", "format"} // these assert nothing
	switch properties, object := s["properties"].(map[string]any); {
	case object:
		if s["type"] != "object" || s["additionalProperties"] != false {
			t.Errorf("%s: an object that is not closed", at)
		}
		known = append(known, "type", "additionalProperties", "required", "properties")
		for name, below := range properties {
			knownKeywords(t, at+"/"+name, below.(map[string]any))
		}
	case s["enum"] != nil:
		known = append(known, "enum")
		for _, v := range s["enum"].([]any) {
			if _, ok := v.(string); !ok {
				t.Errorf("%s: an enum of more than strings", at)
			}
		}
	case s["type"] == "string":
		known = append(known, "type", "minLength", "maxLength", "pattern")
	default:
		t.Errorf("%s: neither object nor string nor enum", at)
	}
	for keyword := range s {
		if !slices.Contains(known, keyword) {
			t.Errorf("%s: fits does not know %q", at, keyword)
		}
	}
}

func TestFastPathsAgreeWithTheLibraries(t *testing.T) {
	t.Parallel()
	values := []any{absent{}, nil, true, false, 1, 1e30, "", "a", "prod", "A", "create", "vault:a#b", "ä", "\x01", `"\`, " ",
		"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", []any{}, []any{"a"}, map[string]any{}, map[string]any{"a": "b"}}
	for _, n := range []int{64, 65, 255, 256, 257, 261, 262, 512, 513, 1024, 1025} {
		values = append(values, strings.Repeat("a", n), strings.Repeat("ä", n), "vault:"+strings.Repeat("a", n-6))
	}
	paths := []string{"sandbox", "name", "description", "auth", "auth.specName", "auth.params", "auth.params.domain",
		"auth.params.clusterId", "auth.params.accessToken", "auth.params.database", "auth.params.catalog", "connectionSpec",
		"connectionSpec.id", "connectionSpec.version", "ifExists", "oops", "auth.oops", "auth.params.oops", "connectionSpec.oops"}
	for _, path := range paths {
		for _, value := range values {
			checkFast(t, []byte(with(t, goodData, map[string]any{path: value})))
		}
	}
	for _, text := range jsonTexts {
		checkFast(t, []byte(text))
	}
}

func TestCanonicalOfCommonRequests(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		goodData: true,
		` { "b" : "ä€😀" , "a":null, "":{}, "B":true } `: true,
		`{"a":"/"}`:            true,
		`{"a":"\/\u0041"}`:     true,
		`{"a":"\n"}`:           false,
		`{"a":"\""}`:           false,
		`{"a":1}`:              false,
		`{"a":[]}`:             false,
		`{"😀":"","\ufb33":""}`: false, // UTF-16 orders these the other way round
		`{"a":"x","a":"x"}`:    false,
		`{"a":{"\ud800":""}}`:  false,
		`{"\"":""}`:            false,
	} {
		if got := checkFast(t, []byte(text)); got != want {
			t.Errorf("%s: short cut taken: %v, want %v", text, got, want)
		}
	}
}

func FuzzFastPaths(f *testing.F) {
	for _, text := range append(slices.Clone(jsonTexts), goodData, `{"b":"\u20ac","a":"a"}`, `{"a":1,"a":2}`) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, src []byte) { checkFast(t, src) })
}

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

// Above fewNames the names are kept in a set.
func TestNamesGivenTwiceAmongMany(t *testing.T) {
	t.Parallel()
	for _, size := range []int{2, fewNames - 1, fewNames, fewNames + 1, 5 * fewNames} {
		var members []string
		for i := range size {
			members = append(members, fmt.Sprintf(`"n%d":0`, i))
		}
		for i := range size {
			n, err := parse([]byte("{" + strings.Join(append(slices.Clone(members), members[i]), ",") + "}"))
			if err != nil {
				t.Fatal(err)
			}
			for j, m := range n.members {
				if (m.value.flaw != "") != (j == size) {
					t.Errorf("%d names, the one at %d again: member %d has the flaw %q", size, i, j, m.value.flaw)
				}
			}
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
