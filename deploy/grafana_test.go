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

// dashboardQueries returns the queries of the dashboard's panels, by title.
func dashboardQueries(t *testing.T) map[string][]string {
	t.Helper()
	var dash struct {
		SchemaVersion int
		UID, Title    string
		Annotations   struct {
			List []struct {
				Name   string
				Target struct{ Expr string }
			}
		}
		Panels []struct {
			ID          int
			Type, Title string
			Description string
			Targets     []struct{ Expr string }
			GridPos     struct{ H, W, X, Y int }
		}
	}
	if err := json.Unmarshal(read(t, "grafana/dashboard.json"), &dash); err != nil {
		t.Fatal(err)
	}
	if dash.SchemaVersion < 36 || dash.UID == "" || dash.Title == "" {
		t.Errorf("dashboard: schemaVersion %d, uid %q, title %q", dash.SchemaVersion, dash.UID, dash.Title)
	}
	queries := map[string][]string{}
	seen := map[int]bool{}
	for _, p := range dash.Panels {
		if seen[p.ID] || p.GridPos.W < 1 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q: id %d, position %+v", p.Title, p.ID, p.GridPos)
		}
		seen[p.ID] = true
		if p.Type == "row" || p.Type == "text" {
			continue
		}
		if p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q: no description or no query", p.Title)
		}
		for _, target := range p.Targets {
			queries[p.Title] = append(queries[p.Title], target.Expr)
		}
	}
	for _, a := range dash.Annotations.List {
		queries["annotation "+a.Name] = []string{a.Target.Expr}
	}
	return queries
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
