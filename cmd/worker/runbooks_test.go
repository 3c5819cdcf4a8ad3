package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Whoever is paged types what the runbooks and the handbook say: every command and flag exists.
func TestDocumentedCommandsExist(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d runbooks, %v", len(files), err)
	}
	commands := 0
	for _, file := range append(files, "../../docs/operations.md") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range commandLines(string(b)) {
			commands++
			checkCommandLine(t, filepath.Base(file), line)
		}
	}
	if commands < 40 {
		t.Errorf("only %d commands were found", commands)
	}
}

// In an outage hardly a request is "waiting", which only means that its last POST made nothing: nobody who looks
// for what waits is sent there.
func TestNobodyIsSentToListWaiting(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d runbooks, %v", len(files), err)
	}
	open := 0
	for _, file := range append(files, "../../docs/operations.md", "../../deploy/grafana/dashboard.json", "../../deploy/prometheus/rules.yml") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`worker list[^\n#]*--state [a-z,]*waiting`).Match(b) {
			t.Errorf("%s lists only what waits after a POST", file)
		}
		open += strings.Count(string(b), "--state open")
	}
	if open < 7 {
		t.Errorf("only %d places list what is open", open)
	}
}

// What ends may have been sent days before: whoever is called by an alert on what ended is not sent to list by
// when it was sent. And who counts counts all, not the latest hundred.
func TestNobodyIsSentToListBySending(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d runbooks, %v", len(files), err)
	}
	ended := 0
	for _, file := range append(files, "../../docs/operations.md", "../../deploy/grafana/dashboard.json", "../../deploy/prometheus/rules.yml") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range regexp.MustCompile("worker list [^\n`]*").FindAllString(strings.ReplaceAll(string(b), `\n`, "\n"), -1) {
			if problem := missesEnded(line); problem != "" {
				t.Errorf("%s: %s: %s", filepath.Base(file), problem, line)
			}
			if strings.Contains(line, "--ended-within") {
				ended++
			}
		}
	}
	if ended < 8 {
		t.Errorf("only %d places list by when requests ended", ended)
	}
}

// missesEnded says why a command leaves out some of what ended; empty if it doesn't.
func missesEnded(line string) string {
	command, _, _ := strings.Cut(line, "#")
	switch {
	case strings.Contains(command, "--newer-than"):
		return "goes by when a request was sent"
	case strings.Contains(command, "--older-than") && !strings.Contains(command, "--state open"):
		return "goes by when a request was sent, of those that ended, too"
	case regexp.MustCompile(`\b(uniq|wc)\b`).MatchString(command) && !strings.Contains(command, "--limit 0"):
		return "counts the latest hundred only"
	}
	return ""
}

func TestMissesEnded(t *testing.T) {
	t.Parallel()
	for line, problem := range map[string]bool{
		"worker list --state failed --newer-than 1h":                           true,
		"worker list --newer-than 10m # does anybody work?":                    true,
		"worker list --older-than 1h":                                          true,
		"worker list --state failed --ended-within 1h --json | jq . | uniq":    true,
		"worker list --state failed --ended-within 1h --limit 0 --json | uniq": false,
		"worker list --state failed --ended-within 1h":                         false,
		"worker list --older-than 1h --state open":                             false,
		"worker list --state open # not --newer-than":                          false,
	} {
		if got := missesEnded(line); (got != "") != problem {
			t.Errorf("%s: %q", line, got)
		}
	}
}

var (
	inBlock = regexp.MustCompile(`(?m)^(?:kubectl exec .* -- /usr/local/bin/)?worker ([a-z].*)$`)
	block   = regexp.MustCompile("(?s)```sh\n(.*?)```")
	inText  = regexp.MustCompile("`worker ([a-z][^`]*)`")
)

// commandLines returns what comes after "worker" where a page names a command, without comments, pipes and
// placeholders.
func commandLines(page string) (lines [][]string) {
	found := inText.FindAllStringSubmatch(page, -1)
	for _, b := range block.FindAllString(page, -1) {
		found = append(found, inBlock.FindAllStringSubmatch(b, -1)...)
	}
	for _, m := range found {
		line := m[1]
		for _, end := range []string{"#", "|", "…", ";"} {
			line, _, _ = strings.Cut(line, end)
		}
		lines = append(lines, strings.Fields(line))
	}
	return lines
}

func checkCommandLine(t *testing.T, file string, words []string) {
	t.Helper()
	cmd, rest, err := (&cli{}).root().Find(words)
	if err != nil || !cmd.Runnable() {
		t.Errorf("%s: worker %s: no such command: %v", file, strings.Join(words, " "), err)
		return
	}
	for _, w := range rest {
		flag, _, _ := strings.Cut(strings.TrimPrefix(w, "--"), "=")
		if strings.HasPrefix(w, "--") && cmd.Flags().Lookup(flag) == nil {
			t.Errorf("%s: worker %s: there is no flag %s", file, strings.Join(words, " "), w)
		}
	}
}
