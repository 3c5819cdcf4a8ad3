package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// checkPlaces fails unless every node's place in src holds just that node's value.
func checkPlaces(t testing.TB, src []byte, n *node) {
	t.Helper()
	if string(src[n.start:n.end]) != n.raw || !json.Valid([]byte(n.raw)) {
		t.Fatalf("place %d to %d of %s holds %q", n.start, n.end, src, n.raw)
	}
	again, err := parse([]byte(n.raw))
	if err != nil || again.kind != n.kind || again.text != n.text {
		t.Fatalf("%q read alone is another value: %v", n.raw, err)
	}
	for _, m := range n.members {
		checkPlaces(t, src, m.value)
	}
	for _, item := range n.items {
		checkPlaces(t, src, item)
	}
}

// plain returns the value as encoding/json does, but with 0 for every number.
func (n *node) plain() any {
	switch n.kind {
	case kindObject:
		m := make(map[string]any, len(n.members))
		for _, each := range n.members {
			m[each.name] = each.value.plain()
		}
		return m
	case kindArray:
		items := make([]any, len(n.items))
		for i, each := range n.items {
			items[i] = each.plain()
		}
		return items
	case kindString:
		return n.text
	case kindNull:
		return nil
	case kindTrue, kindFalse:
		return n.kind == kindTrue
	}
	return float64(0)
}

// withoutNumbers replaces numbers by 0, as node.plain does.
func withoutNumbers(v any) any {
	switch v := v.(type) {
	case float64:
		return float64(0)
	case map[string]any:
		for name, each := range v {
			v[name] = withoutNumbers(each)
		}
	case []any:
		for i, each := range v {
			v[i] = withoutNumbers(each)
		}
	}
	return v
}

// checkPlain fails unless the tree says what encoding/json says.
func checkPlain(t testing.TB, src []byte, n *node) {
	t.Helper()
	var want any
	if err := json.Unmarshal(src, &want); err != nil {
		return // a number that only encoding/json has no room for
	}
	if diff := cmp.Diff(withoutNumbers(want), n.plain()); diff != "" {
		t.Fatalf("%s (-encoding/json +ours):\n%s", src, diff)
	}
}

var jsonTexts = []string{
	`null`, `true`, `false`, `0`, `-1.5e-3`, `""`, `"a\"b\\"`, `"\u00e9\ud83d\ude00"`, `[]`, `{}`, " \t\r\n[ 1 , 2 ] \n",
	`{"a":[{"b":{}},[],"]}",{"c":"\\"}],"":null}`, `{ "a" : "x" , "b":[true,false,null] }`, `[[[[1]]]]`, goodData,
}

func TestParseAgreesWithEncodingJSON(t *testing.T) {
	t.Parallel()
	for _, text := range jsonTexts {
		n, err := parse([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		checkPlaces(t, []byte(text), n)
		checkPlain(t, []byte(text), n)
	}
}

func TestParseFlaws(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"x":"a"}`:                "",
		`{"x":"\ud83d\ude00"}`:     "",
		`{"x":"\\ud800"}`:          "",
		`{"x":"\ud800"}`:           "holds half a surrogate pair",
		`{"x":"\ude00\ud83d"}`:     "holds half a surrogate pair",
		`{"x":1e308}`:              "",
		`{"x":-1e309}`:             "a number outside the range of IEEE 754 doubles",
		`{"x":1,"x":2}`:            "given more than once",
		`{"x":1,"\u0078":2}`:       "given more than once",
		`{"y":{"x":1},"x":2}`:      "",
		`{"x\udfff":1,"x":"\u12"}`: "no JSON",
	} {
		n, err := parse([]byte(text))
		got := "no JSON"
		if err == nil {
			got = n.member("x").flaw
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestParseDepth(t *testing.T) {
	t.Parallel()
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if _, err := parse(nested(maxDepth)); err != nil {
		t.Error(err)
	}
	if _, err := parse(nested(maxDepth + 1)); !errors.Is(err, errTooDeep) {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range jsonTexts {
		f.Add([]byte(text))
	}
	f.Add([]byte("{\"a\":\xff}"))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Add([]byte("1" + strings.Repeat("0", maxNumber)))
	f.Add([]byte("[1" + strings.Repeat(",1", maxValues) + "]"))
	whole := strict(f, "create")
	f.Fuzz(func(t *testing.T, src []byte) {
		n, err := parse(src)
		tooMuch := errors.Is(err, errTooDeep) || errors.Is(err, errTooMany) || errors.Is(err, errLongNumber)
		if err == nil != (json.Valid(src) && utf8.Valid(src)) && !tooMuch {
			t.Fatalf("%q: %v", src, err)
		}
		if err != nil {
			return
		}
		checkPlain(t, src, n)
		checkPlaces(t, src, n)
		checkSchema(t, n, whole)
	})
}

func TestNamesGivenTwiceAmongMany(t *testing.T) {
	t.Parallel()
	for _, size := range []int{2, 15, 80} {
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

// The byte that can't stand where it does is told, counted from one.
func TestSyntaxErrorsTellTheByte(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{bad`:        "byte 2 of 4",
		` {bad`:       "byte 3 of 5",
		`x`:           "byte 1 of 1",
		`[1 2]`:       "byte 4 of 5",
		`{"a":1,}`:    "byte 8 of 8",
		`{} x`:        "byte 4 of 4",
		`{"a":`:       "byte 5 of 5", // it ends too early
		"{\"é\": bad": "byte 8 of 10",
	} {
		if _, err := parse([]byte(text)); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// checkSchema fails unless our reading of the schema says the same of a value as a whole validator does.
func checkSchema(t testing.TB, n *node, whole *jsonschema.Schema) {
	t.Helper()
	err := whole.Validate(n.plain())
	if ours := fits(n, createSchema()); ours != (err == nil) {
		t.Fatalf("%s: fits = %v, the validator says %v", n.raw, ours, err)
	}
}

func fits(n *node, s *schema) bool {
	var bad violations
	dataCheck{bad: &bad}.schema(n, s)
	if n.kind == kindObject {
		for name, below := range s.Properties {
			if value := n.member(name); value != nil && !fits(value, below) {
				return false
			}
		}
	}
	return len(bad) == 0
}

func TestSchemaIsReadAsAValidatorReadsIt(t *testing.T) {
	t.Parallel()
	whole := strict(t, "create")
	texts := append(printedTexts(t), jsonTexts...)
	for _, path := range append(knownFields, "auth", "auth.params", "connectionSpec", "auth.params.accessToken", "more", "auth.more", "auth.params.more", "connectionSpec.more") {
		for _, value := range []any{absent{}, nil, true, 0, 1.5, "", "a", "Prod", "vault:a", "adopt", "a\n", "日本", goodData, []any{}, []any{"a"}, map[string]any{}, map[string]any{"id": "a"},
			"E9D7EC6B-0873-4E57-AD21-B3A7C65E310B"} {
			texts = append(texts, with(t, goodData, map[string]any{path: value}))
		}
	}
	for _, text := range texts {
		if n, err := parse([]byte(text)); err == nil {
			checkSchema(t, n, whole)
		}
	}
}
