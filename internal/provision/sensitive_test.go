package provision

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"expvar"
	"fmt"
	htmltemplate "html/template"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"text/template"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"
)

const sensitiveText = "dapiQ7zR-wX91/kLm+ü\"<T>"

// window is how many bytes of the secret in a row are a leak.
const window = 5

// checkSilent fails if out tells a part of the secret.
func checkSilent(t *testing.T, what, out string) {
	t.Helper()
	if said := told(out); said != "" {
		t.Errorf("%s tells %q of the secret: %s", what, said, out)
	}
}

// told returns a part of the secret that is in out, perhaps in some encoding, or nothing.
func told(out string) string {
	for _, each := range parts() {
		if strings.Contains(out, each) {
			return each
		}
	}
	return ""
}

// parts are what any part of the secret looks like where it leaks.
var parts = sync.OnceValue(func() (all []string) {
	for i := range len(sensitiveText) - window + 1 {
		part := sensitiveText[i : i+window]
		ascii, html, hexed := fmt.Sprintf("%+q", part), htmltemplate.HTMLEscapeString(part), hex.EncodeToString([]byte(part))
		all = append(all, part, ascii[1:len(ascii)-1], html, hexed, strings.ToUpper(hexed), fmt.Sprintf("% x", part), fmt.Sprintf("% #x", part),
			strings.Trim(fmt.Sprint([]byte(part)), "[]"), strings.Trim(fmt.Sprint([]rune(part)), "[]"))
	}
	for i := range 3 { // base64 depends on where the text begins
		all = append(all, base64.StdEncoding.EncodeToString([]byte(sensitiveText[i:]))[:8], base64.URLEncoding.EncodeToString([]byte(sensitiveText[i:]))[:8])
	}
	return all
})

type shown struct{ Token Sensitive }

type hidden struct{ token Sensitive }

type embedded struct{ Sensitive }

type deep struct {
	p    *hidden
	any  any
	list []Sensitive
	m    map[string]*Sensitive
	arr  [1]hidden
	f    func() Sensitive
}

// shapes are values that hold the secret in all ways that printers treat differently.
func shapes() map[string]any {
	s := NewSensitive(sensitiveText)
	c := hidden{s}
	wrong := strings.Clone("x") // go vet would refuse a constant
	return map[string]any{
		"value": s, "pointer": &s, "pointer to pointer": ref(&s), "exported": shown{s}, "unexported": c, "pointer to unexported": &c,
		"embedded": embedded{s}, "unexported embedded": struct{ embedded }{embedded{s}},
		"slice": []Sensitive{s}, "array": [2]Sensitive{s, s}, "any": []any{s, c}, "map": map[string]Sensitive{"k": s},
		"map of unexported": map[string]hidden{"k": c},
		"deep":              deep{&c, c, []Sensitive{s}, map[string]*Sensitive{"k": &s}, [1]hidden{c}, func() Sensitive { return s }},
		"error":             fmt.Errorf("refused: %v", s), "error of any": fmt.Errorf("refused: %w, %+v", errors.New("x"), c),
		"bad verb": fmt.Sprintf(wrong+"%!", s), "extra": fmt.Sprintf(wrong, s), "method": s.Reveal, "real": Secret{Value: s},
		"credentials": Credentials{ClientSecret: s, AccessToken: s}, "connection": &NewConnection{AccessToken: s},
	}
}

func ref[T any](v T) *T { return &v }

func TestSensitiveIsNotFormatted(t *testing.T) {
	t.Parallel()
	for name, v := range shapes() {
		for verb := rune('%'); verb <= 'z'; verb++ {
			for _, flags := range []string{"", "+", "#", " ", "0", "-", "+#", "# ", "12", ".3", "*", "[5]", "[2]*[1]"} {
				format := "%" + flags + string(verb)
				checkSilent(t, name+" by "+format, fmt.Sprintf(format, v))
			}
		}
		checkSilent(t, name, fmt.Sprint(v)+fmt.Sprintln(v, v)+string(fmt.Append(nil, v)))
	}
	s := NewSensitive(sensitiveText)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		if got := fmt.Sprintf(verb, s); got != Redacted {
			t.Errorf("%s prints %q", verb, got)
		}
	}
	if got := fmt.Sprintf("%+v", shown{}); got != "{Token:"+Redacted+"}" {
		t.Errorf("the empty text prints as %s, which tells that it is empty", got)
	}
}

func TestSensitiveIsNotEncoded(t *testing.T) {
	t.Parallel()
	for name, v := range shapes() {
		for encoder := range encoders {
			out, err := encodeBy(encoder, v)
			checkSilent(t, name+" by "+encoder, out)
			if err != nil {
				checkSilent(t, "the error for "+name+" of "+encoder, err.Error())
			}
		}
	}
	want := map[string]string{"json": `{"Token":"[redacted]"}`, "xml": "<shown><Token>[redacted]</Token></shown>", "yaml": "token: '[redacted]'\n"}
	for encoder, want := range want {
		if got, err := encodeBy(encoder, shown{NewSensitive(sensitiveText)}); err != nil || got != want {
			t.Errorf("%s: got %s, %v", encoder, got, err)
		}
	}
	if got, err := encodeBy("gob", shown{NewSensitive(sensitiveText)}); err == nil {
		t.Errorf("gob takes it: %q", got)
	}
	attr, err := xml.Marshal(struct {
		XMLName struct{}  `xml:"x"`
		Token   Sensitive `xml:"token,attr"`
	}{Token: NewSensitive(sensitiveText)})
	if err != nil || string(attr) != `<x token="[redacted]"></x>` {
		t.Errorf("as an attribute: %s, %v", attr, err)
	}
	js, err := json.Marshal(struct {
		Token Sensitive `json:",omitzero"`
	}{})
	if err != nil || string(js) != "{}" {
		t.Errorf("omitzero: %s, %v", js, err)
	}
}

var encoders = map[string]func(any) (string, error){
	"json": func(v any) (string, error) { out, err := json.Marshal(v); return string(out), err },
	"xml":  func(v any) (string, error) { out, err := xml.Marshal(v); return string(out), err },
	"yaml": func(v any) (string, error) { out, err := yaml.Marshal(v); return string(out), err },
	"gob": func(v any) (string, error) {
		var b bytes.Buffer
		err := gob.NewEncoder(&b).Encode(v)
		return b.String(), err
	},
	"slog json": func(v any) (string, error) {
		return logged(v, func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) }), nil
	},
	"slog text": func(v any) (string, error) {
		return logged(v, func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) }), nil
	},
	"log": func(v any) (string, error) {
		var b bytes.Buffer
		log.New(&b, "", 0).Println(v)
		return b.String(), nil
	},
	"expvar": func(v any) (string, error) { return expvar.Func(func() any { return v }).String(), nil },
	"template": func(v any) (string, error) {
		var b bytes.Buffer
		err := template.Must(template.New("x").Parse(`{{.}} {{printf "%v %p %#v" . . .}} {{html .}} {{js .}} {{urlquery .}}`)).Execute(&b, v)
		return b.String(), err
	},
	"html template": func(v any) (string, error) {
		var b bytes.Buffer
		err := htmltemplate.Must(htmltemplate.New("x").Parse(`<a href="{{.}}" title="{{.}}">{{.}}</a><script>var x = {{.}};</script>`)).Execute(&b, v)
		return b.String(), err
	},
	"go-cmp": func(v any) (string, error) {
		return cmp.Diff(v, nil) + cmp.Diff(nil, []any{v}), nil
	},
	"go-cmp into unexported fields": func(v any) (string, error) {
		into := cmp.Exporter(func(reflect.Type) bool { return true })
		return cmp.Diff(v, nil, into) + cmp.Diff([]any{v}, []any{deep{}}, into), nil
	},
	"reflection": func(v any) (string, error) {
		var b strings.Builder
		dump(&b, reflect.ValueOf(&v).Elem(), 0)
		return b.String(), nil
	},
}

// encodeBy also takes the panics of encoders, as of some over functions or unexported fields, for errors.
func encodeBy(encoder string, v any) (out string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v %+v", p, p)
		}
	}()
	return encoders[encoder](v)
}

func logged(v any, handler func(*bytes.Buffer) slog.Handler) string {
	var b bytes.Buffer
	l := slog.New(handler(&b)).With("with", v).WithGroup("g")
	l.LogAttrs(context.Background(), slog.LevelInfo, "x", slog.Any("v", v), slog.Group("h", slog.Any("v", v)), slog.Any("list", []any{v}))
	return b.String()
}

// dump writes all that can be reached from v by reflection, unexported fields and pointers included,
// as spew does, and the words that it is made of.
func dump(b *strings.Builder, v reflect.Value, depth int) {
	if !v.IsValid() || depth > 12 {
		return
	}
	if v.CanAddr() {
		v = reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem() // past "unexported"
		fmt.Fprintf(b, "%q ", unsafe.Slice((*byte)(unsafe.Pointer(v.UnsafeAddr())), v.Type().Size()))
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		dump(b, v.Elem(), depth+1)
	case reflect.Struct:
		for i := range v.NumField() {
			dump(b, v.Field(i), depth+1)
		}
	case reflect.Slice, reflect.Array:
		if bytes, ok := reflect.TypeAssert[[]byte](v); ok {
			fmt.Fprintf(b, "%q ", bytes)
		}
		for i := range v.Len() {
			dump(b, v.Index(i), depth+1)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			dump(b, k, depth+1)
			dump(b, v.MapIndex(k), depth+1)
		}
	case reflect.String:
		fmt.Fprintf(b, "%q ", v.String())
	default:
		fmt.Fprintf(b, "%s %#v ", v.Type(), v)
	}
}

// TestDumpSees keeps the dump and the search true: they find the text in what a Sensitive is not.
func TestDumpSees(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]any{"string": sensitiveText, "unexported": struct{ s string }{sensitiveText},
		"pointer": struct{ s *string }{ref(sensitiveText)}, "bytes": []byte(sensitiveText), "any": []any{map[string]any{"x": ref(sensitiveText)}}} {
		var b strings.Builder
		dump(&b, reflect.ValueOf(&v).Elem(), 0)
		if told(b.String()) == "" {
			t.Errorf("%s: not seen in %s", name, b.String())
		}
	}
}

func TestSensitiveIsNotDecoded(t *testing.T) {
	t.Parallel()
	for _, value := range []string{`"` + sensitiveText[:12] + `"`, "1234567890", "true", `["dapiQ7zR-wX91"]`, `{"reveal":"dapiQ7zR-wX91"}`} {
		for name, decode := range map[string]func([]byte, any) error{"json": json.Unmarshal, "yaml": yaml.Unmarshal} {
			var into shown
			err := decode([]byte(`{"Token": `+value+`, "token": `+value+`}`), &into)
			if err == nil && value[0] != '{' { // YAML passes over what it finds no fields for
				t.Errorf("%s takes %s", name, value)
			}
			checkSilent(t, name, fmt.Sprint(err))
			if !into.Token.IsZero() {
				t.Errorf("%s made a secret of %s", name, value)
			}
		}
	}
}

func TestSensitiveIsNotCompared(t *testing.T) {
	t.Parallel()
	for _, typ := range []reflect.Type{reflect.TypeFor[Sensitive](), reflect.TypeFor[Secret](), reflect.TypeFor[Credentials](),
		reflect.TypeFor[Account](), reflect.TypeFor[NewConnection]()} {
		if typ.Comparable() {
			t.Errorf("%s compares with ==", typ)
		}
		for _, other := range []reflect.Type{reflect.TypeFor[string](), reflect.TypeFor[[]byte](), reflect.TypeFor[[]rune]()} {
			if typ.ConvertibleTo(other) || other.ConvertibleTo(typ) {
				t.Errorf("%s converts from or to %s", typ, other)
			}
		}
	}
	a, b := NewSensitive(sensitiveText), NewSensitive(sensitiveText)
	if reflect.DeepEqual(a, b) {
		t.Error("DeepEqual compares the texts")
	}
	defer func() {
		p := recover()
		if p == nil {
			t.Error("any(a) == any(b) compares something")
		}
		checkSilent(t, "the panic", fmt.Sprintf("%v %+v", p, p))
	}()
	_ = any(a) == any(b)
}

func TestSensitiveEqual(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"", "", true}, {"a", "a", true}, {"", "a", false}, {"a", "", false}, {"a", "b", false}, {"a", "ab", false},
		{sensitiveText, strings.Clone(sensitiveText), true}, {sensitiveText, sensitiveText[1:], false}, {"\x00", "", false},
	} {
		a, b := NewSensitive(c.a), NewSensitive(c.b)
		if a.Equal(b) != c.same || cmp.Equal(shown{a}, shown{b}) != c.same {
			t.Errorf("%q and %q: equal is %v", c.a, c.b, !c.same)
		}
		if a.Reveal() != c.a || a.IsZero() != (c.a == "") {
			t.Errorf("%q: revealed %q, zero %v", c.a, a.Reveal(), a.IsZero())
		}
	}
	var zero Sensitive
	if zero.Reveal() != "" || !zero.IsZero() || !zero.Equal(NewSensitive("")) {
		t.Error("the zero value is not the empty text")
	}
}

// handed takes the secret in the ways that a trace shows arguments.
//
//go:noinline
func handed(s Sensitive, c hidden, p *Sensitive, v any, end func()) int {
	end()
	return len(s.Reveal()) + len(c.token.Reveal()) + len(p.Reveal()) + len(fmt.Sprint(v))
}

func TestTracesTellNoSecret(t *testing.T) {
	t.Parallel()
	s := NewSensitive(sensitiveText)
	handed(s, hidden{s}, &s, s, func() {
		all := make([]byte, 1<<20)
		all = all[:runtime.Stack(all, true)]
		checkSilent(t, "the stacks", string(all)+string(debug.Stack()))
		for _, profile := range []string{"goroutine", "heap", "allocs"} {
			for _, level := range []int{1, 2} {
				var b bytes.Buffer
				if err := pprof.Lookup(profile).WriteTo(&b, level); err != nil {
					t.Fatal(err)
				}
				checkSilent(t, profile, b.String())
			}
		}
	})
}

// TestPanicsTellNoSecret has a process of its own die of a panic, with everything that one holds.
func TestPanicsTellNoSecret(t *testing.T) {
	t.Parallel()
	const which = "PANIC_WITH"
	if name := os.Getenv(which); name != "" {
		s := NewSensitive(sensitiveText)
		debug.SetTraceback("system")
		handed(s, hidden{s}, &s, s, func() { panic(shapes()[name]) })
	}
	for name := range shapes() {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPanicsTellNoSecret$")
		cmd.Env = append(os.Environ(), which+"="+name)
		out, err := cmd.CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte("panic: ")) || !bytes.Contains(out, []byte("handed(")) {
			t.Errorf("%s: no panic: %v, %s", name, err, out)
		}
		checkSilent(t, "the panic with "+name, string(out))
	}
}
