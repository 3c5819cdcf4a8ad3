package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

const runbooks = "../docs/runbooks/"

func TestEveryAlertHasARunbook(t *testing.T) {
	t.Parallel()
	list := string(read(t, runbooks+"README.md"))
	pages := map[string]bool{"README.md": true}
	for _, r := range readRules(t) {
		if r.Alert == "" {
			continue
		}
		file := r.Alert + ".md"
		pages[file] = true
		if got, want := r.Annotations["runbook_url"], "docs/runbooks/"+file; got != want {
			t.Errorf("%s: runbook_url %q, want %q", r.Alert, got, want)
			continue
		}
		checkRunbook(t, r, string(read(t, runbooks+file)))
		if row := "| " + r.Labels["severity"] + " | [" + r.Alert + "](" + file + ") | " + r.Annotations["summary"] + " |\n"; !templated.MatchString(row) && !strings.Contains(list, row) {
			t.Errorf("README.md has no row %s", row)
		}
	}
	files, err := os.ReadDir(runbooks)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !pages[f.Name()] {
			t.Errorf("%s is the page of no alert", f.Name())
		}
	}
}

var templated = regexp.MustCompile(`\{\{`)

func checkRunbook(t *testing.T, r rule, page string) {
	t.Helper()
	severity := strings.ToUpper(r.Labels["severity"][:1]) + r.Labels["severity"][1:]
	if !strings.HasPrefix(page, "# "+r.Alert+"\n\n"+severity+". ") {
		t.Errorf("%s.md does not begin with its name and %q", r.Alert, severity)
	}
	for _, problem := range checkMetricNames(page) {
		t.Errorf("%s.md: %s", r.Alert, problem)
	}
}

// What the pages link to is there.
func TestRunbookLinks(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir(runbooks)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		for _, m := range regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`).FindAllStringSubmatch(string(read(t, runbooks+f.Name())), -1) {
			target := runbooks + m[1]
			if m[1] == "" {
				target += f.Name()
			}
			page := read(t, target)
			if m[2] != "" && !slices.Contains(anchors(string(page)), m[2]) {
				t.Errorf("%s: %s has no heading for %s", f.Name(), target, m[2])
			}
		}
	}
}

// anchors returns those that a page's headings have, with their "#".
func anchors(page string) (list []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		list = append(list, "#"+strings.ReplaceAll(name, " ", "-"))
	}
	return list
}

// Every reason is on one side of the objective, the same everywhere.
func TestReasonsAreOnOneSide(t *testing.T) {
	t.Parallel()
	list := string(read(t, runbooks+"README.md"))
	for _, r := range provision.Reasons {
		side := "sender"
		if slices.Contains(strings.Split(ours(true), "|"), string(r)) {
			side = "ours"
		}
		if !regexp.MustCompile("(?m)^\\| [^|]*`" + string(r) + "`[^|]* \\| " + side + " \\|").MatchString(list) {
			t.Errorf("README.md has no row that puts %s on the side %q", r, side)
		}
	}
	sides := map[string]int{}
	for _, exprs := range dashboardQueries(t) {
		for _, expr := range exprs {
			for _, m := range manyReasons.FindAllStringSubmatch(expr, -1) {
				sides[m[1]]++
			}
		}
	}
	if sides[ours(true)] == 0 || sides[ours(false)] == 0 || len(sides) != 2 {
		t.Errorf("the dashboard knows the sides %v, want %s and %s", sides, ours(true), ours(false))
	}
}

var logsCommand = regexp.MustCompile(`kubectl logs [^\n` + "`" + `]*`)

// Whoever searches the logs by a runbook searches all of them: by a selector, kubectl shows the last ten lines of each
// pod unless told otherwise, and of a deployment it shows one pod.
func TestRunbooksReadAllLogs(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(runbooks + "*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range files {
		for _, cmd := range logsCommand.FindAllString(string(read(t, file)), -1) {
			seen++
			if problem := partOfLogs(cmd); problem != "" {
				t.Errorf("%s: %s: %s", filepath.Base(file), problem, cmd)
			}
		}
	}
	if seen < 5 {
		t.Errorf("only %d commands were found", seen)
	}
}

// partOfLogs says why a command leaves out what it should find; empty if it doesn't.
func partOfLogs(cmd string) string {
	cmd, filter, searched := strings.Cut(cmd, " | ")
	switch {
	case !strings.Contains(cmd, " --tail"):
		return "no --tail"
	case strings.Contains(cmd, " deploy/"):
		return "reads one pod of several"
	case searched && strings.Contains(filter, "grep") && !strings.Contains(cmd, " --tail=-1"):
		return "searches the last lines only"
	}
	return ""
}

func TestPartOfLogs(t *testing.T) {
	t.Parallel()
	for cmd, want := range map[string]string{
		"kubectl logs -l a=b | grep x":                     "no --tail",
		"kubectl logs deploy/flow-worker --tail=-1":        "one pod",
		"kubectl logs -l a=b --tail=50 --prefix | grep x":  "last lines only",
		"kubectl logs -l a=b --tail=-1 --prefix | grep x":  "",
		"kubectl logs <pod> --previous --tail=50":          "",
		"kubectl logs -l a=b --previous":                   "no --tail",
		"kubectl logs -l a=b --tail=-1 --prefix | jq .msg": "",
	} {
		if got := partOfLogs(cmd); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%s: %q, want %q", cmd, got, want)
		}
	}
}

// The pods carry the label that the runbooks select by.
func TestRunbooksSelectThePods(t *testing.T) {
	t.Parallel()
	base := string(read(t, "kubernetes/base/kustomization.yaml"))
	if !strings.Contains(base, "app.kubernetes.io/name: flow-worker\n") || !strings.Contains(base, "includeTemplates: true") {
		t.Errorf("no label app.kubernetes.io/name=flow-worker on the pods:\n%s", base)
	}
}
