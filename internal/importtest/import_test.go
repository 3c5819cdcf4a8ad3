package importtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// listed is what `go list -json` tells about a package.
type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func TestImportsFollowTheMap(t *testing.T) {
	t.Parallel()
	watchTree(t)
	pkgs := goList(t)
	for _, problem := range check(pkgs, allowed) {
		t.Error(problem)
	}
	for name := range allowed {
		if !slices.ContainsFunc(pkgs, func(p listed) bool { return p.ImportPath == module+name }) {
			t.Errorf("%s: on the map, but there is no such package; take it out of `allowed`", name)
		}
	}
}

// check returns one line for every import or package that the map does not allow.
func check(pkgs []listed, allowed map[string][]string) (problems []string) {
	for _, p := range pkgs {
		name := strings.TrimPrefix(p.ImportPath, module)
		may, known := allowed[name]
		if !known {
			problems = append(problems, name+": not on the map; add it to `allowed` in internal/importtest/map_test.go with what it may import")
			continue
		}
		for _, imp := range forbidden(p.Imports, may) {
			problems = append(problems, fmt.Sprintf("%s: may not import %s; it may import %q", name, imp, may))
		}
		for _, imp := range forbidden(slices.Concat(p.TestImports, p.XTestImports), slices.Concat(may, forTests, []string{name})) {
			problems = append(problems, fmt.Sprintf("%s: its tests may not import %s; they may import what it may, and `forTests`", name, imp))
		}
	}
	return problems
}

// forbidden returns those of imports that may doesn't cover.
func forbidden(imports, may []string) (bad []string) {
	for _, imp := range imports {
		if own, ok := strings.CutPrefix(imp, module); ok {
			imp = own
		} else if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") {
			continue // the standard library
		}
		if !slices.ContainsFunc(may, func(m string) bool { return covers(m, imp) }) {
			bad = append(bad, imp)
		}
	}
	return bad
}

// covers reports whether the map's entry m allows imp: a module's packages go with it, ours stand alone.
func covers(m, imp string) bool {
	return m == "*" || m == imp || strings.Contains(m, ".") && strings.HasPrefix(imp, m+"/")
}

// watchTree reads the module's folders, so that a changed file makes go test run this test again: its
// cache does not see what the go list below reads.
func watchTree(t *testing.T) {
	t.Helper()
	for _, top := range []string{"../../bench", "../../cmd", "../../internal", "../../deploy", "../../test"} {
		if err := filepath.WalkDir(top, func(_ string, _ fs.DirEntry, err error) error { return err }); err != nil {
			t.Fatal(err)
		}
	}
}

func goList(t *testing.T) (pkgs []listed) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 2 {
		t.Fatalf("go list found %d packages; is the module path still %s?", len(pkgs), module)
	}
	return pkgs
}

func TestCheckFindsViolations(t *testing.T) {
	t.Parallel()
	rules := map[string][]string{
		"internal/hub":   {"example.com/lib"},
		"internal/spoke": {"internal/hub"},
		"internal/other": {"internal/hub"},
		"cmd/all":        {"*"},
	}
	tests := []struct {
		name string
		pkg  listed
		want string // part of the only problem; empty for none
	}{
		{"standard library", listed{ImportPath: "internal/hub", Imports: []string{"fmt", "net/http"}}, ""},
		{"allowed module and its packages", listed{ImportPath: "internal/hub", Imports: []string{"example.com/lib", "example.com/lib/sub"}}, ""},
		{"module with the same beginning", listed{ImportPath: "internal/hub", Imports: []string{"example.com/library"}}, "may not import example.com/library"},
		{"spoke to hub", listed{ImportPath: "internal/spoke", Imports: []string{module + "internal/hub"}}, ""},
		{"hub to spoke", listed{ImportPath: "internal/hub", Imports: []string{module + "internal/spoke"}}, "may not import internal/spoke"},
		{"spoke to spoke", listed{ImportPath: "internal/spoke", Imports: []string{module + "internal/other"}}, "may not import internal/other"},
		{"below an allowed package", listed{ImportPath: "internal/spoke", Imports: []string{module + "internal/hub/sub"}}, "may not import internal/hub/sub"},
		{"unknown module", listed{ImportPath: "internal/spoke", Imports: []string{"example.com/lib"}}, "may not import example.com/lib"},
		{"test-only import in code", listed{ImportPath: "internal/spoke", Imports: []string{"go.uber.org/goleak"}}, "may not import go.uber.org/goleak"},
		{"test-only import in a test", listed{ImportPath: "internal/spoke", TestImports: []string{"go.uber.org/goleak"}}, ""},
		{"spoke to spoke in an external test", listed{ImportPath: "internal/spoke", XTestImports: []string{module + "internal/other"}}, "its tests may not import internal/other"},
		{"external test imports its own package", listed{ImportPath: "internal/spoke", XTestImports: []string{module + "internal/spoke"}}, ""},
		{"the program may all", listed{ImportPath: "cmd/all", Imports: []string{module + "internal/spoke", "example.com/x"}}, ""},
		{"package off the map", listed{ImportPath: "internal/new"}, "not on the map"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.pkg.ImportPath = module + tt.pkg.ImportPath
			got := check([]listed{tt.pkg}, rules)
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("check() = %q, want no problem", got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("check() = %q, want one problem with %q", got, tt.want)
			}
		})
	}
}
