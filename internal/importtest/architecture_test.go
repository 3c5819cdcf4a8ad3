package importtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestArchitecture looks for each function of the way that ARCHITECTURE.md lists in the file where it is said to be,
// and for each package of its map.
func TestArchitecture(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	way := regexp.MustCompile("(?m)^\\| [0-9]+ \\| `([A-Za-z.]+)` .*\\| `([a-z/]+\\.go)` \\|$").FindAllStringSubmatch(string(text), -1)
	files := map[string]bool{}
	for _, step := range way {
		files[step[2]] = true
		if !declares(t, filepath.Join("../..", step[2]), step[1]) {
			t.Errorf("%s has no %s", step[2], step[1])
		}
	}
	if len(way) == 0 || len(way) > 40 || len(files) > 20 {
		t.Errorf("the way goes through %d functions in %d files", len(way), len(files))
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `((?:internal|cmd)/[a-z/]+|bench)` \\|").FindAllStringSubmatch(string(text), -1) {
		if _, err := os.Stat(filepath.Join("../..", row[1])); err != nil {
			t.Error(err)
		}
	}
}

// declares reports whether a file declares a function, or a method as Type.Method.
func declares(t *testing.T, path, name string) bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		full := f.Name.Name
		if f.Recv != nil {
			recv := f.Recv.List[0].Type
			if star, ok := recv.(*ast.StarExpr); ok {
				recv = star.X
			}
			if id, ok := recv.(*ast.Ident); ok {
				full = id.Name + "." + full
			}
		}
		if full == strings.TrimSpace(name) {
			return true
		}
	}
	return false
}
