package deploy

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

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
