package importtest

import (
	"strings"
	"testing"
)

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
