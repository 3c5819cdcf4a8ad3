package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func readDoc(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile("../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The handbook has every setting with its default, every command and reason.
func TestOperationsHandbookIsComplete(t *testing.T) {
	t.Parallel()
	doc := readDoc(t, "docs/operations.md")
	var view configView
	r := worker(t, []string{"VAULT_TOKEN=t"}, "", "config", "--json")
	if err := json.Unmarshal([]byte(r.stdout), &view); err != nil || len(view.Settings) < 40 {
		t.Fatalf("%d settings, %v", len(view.Settings), err)
	}
	for _, v := range view.Settings {
		row := regexp.MustCompile("(?m)^\\| [^|]*`" + v.Name + "`[^|]*\\|([^|]*)\\|").FindStringSubmatch(doc)
		if row == nil {
			t.Errorf("no row for the setting %s", v.Name)
		} else if v.Origin == "default" && v.Value != "" && !strings.Contains(row[1], "`"+v.Value+"`") {
			t.Errorf("%s: the default is given as %s, want %s", v.Name, row[1], v.Value)
		}
	}
	for _, cmd := range (&cli{}).root().Commands() {
		if !cmd.Hidden && !strings.Contains(doc, "`worker "+cmd.Name()) {
			t.Errorf("no word on the command %s", cmd.Name())
		}
	}
	for _, reason := range provision.Reasons {
		if !strings.Contains(doc, "\n| `"+string(reason)+"` |") {
			t.Errorf("no row for the reason %s", reason)
		}
	}
}

// Links inside the handbook lead somewhere.
func TestOperationsHandbookLinks(t *testing.T) {
	t.Parallel()
	doc := readDoc(t, "docs/operations.md")
	anchors := map[string]bool{}
	for _, h := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(doc, -1) {
		name := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(h[1]), "")
		anchors["#"+strings.ReplaceAll(name, " ", "-")] = true
	}
	for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(doc, -1) {
		target := link[1]
		if strings.HasPrefix(target, "#") {
			if !anchors[target] {
				t.Errorf("no heading for %s", target)
			}
			continue
		}
		if _, err := os.Stat("../../docs/" + strings.SplitN(target, "#", 2)[0]); err != nil {
			t.Errorf("%s leads nowhere: %v", target, err)
		}
	}
}
