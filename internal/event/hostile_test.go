package event

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// hostile are bodies just under the size limit, each made to cost as much as it can.
func hostile(t testing.TB) map[string]string {
	t.Helper()
	fill := func(before, after string, each func(i int) string) string {
		var b strings.Builder
		b.WriteString(before)
		for i := 0; b.Len() < DefaultMaxBytes-64-len(after); i++ {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(each(i))
		}
		return b.String() + after
	}
	field := func(i int) string { return fmt.Sprintf(`"%x":1`, i) }
	const event = `{"specversion":"1.0","id":"r-1","source":"/portal","type":"` + TypeCreate + `",`
	data := strings.TrimSuffix(goodData, "}") + ","
	params, rest, _ := strings.Cut(goodData, `"domain"`)
	rest = `,"domain"` + rest
	return map[string]string{
		"unknown fields":       fill(data, "}", field),
		"numbers":              fill(data+`"x":[`, "]}", func(int) string { return "1" }),
		"exponents":            fill(data+`"x":[`, "]}", func(int) string { return "1e9" }),
		"unknown attributes":   fill(event+`"data":`+goodData+",", "}", field),
		"fields in an event":   fill(event+`"data":`+data, "}}", field),
		"empty params":         fill(params, rest, func(int) string { return `"":""` }),
		"empty strings":        fill(params+`"x":[`, "]"+rest, func(int) string { return `""` }),
		"references":           fill(data+`"x":[`, "]}", func(int) string { return `"vault:"` }),
		"nested":               fill(data+`"x":[`, "]}", func(int) string { return `{"a":{}}` }),
		"one long string":      with(t, goodData, map[string]any{"name": strings.Repeat("a\n", 85_000)}),
		"signs of tokens":      with(t, goodData, map[string]any{"name": strings.Repeat("dapi0 eyJ1 ://x:bearer hvs.basic 0Q~p8e-_-----BEGIN ", 4_800)}),
		"one long name":        with(t, goodData, map[string]any{strings.Repeat("é", 120_000): 1}),
		"one long number":      data + `"x":` + strings.Repeat("9", 250_000) + "}",
		"one long domain":      with(t, goodData, map[string]any{"auth.params.domain": "https://" + strings.Repeat("a.", 125_000) + "azuredatabricks.net"}),
		"one escaped string":   with(t, goodData, map[string]any{"name": strings.Repeat("\x01", 42_000)}),
		"deep":                 strings.Repeat("[", 9_000) + strings.Repeat(" ", 200_000) + strings.Repeat("]", 9_000),
		"blanks":               data + strings.Repeat(" ", 255_000) + `"x":1}`,
		"one long bad literal": strings.Repeat("[", 250_000),
	}
}

// What is too much to read is told in one violation, by the request's own name where its event has one
// that can be read, and only its digest is kept.
func TestHostileBodiesAreNotRead(t *testing.T) {
	t.Parallel()
	const many, long = "made of more than 512 values", "made with a number of more than 64 bytes"
	bodies := hostile(t)
	for name, want := range map[string]string{"unknown fields": many, "numbers": many, "exponents": many, "unknown attributes": many,
		"fields in an event": many, "empty params": many, "empty strings": many, "references": many, "nested": many,
		"one long number": long, "deep": "nested deeper than 64 levels"} {
		d := decode(nil, bodies[name])
		wantInvalid(t, d, provision.ReasonInvalidRequest, "body: "+want)
		if strings.Contains(d.Invalid.Message, ";") {
			t.Errorf("%s: more than one violation: %s", name, d.Invalid.Message)
		}
		if named := d.Request.Key.ID == "r-1"; named != (name == "fields in an event") {
			t.Errorf("%s: named %q", name, d.Request.Key.ID)
		}
		got := decoder.DeadLetter(letter(nil, bodies[name]))
		if string(got.Body) != string(digestOf([]byte(bodies[name]))) || got.Headers[HeaderRedacted] == nil {
			t.Errorf("%s: kept: %.200s %v", name, got.Body, got.Headers)
		}
	}
}

func TestHostileBodiesDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for name, body := range hostile(t) {
		print := decode(nil, body).Request.Fingerprint
		if seen[print] != "" {
			t.Errorf("%s: the fingerprint of %s", name, seen[print])
		}
		seen[print] = name
	}
	event := hostile(t)["fields in an event"]
	again := strings.Replace(event, `"source"`, ` "source"`, 1)
	if decode(nil, event).Request.Fingerprint != decode(nil, again).Request.Fingerprint {
		t.Error("a blank outside the data makes another request of it")
	}
}

// The limit is of what is read, not of what an event may have: many extensions are fine.
func TestManyExtensionsAreFine(t *testing.T) {
	t.Parallel()
	changes, headers := map[string]any{}, binary(nil)
	for i := range maxAttributes - len(headers) {
		changes[fmt.Sprintf("x%d", i)] = "v"
		headers[fmt.Sprintf("ce-x%d", i)] = []string{"v"}
	}
	wantValid(t, decode(nil, structured(t, goodData, changes)))
	wantValid(t, decode(headers, goodData))
}

func TestTopLevelPassesOverNestedText(t *testing.T) {
	t.Parallel()
	root, err := parseTop([]byte(` {"a" : {"x]}":["\"}]",{"y":"{"}]} , "id":"r-1","b":[[]],"c":{}} `))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, each := range root.members {
		got = append(got, each.name, each.value.raw)
	}
	want := []string{"a", `{"x]}":["\"}]",{"y":"{"}]}`, "id", `"r-1"`, "b", "[[]]", "c", "{}"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, src := range []string{"", "{", "\"\xff\"", "[" + strings.Repeat("1,", maxValues) + "1]"} {
		if _, err := parseTop([]byte(src)); err == nil {
			t.Errorf("%.10q was read", src)
		}
	}
}

func TestTooManyAttributeHeaders(t *testing.T) {
	t.Parallel()
	headers := manyAttributes()
	d := decode(headers, goodData)
	wantInvalid(t, d, provision.ReasonInvalidRequest, "headers: more than 256 attributes")
	if d.Request.Key.ID != "r-1" {
		t.Errorf("named %q", d.Request.Key.ID)
	}
	got := decoder.DeadLetter(letter(headers, goodData)).Headers
	if len(got) > 20 || got["ce-id"] == nil || got[HeaderRedacted] == nil {
		t.Errorf("%d headers are kept", len(got))
	}
}

// manyAttributes are headers of as many unknown attributes as a broker lets through.
func manyAttributes() map[string][]string {
	out := binary(nil)
	for i := range 26_000 {
		out[fmt.Sprintf("ce-%d", i)] = []string{"x"}
	}
	return out
}

func BenchmarkHostile(b *testing.B) {
	for name, body := range hostile(b) {
		if len(body) > DefaultMaxBytes {
			b.Fatalf("%s: %d bytes", name, len(body))
		}
		b.Run("decode/"+name, func(b *testing.B) { benchDecode(b, nil, body) })
		b.Run("letter/"+name, func(b *testing.B) { benchLetter(b, nil, body) })
	}
	b.Run("decode/headers", func(b *testing.B) { benchDecode(b, manyAttributes(), goodData) })
	b.Run("letter/headers", func(b *testing.B) { benchLetter(b, manyAttributes(), goodData) })
}

func benchDecode(b *testing.B, headers map[string][]string, body string) {
	for b.Loop() {
		if decode(headers, body).Invalid == nil {
			b.Fatal("valid")
		}
	}
}

func benchLetter(b *testing.B, headers map[string][]string, body string) {
	for b.Loop() {
		if decoder.DeadLetter(letter(headers, body)).Body == nil {
			b.Fatal("no body")
		}
	}
}
