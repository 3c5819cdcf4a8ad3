package deploy

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite what is observed in docs/rights.md")

const rightsPage = "../docs/rights.md"

// checkPage compares a section of docs/rights.md, between its two marks, with what was observed.
func checkPage(t *testing.T, section, observed string) {
	t.Helper()
	begin, end := "<!-- observed: "+section+" -->\n", "<!-- end: "+section+" -->"
	page := string(read(t, rightsPage))
	head, rest, found := strings.Cut(page, begin)
	was, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no section %s", rightsPage, section)
	}
	if *update {
		if err := os.WriteFile(rightsPage, []byte(head+begin+observed+end+tail), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(was, observed); diff != "" {
		t.Errorf("%s says other than what was observed; if that is as it should be, run this test with -update (-page +observed):\n%s", rightsPage, diff)
	}
}
