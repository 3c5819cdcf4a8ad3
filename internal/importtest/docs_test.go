package importtest

import (
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
