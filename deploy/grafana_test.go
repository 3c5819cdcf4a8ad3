package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// dashboard is dashboard.json, as far as it is looked at here. CI checks all of it against the types that
// Grafana publishes, where they can be had (test/observability/schema).
type dashboard struct {
	SchemaVersion int
	UID, Title    string
	Annotations   struct {
		List []struct {
			Name   string
			Target struct{ Expr string }
		}
	}
	Panels []panel
}

type panel struct {
	ID          int
	Type, Title string
	Description string
	Datasource  source
	Targets     []struct {
		RefID, Expr string
		Datasource  source
	}
	GridPos struct{ H, W, X, Y int }
}

type source struct{ Type, UID string }

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal(read(t, "grafana/dashboard.json"), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// dashboardQueries returns the queries of the dashboard's panels and annotations, by title.
func dashboardQueries(t *testing.T) map[string][]string {
	t.Helper()
	d, queries := readDashboard(t), map[string][]string{}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			queries[p.Title] = append(queries[p.Title], target.Expr)
		}
	}
	for _, a := range d.Annotations.List {
		queries["annotation "+a.Name] = []string{a.Target.Expr}
	}
	return queries
}

// No two panels share an id or a place, and each says what it shows.
func TestDashboardIsWellFormed(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	if d.SchemaVersion < 36 || d.UID == "" || d.Title == "" {
		t.Errorf("dashboard: schemaVersion %d, uid %q, title %q", d.SchemaVersion, d.UID, d.Title)
	}
	ids, taken := map[int]string{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if other, used := ids[p.ID]; used || p.ID < 1 {
			t.Errorf("panel %q has the id %d, as has %q", p.Title, p.ID, other)
		}
		ids[p.ID] = p.Title
		for _, cell := range p.cells() {
			if other, used := taken[cell]; used || cell[0] < 0 || cell[0] > 23 {
				t.Errorf("panel %q is at %v, where %q is", p.Title, cell, other)
				break
			}
			taken[cell] = p.Title
		}
		if p.Type != "row" && p.Type != "text" {
			p.checkTargets(t)
		}
	}
}

// cells returns the places of the grid that the panel covers.
func (p panel) cells() (list [][2]int) {
	for x := range p.GridPos.W {
		for y := range p.GridPos.H {
			list = append(list, [2]int{p.GridPos.X + x, p.GridPos.Y + y})
		}
	}
	return list
}

func (p panel) checkTargets(t *testing.T) {
	t.Helper()
	chosen := source{"prometheus", "${datasource}"}
	if p.Description == "" || len(p.Targets) == 0 || p.Datasource != chosen || len(p.cells()) == 0 {
		t.Errorf("panel %q: no description, no query, another data source than the chosen one, or no size", p.Title)
	}
	refs := map[string]bool{}
	for _, target := range p.Targets {
		if target.RefID == "" || refs[target.RefID] || target.Expr == "" || target.Datasource != chosen {
			t.Errorf("panel %q: query %+v", p.Title, target)
		}
		refs[target.RefID] = true
	}
}

// foreign are the queries of metrics that are not the worker's own: Prometheus', and those that every Go
// program has.
var foreign = regexp.MustCompile(`^(?:sum\(up\{job="\$job"\}\)|[a-z() ]*\b(?:ALERTS|process_\w+|go_goroutines)\{[^}]*\}.*)$`)

func TestDashboard(t *testing.T) {
	t.Parallel()
	shown := ""
	for title, exprs := range dashboardQueries(t) {
		for _, expr := range exprs {
			shown += expr
			for _, problem := range checkMetrics(expr) {
				if !foreign.MatchString(expr) {
					t.Errorf("panel %q: %s", title, problem)
				}
			}
		}
	}
	for name := range metrics {
		if !strings.Contains(shown, "flow_worker_"+name) {
			t.Errorf("no panel shows flow_worker_%s", name)
		}
	}
}

// The dashboard's queries are handed to promtool as the rules of a made-up file.
func TestDashboardQueriesAreValid(t *testing.T) {
	t.Parallel()
	var rules []map[string]string
	for _, exprs := range dashboardQueries(t) {
		for _, expr := range exprs {
			expr = strings.ReplaceAll(expr, "$__rate_interval", "5m")
			rules = append(rules, map[string]string{"record": fmt.Sprintf("query:%d", len(rules)), "expr": expr})
		}
	}
	b, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "queries.yml")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}
