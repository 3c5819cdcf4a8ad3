package importtest

import (
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var tagsGiven = regexp.MustCompile(`go test[^\n]*? -tags[ =]'?([a-z0-9 ,]+)`)

// ciTags returns the build tags that CI gives to its tests.
func ciTags(script string) (tags []string) {
	for _, m := range tagsGiven.FindAllStringSubmatch(script, -1) {
		tags = append(tags, strings.FieldsFunc(m[1], func(r rune) bool { return r == ' ' || r == ',' })...)
	}
	return tags
}

// idle says why a test of the file never runs in CI, or nothing: a build tag that CI doesn't know, or a skip as its
// first statement, whatever the circumstances. A file without the test has nothing to say.
func idle(f *ast.File, name string, tags []string) string {
	var test *ast.FuncDecl
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == name {
			test = fn
		}
	}
	switch {
	case test == nil:
		return ""
	case !built(f, tags):
		return "CI never builds its file"
	case len(test.Body.List) == 0:
		return "it is empty"
	case skips(test.Body.List[0]):
		return "it is always skipped"
	}
	return ""
}

// built reports whether CI builds the file on Linux, with or without its tags.
func built(f *ast.File, tags []string) bool {
	for _, group := range f.Comments {
		for _, c := range group.List {
			if x, err := constraint.Parse(c.Text); err == nil && c.Pos() < f.Package {
				with := x.Eval(func(tag string) bool { return tag == "linux" || tag == "unix" || slices.Contains(tags, tag) })
				without := x.Eval(func(tag string) bool { return tag == "linux" || tag == "unix" })
				return with || without
			}
		}
	}
	return true
}

func skips(s ast.Stmt) bool {
	call, ok := s.(*ast.ExprStmt)
	if !ok {
		return false
	}
	c, ok := call.X.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := c.Fun.(*ast.SelectorExpr)
	return ok && strings.HasPrefix(sel.Sel.Name, "Skip")
}

// The tests that keep the threat model are run by somebody: they are built in CI, and not skipped for good. That they
// pass is CI's to say.
func TestThreatModelsTestsRun(t *testing.T) {
	t.Parallel()
	tags := ciTags(text(t, ".ci/run"))
	named := testName.FindAllString(text(t, "docs/security.md"), -1)
	if len(named) < 60 || !slices.Contains(tags, "realvault") {
		t.Fatalf("%d tests are named, CI's tags are %q", len(named), tags)
	}
	for _, top := range []string{"../../bench", "../../cmd", "../../internal", "../../deploy", "../../test"} {
		err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, name := range named {
				if why := idle(f, name, tags); why != "" {
					t.Errorf("%s keeps nothing: %s (%s)", name, why, path)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestIdleTestsAreSeen(t *testing.T) {
	t.Parallel()
	tags := ciTags("go test -tags 'a b' ./x\ngo test -v -tags=c,d ./...")
	for source, want := range map[string]string{
		"package p\nfunc TestX(t T) { t.Error() }":                                   "",
		"package p\nfunc TestX(t T) { if short() { t.Skip() }; t.Error() }":          "",
		"package p\nfunc TestY(t T) {}":                                              "",
		"package p\nfunc TestX(t T) {}":                                              "it is empty",
		"package p\nfunc TestX(t T) { t.Skipf(`later`); t.Error() }":                 "it is always skipped",
		"//go:build d\n\npackage p\nfunc TestX(t T) { t.Error() }":                   "",
		"//go:build !a && linux\n\npackage p\nfunc TestX(t T) { t.Error() }":         "",
		"//go:build e\n\npackage p\nfunc TestX(t T) { t.Error() }":                   "CI never builds its file",
		"//go:build windows\n\npackage p\nfunc TestX(t T) { t.Error() }":             "CI never builds its file",
		"// Said.\n\n//go:build b && !e\n\npackage p\nfunc TestX(t T) { t.Error() }": "",
	} {
		f, err := parser.ParseFile(token.NewFileSet(), "x_test.go", source, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if got := idle(f, "TestX", tags); got != want {
			t.Errorf("%q: got %q, want %q", source, got, want)
		}
	}
}
