package importtest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

var (
	binary = flag.String("binary", "", "the built worker that TestBillOfMaterials looks into, instead of the sources")
	sbom   = flag.String("sbom", "", "the file that TestBillOfMaterials writes it to, as CycloneDX JSON")
)

// bill is a bill of materials in the form of CycloneDX 1.6, as far as it is used here.
type bill struct {
	Format     string      `json:"bomFormat"`
	Spec       string      `json:"specVersion"`
	Version    int         `json:"version"`
	Metadata   metadata    `json:"metadata"`
	Components []component `json:"components"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Ref      string    `json:"bom-ref"`
	Type     string    `json:"type"`
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	PURL     string    `json:"purl"`
	Hashes   []hash    `json:"hashes,omitempty"`
	Licences []licence `json:"licenses,omitempty"`
}

type hash struct {
	Alg     string `json:"alg"`
	Content string `json:"content"`
}

type licence struct {
	License struct {
		ID string `json:"id"`
	} `json:"license"`
}

// What is built into a worker is what its sources ask for, all of it named in go.mod, its bytes fixed and
// its licence known. CI hands in the binary and keeps the bill.
func TestBillOfMaterials(t *testing.T) {
	t.Parallel()
	wanted := programModules(t)
	built, program := wanted, component{Version: "(devel)"}
	if *binary != "" {
		built, program = readBinary(t, *binary)
	}
	for _, problem := range compared(built, wanted) {
		t.Error(problem)
	}
	b := billOf(program, built, readReviews(t), t.Error)
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range incomplete(text) {
		t.Error(problem)
	}
	if *sbom != "" && !t.Failed() {
		if err := os.WriteFile(*sbom, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d modules", *sbom, len(b.Components)-1)
	}
}

// readBinary returns the modules that a built worker says it is made of, and the worker itself.
func readBinary(t *testing.T, name string) (mods []builtIn, program component) {
	t.Helper()
	info, err := buildinfo.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range info.Deps {
		m := builtIn{Path: d.Path, Version: d.Version, Sum: d.Sum}
		if d.Replace != nil {
			m.Replace = &builtIn{Path: d.Replace.Path}
		}
		mods = append(mods, m)
	}
	if info.GoVersion != runtime.Version() {
		t.Errorf("%s was built by %s, and this is %s", name, info.GoVersion, runtime.Version())
	}
	program.Version = info.Main.Version
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	program.Hashes = []hash{{"SHA-256", fmt.Sprintf("%x", sum.Sum(nil))}}
	return mods, program
}

// compared returns how what was built differs from what the sources want.
func compared(built, wanted []builtIn) (problems []string) {
	want := map[string]builtIn{}
	for _, m := range wanted {
		want[m.Path] = m
	}
	for _, m := range built {
		w, ok := want[m.Path]
		delete(want, m.Path)
		switch {
		case !ok:
			problems = append(problems, m.Path+": is built in, and the sources do not ask for it")
		case m.Version != w.Version || m.Sum != w.Sum:
			problems = append(problems, fmt.Sprintf("%s: %s %s is built in, go.mod and go.sum want %s %s", m.Path, m.Version, m.Sum, w.Version, w.Sum))
		case m.Replace != nil:
			problems = append(problems, m.Path+": is replaced by another module")
		}
	}
	for path := range want {
		problems = append(problems, path+": the sources ask for it, and it is not built in")
	}
	slices.Sort(problems)
	return problems
}

// billOf makes the bill; what can't be filled in goes to complain. The standard library is a part, too.
func billOf(program component, mods []builtIn, reviews []review, complain func(...any)) bill {
	b := bill{Format: "CycloneDX", Spec: "1.6", Version: 1}
	own := strings.TrimSuffix(module, "/")
	b.Metadata.Component = component{Type: "application", Name: own, Version: program.Version, PURL: "pkg:golang/" + own, Hashes: program.Hashes}
	b.Metadata.Component.Ref = b.Metadata.Component.PURL
	std := component{Type: "library", Name: "std", Version: runtime.Version(), PURL: "pkg:golang/std@" + runtime.Version(), Licences: licensed("BSD-3-Clause")}
	std.Ref = std.PURL
	for _, m := range mods {
		c := component{Type: "library", Name: m.Path, Version: m.Version, PURL: "pkg:golang/" + m.Path + "@" + strings.ReplaceAll(m.Version, "+", "%2B")}
		c.Ref = c.PURL
		digest, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:"))
		if err != nil || len(digest) != sha256.Size {
			complain(fmt.Sprintf("%s: %q is no checksum", m.Path, m.Sum))
		}
		c.Hashes = []hash{{"SHA-256", fmt.Sprintf("%x", digest)}} // of the file list, as go.sum has it
		if i := slices.IndexFunc(reviews, func(r review) bool { return r.module == m.Path }); i >= 0 {
			c.Licences = licensed(reviews[i].licence)
		}
		b.Components = append(b.Components, c)
	}
	b.Components = append(b.Components, std)
	slices.SortFunc(b.Components, func(a, b component) int { return cmp.Compare(a.Ref, b.Ref) })
	return b
}

func licensed(id string) []licence {
	var l licence
	l.License.ID = id
	return []licence{l}
}

// incomplete reads a bill as others will and returns what it lacks.
func incomplete(text []byte) (problems []string) {
	var b bill
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := errors.Join(dec.Decode(&b), onlyCycloneDX(b)); err != nil {
		return []string{err.Error()}
	}
	seen := map[string]bool{}
	for _, c := range b.Components {
		switch {
		case seen[c.Ref]:
			problems = append(problems, c.Ref+": twice")
		case c.Name == "" || c.Version == "" || !strings.HasPrefix(c.PURL, "pkg:golang/"):
			problems = append(problems, c.Ref+": without name, version or purl")
		case len(c.Licences) == 0:
			problems = append(problems, c.Ref+": without licence")
		case c.Name != "std" && (len(c.Hashes) == 0 || c.Hashes[0].Content == ""):
			problems = append(problems, c.Ref+": without digest")
		}
		seen[c.Ref] = true
	}
	return problems
}

func onlyCycloneDX(b bill) error {
	if b.Format != "CycloneDX" || b.Spec != "1.6" || b.Metadata.Component.Name == "" || len(b.Components) == 0 {
		return errors.New("no bill of materials in the form of CycloneDX 1.6")
	}
	return nil
}

func TestBadBillsAreSeen(t *testing.T) {
	t.Parallel()
	sum := "h1:" + base64.StdEncoding.EncodeToString(make([]byte, sha256.Size))
	a, b := builtIn{Path: "a", Version: "v1.0.0", Sum: sum}, builtIn{Path: "b", Version: "v1.0.0", Sum: sum}
	newer, replaced := a, a
	newer.Version, replaced.Replace = "v1.0.1", &builtIn{Path: "c"}
	for want, built := range map[string][]builtIn{
		"":                                     {a, b},
		"b: the sources ask for it":            {a},
		"c: is built in, and the sources do":   {a, b, {Path: "c"}},
		"a: v1.0.1 " + sum + " is built in, g": {newer, b},
		"a: is replaced":                       {replaced, b},
	} {
		got := compared(built, []builtIn{a, b})
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], want)) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	known := []review{{"a", "MIT", ""}, {"b", "MIT", ""}}
	for want, c := range map[string]struct {
		mods    []builtIn
		reviews []review
	}{
		"":                                {[]builtIn{a, b}, known},
		"pkg:golang/a@v1.0.0: twice":      {[]builtIn{a, a}, known},
		"pkg:golang/b@v1.0.0: without li": {[]builtIn{a, b}, known[:1]},
		"pkg:golang/a@: without name":     {[]builtIn{{Path: "a", Sum: sum}}, known},
		`a: "h1:" is no checksum`:         {[]builtIn{{Path: "a", Version: "v1.0.0", Sum: "h1:"}}, known},
	} {
		var got []string
		made := billOf(component{}, c.mods, c.reviews, func(args ...any) { got = append(got, fmt.Sprint(args...)) })
		text, _ := json.Marshal(made)
		got = append(got, incomplete(text)...)
		if want == "" && len(got) > 0 || want != "" && (len(got) == 0 || !strings.HasPrefix(got[0], want)) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := incomplete([]byte(`{"bomFormat":"SPDX"}`)); len(got) != 1 {
		t.Errorf("another format: %q", got)
	}
}
