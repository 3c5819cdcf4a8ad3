package observability

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

const (
	rulesFile     = "../../deploy/prometheus/rules.yml"
	dashboardFile = "../../deploy/grafana/dashboard.json"
)

// query is one that has to have an answer.
type query struct{ from, expr string }

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ruleQueries returns what the rules ask: what is recorded, as such and by its name, and what each
// alert compares. rules is how many rules there are.
func ruleQueries(t *testing.T) (all []query, rules int) {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []struct{ Record, Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(readFile(t, rulesFile), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			rules++
			if r.Record != "" {
				all = append(all, query{"rule " + r.Record, r.Expr}, query{"record " + r.Record, r.Record})
				continue
			}
			for _, part := range operands(r.Expr) {
				all = append(all, query{"alert " + r.Alert, part})
			}
		}
	}
	return all, rules
}

var labelValues = regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`)

// dashboardQueries returns what the dashboard's panels, annotations and variables ask, as Grafana fills
// them in.
func dashboardQueries(t *testing.T) (all []query) {
	t.Helper()
	var dash struct {
		Annotations struct {
			List []struct {
				Name   string
				Target struct{ Expr string }
			}
		}
		Templating struct {
			List []struct {
				Name, Type string
				Query      any
			}
		}
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(readFile(t, dashboardFile), &dash); err != nil {
		t.Fatal(err)
	}
	for _, p := range dash.Panels {
		for _, target := range p.Targets {
			all = append(all, query{"panel " + p.Title, target.Expr})
		}
	}
	for _, a := range dash.Annotations.List {
		all = append(all, query{"annotation " + a.Name, a.Target.Expr})
	}
	for _, v := range dash.Templating.List {
		asked, _ := v.Query.(map[string]any)
		text, _ := asked["query"].(string)
		if m := labelValues.FindStringSubmatch(text); m != nil {
			all = append(all, query{"variable " + v.Name, "count by (" + m[2] + ") (" + m[1] + ")"})
		} else if v.Type == "query" {
			t.Errorf("variable %s asks %v, which this test does not know how to", v.Name, v.Query)
		}
	}
	fill := strings.NewReplacer("$__rate_interval", "5m", "$job", "flow-worker")
	for i := range all {
		all[i].expr = fill.Replace(all[i].expr)
		if strings.Contains(all[i].expr, "$") {
			t.Errorf("%s: %s has a variable that this test does not know", all[i].from, all[i].expr)
		}
	}
	return all
}

func TestThereAreQueries(t *testing.T) {
	t.Parallel()
	fromRules, rules := ruleQueries(t)
	if n := len(dashboardQueries(t)); n < 40 || rules < 25 || len(fromRules) < rules {
		t.Errorf("%d queries of the dashboard, %d of %d rules", n, len(fromRules), rules)
	}
}
