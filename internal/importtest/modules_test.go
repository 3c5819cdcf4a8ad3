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
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// builtIn is a module that is part of the program.
type builtIn struct {
	Path, Version string
	Sum           string // as in go.sum
	Dir           string // where its sources are on this machine
	Main          bool
	Replace       *builtIn
}

// goJSON runs the go command and reads the JSON values that it prints.
func goJSON[T any](t *testing.T, args ...string) (out []T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0") // as the image is built: other systems need other modules
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %v: %v\n%s", args, err, stderr.Bytes())
	}
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var v T
		if err := dec.Decode(&v); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
}

// programModules returns the modules that the worker is built of, without itself, sorted by path.
func programModules(t *testing.T) (mods []builtIn) {
	t.Helper()
	watchTree(t)
	for _, file := range []string{"../../go.mod", "../../go.sum"} {
		if _, err := os.Stat(file); err != nil { // also for go test's cache
			t.Fatal(err)
		}
	}
	type pkg struct{ Module *builtIn }
	seen := map[string]bool{}
	for _, p := range goJSON[pkg](t, "list", "-deps", "-json=Module", "./cmd/worker") {
		if m := p.Module; m != nil && !m.Main && !seen[m.Path] {
			seen[m.Path] = true
			mods = append(mods, *m)
		}
	}
	slices.SortFunc(mods, func(a, b builtIn) int { return strings.Compare(a.Path, b.Path) })
	if len(mods) < 10 {
		t.Fatalf("only %d modules", len(mods))
	}
	return mods
}

// signs are words by which a licence's text is known.
var signs = map[string]string{ // :: SPDX id that may be built in → part of its text, blanks made one
	"Apache-2.0":   "Apache License Version 2.0",
	"MIT":          "Permission is hereby granted, free of charge, to any person obtaining a copy",
	"BSD-2-Clause": "Redistribution and use in source and binary forms",
	"BSD-3-Clause": "Neither the name of",
	"MPL-2.0":      "Mozilla Public License",
}

// review is one line of .ci/licences.
type review struct{ module, licence, digest string }

func readReviews(t *testing.T) []review {
	t.Helper()
	text, err := os.ReadFile("../../.ci/licences")
	if err != nil {
		t.Fatal(err)
	}
	var out []review
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		switch f := strings.Fields(line); len(f) {
		case 0:
		case 3:
			out = append(out, review{f[0], f[1], f[2]})
		default:
			t.Errorf("%q: want module, licence and digest", line)
		}
	}
	return out
}

// licenceText returns the licence file in a module's folder.
func licenceText(dir string) ([]byte, error) {
	for _, name := range []string{"LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			return text, nil
		}
	}
	return nil, errors.New("it has no licence file")
}

// Nobody ships a module whose licence nobody has read, or whose licence has changed since.
func TestLicencesAreReviewed(t *testing.T) {
	t.Parallel()
	mods, reviews := programModules(t), readReviews(t)
	for _, m := range mods {
		text, err := licenceText(m.Dir)
		if err != nil {
			t.Errorf("%s: %v", m.Path, err)
		} else if problem := reviewed(m.Path, text, reviews); problem != "" {
			t.Error(problem)
		}
	}
	for _, r := range reviews {
		if !slices.ContainsFunc(mods, func(m builtIn) bool { return m.Path == r.module }) {
			t.Errorf(".ci/licences: %s is not built in any more; take it out", r.module)
		}
	}
}

// reviewed returns what is wrong with a module's licence, or nothing.
func reviewed(module string, text []byte, reviews []review) string {
	digest := fmt.Sprintf("%x", sha256.Sum256(text))
	i := slices.IndexFunc(reviews, func(r review) bool { return r.module == module })
	if i < 0 {
		return fmt.Sprintf("%s: its licence is not in .ci/licences; read it, then add: %s <SPDX id> %s", module, module, digest)
	}
	r := reviews[i]
	sign, may := signs[r.licence]
	switch {
	case !may:
		return fmt.Sprintf("%s: %s is none of the licences that may be built in", module, r.licence)
	case r.digest != digest:
		return fmt.Sprintf("%s: its licence file is another than was reviewed; read it, then write down %s", module, digest)
	case !strings.Contains(strings.Join(strings.Fields(string(text)), " "), sign):
		return fmt.Sprintf("%s: its licence does not read like %s", module, r.licence)
	}
	return ""
}

func TestUnreviewedLicencesAreSeen(t *testing.T) {
	t.Parallel()
	const text = "Permission is hereby granted, free of charge,\n  to any person obtaining a copy"
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	for want, reviews := range map[string][]review{
		"":                      {{"other", "MIT", "x"}, {"m", "MIT", digest}},
		"not in .ci/licences":   {{"other", "MIT", digest}},
		"none of the licences":  {{"m", "AGPL-3.0", digest}},
		"another than was":      {{"m", "MIT", "x"}},
		"not read like Apache-": {{"m", "Apache-2.0", digest}},
	} {
		got := reviewed("m", []byte(text), reviews)
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// directModules returns what go.mod requires for its own sake.
func directModules(t *testing.T) (direct []string) {
	t.Helper()
	type goMod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
		Replace []any
	}
	file := goJSON[goMod](t, "mod", "edit", "-json")[0]
	for _, r := range file.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	if len(file.Replace) > 0 {
		t.Error("go.mod replaces modules; what is named in it should be what is built in")
	}
	return direct
}

// The README says of each module that go.mod names what it is for, and names no other.
func TestReadmeSaysWhatModulesAreFor(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range explained(string(text), directModules(t)) {
		t.Error(problem)
	}
}

// explained returns what is wrong with the table of modules in a README.
func explained(readme string, direct []string) (problems []string) {
	_, table, _ := strings.Cut(readme, "| module | for |")
	table, _, _ = strings.Cut(table, "\n\n")
	said := map[string]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for i, module := range strings.Split(cells[1], "`") {
			if i%2 == 1 {
				said[module] = strings.TrimSpace(cells[2])
			}
		}
	}
	for _, module := range direct {
		if said[module] == "" {
			problems = append(problems, module+": go.mod requires it, and the README does not say what for")
		}
		delete(said, module)
	}
	for module := range said {
		problems = append(problems, module+": the README says what it is for, and go.mod does not require it")
	}
	return problems
}

func TestUnexplainedModulesAreSeen(t *testing.T) {
	t.Parallel()
	const readme = "text\n| module | for |\n|---|---|\n| `a/b` | this |\n| `c`, `d` | that |\n| `e` | |\n\n| `f` | other |\n"
	for want, direct := range map[string][]string{
		"":                        {"a/b", "c", "d"},
		"e: go.mod requires it":   {"a/b", "c", "d", "e"},
		"f: go.mod requires it":   {"a/b", "c", "d", "f"},
		"d: the README says what": {"a/b", "c"},
	} {
		got := slices.DeleteFunc(explained(readme, direct), func(p string) bool { return strings.HasPrefix(p, "e: the README") })
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], want)) {
			t.Errorf("%q: %q, want %q", direct, got, want)
		}
	}
}

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
