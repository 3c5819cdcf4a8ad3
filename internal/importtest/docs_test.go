package importtest

import (
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	testName = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*`)
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z]\w*)\(`)
)

// The tests that the documents name are there, whatever build tag they are behind.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	t.Parallel()
	there := testFuncs(t)
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(docs) < 2 {
		t.Fatalf("documents %q, %v", docs, err)
	}
	named := 0
	for _, path := range append(docs, "../../README.md", "../../SECURITY.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		named += len(testName.FindAll(text, -1))
		for _, name := range missingTests(string(text), there) {
			t.Errorf("%s names %s, and there is no such test", filepath.Base(path), name)
		}
	}
	if named < 20 {
		t.Errorf("only %d names of tests were found in the documents", named)
	}
}

func TestMissingTestsAreSeen(t *testing.T) {
	t.Parallel()
	there := map[string]bool{"TestA": true, "TestBoth": true, "FuzzKey": true}
	for text, want := range map[string][]string{
		"`TestA`, `TestBoth`; FuzzKey":  nil,
		"Tests of a Testbed":            nil,
		"TestB, `BenchmarkA` and TestB": {"BenchmarkA", "TestB"},
		"-run TestAnd":                  {"TestAnd"},
	} {
		if got := missingTests(text, there); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// missingTests returns the names of tests in text that aren't there, sorted.
func missingTests(text string, there map[string]bool) (missing []string) {
	for _, name := range testName.FindAllString(text, -1) {
		if !there[name] {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

// testFuncs returns the names of all tests of the module.
func testFuncs(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, top := range []string{"../../bench", "../../cmd", "../../internal", "../../deploy", "../../test"} {
		err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range testFunc.FindAllSubmatch(text, -1) {
				names[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// unkept returns the lines of "cannot" tables that name neither a test nor a file that is there.
func unkept(page string, isFile func(string) bool) (problems []string) {
	for i, table := range strings.Split(page, "| cannot | kept by |\n|---|---|\n") {
		if i == 0 {
			continue
		}
		table, _, _ = strings.Cut(table, "\n\n")
		for row := range strings.Lines(table) {
			cells := strings.Split(strings.TrimSpace(row), "|")
			if len(cells) != 4 || !testName.MatchString(cells[2]) && !slices.ContainsFunc(quoted(cells[2]), isFile) {
				problems = append(problems, strings.TrimSpace(row))
			}
		}
	}
	return problems
}

// quoted returns what stands between backquotes.
func quoted(text string) (out []string) {
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			out = append(out, part)
		}
	}
	return out
}

func isFile(name string) bool {
	info, err := os.Stat("../../" + name)
	return err == nil && info.Mode().IsRegular()
}

// Whatever the threat model says that somebody can't do, a test or a file keeps.
func TestThreatModelIsKept(t *testing.T) {
	t.Parallel()
	page := text(t, "docs/security.md")
	for _, row := range unkept(page, isFile) {
		t.Errorf("nothing is named that keeps: %s", row)
	}
	if n := strings.Count(page, "| cannot | kept by |\n"); n < 9 {
		t.Errorf("%d actors are held to something, want at least 9", n)
	}
	if strings.Count(page, "`Test") < 60 {
		t.Error("few tests are named")
	}
}

func TestUnkeptLinesAreSeen(t *testing.T) {
	t.Parallel()
	const head = "text\n| cannot | kept by |\n|---|---|\n"
	for page, want := range map[string]int{
		"| a | nothing |": 0,
		head + "| a | `TestA` |\n| b | `there.txt`, says so |\n\n| c | no |": 0,
		head + "| a | good will |\n| b | `gone.txt` |\n":                     2,
		head + "| a | `TestA` |\n\n" + head + "| b | |\n":                    1,
		head + "| a | b | `TestA` |\n":                                       1,
	} {
		if got := unkept(page, func(name string) bool { return name == "there.txt" }); len(got) != want {
			t.Errorf("%q: %q, want %d lines", page, got, want)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#:]*)(#[^)]*)?\)`)

// Files that the policy and the documents link to are there, and so are the headings in them.
func TestDocumentsLinkToWhatIsThere(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"SECURITY.md", "docs/security.md"} {
		dir := ""
		if strings.HasPrefix(from, "docs/") {
			dir = "docs/"
		}
		links := link.FindAllStringSubmatch(text(t, from), -1)
		if len(links) < 3 {
			t.Errorf("%s: only %d links", from, len(links))
		}
		for _, l := range links {
			to := from
			if l[1] != "" {
				to = dir + l[1]
			}
			if _, err := os.Stat("../../" + to); err != nil {
				t.Errorf("%s links to %s: %v", from, l[1], err)
			} else if l[2] != "" && !slices.Contains(anchors(text(t, to)), l[2]) {
				t.Errorf("%s links to %s%s, and there is no such heading", from, l[1], l[2])
			}
		}
	}
}

var noAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// anchors returns what GitHub makes of a page's headings.
func anchors(page string) (out []string) {
	for line := range strings.Lines(page) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			name := noAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			out = append(out, "#"+strings.ReplaceAll(name, " ", "-"))
		}
	}
	return out
}

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
