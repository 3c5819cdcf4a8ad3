package importtest

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

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
