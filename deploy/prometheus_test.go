package deploy

import (
	"bytes"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// rule is one rule of rules.yml.
type rule struct {
	Record, Alert, Expr, For string
	KeepFiringFor            string `yaml:"keep_firing_for"`
	Labels, Annotations      map[string]string
}

func readRules(t *testing.T) (all []rule) {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	readYAML(t, "prometheus/rules.yml", &file)
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// ours are the reasons that count against the objective, as a regular expression. Every reason that is
// worth a repeat does, but for one: the sender chose the expirytime.
func ours(retryable bool) string {
	return strings.ReplaceAll(reasons(func(r provision.Reason) bool {
		return (r.Retryable() && r != provision.ReasonExpired) == retryable
	}), " ", "|")
}

func TestRules(t *testing.T) {
	t.Parallel()
	recorded := map[string]bool{}
	for _, r := range readRules(t) {
		name := r.Record + r.Alert
		expr := recordedName.ReplaceAllStringFunc(r.Expr, func(record string) string {
			if !recorded[record] {
				t.Errorf("%s: no rule before it records %s", name, record)
			}
			return "flow_worker_build_info"
		})
		if !strings.Contains(expr, `up{job="flow-worker"}`) {
			for _, problem := range checkMetrics(expr) {
				t.Errorf("%s: %s", name, problem)
			}
		}
		for _, m := range manyReasons.FindAllStringSubmatch(r.Expr, -1) {
			if want := ours(true); m[1] != want {
				t.Errorf("%s: reasons %s, want those that are not the sender's: %s", name, m[1], want)
			}
		}
		if r.Record != "" {
			recorded[r.Record] = true
		} else {
			checkAlert(t, r)
		}
	}
}

var (
	recordedName = regexp.MustCompile(`\bflow_worker:[a-z0-9_:]+`)
	manyReasons  = regexp.MustCompile(`reason=~"([^"]*\|[^"]*\|[^"]*)"`)
)

func checkAlert(t *testing.T, r rule) {
	t.Helper()
	for _, annotation := range []string{"summary", "description", "remedy"} {
		if r.Annotations[annotation] == "" {
			t.Errorf("%s has no %s", r.Alert, annotation)
		}
	}
	if !slices.Contains([]string{"page", "ticket"}, r.Labels["severity"]) {
		t.Errorf("%s has severity %q", r.Alert, r.Labels["severity"])
	}
	for _, problem := range checkMetricNames(strings.Join(slices.Collect(maps.Values(r.Annotations)), " ")) {
		t.Errorf("%s: %s", r.Alert, problem)
	}
}

// ruleTests is rules_test.yml, as far as it is looked at here.
type ruleTests struct {
	RuleFiles          []string `yaml:"rule_files"`
	EvaluationInterval string   `yaml:"evaluation_interval"`
	Tests              []struct {
		Name      string
		Interval  string
		Input     []struct{ Series, Values string } `yaml:"input_series"`
		ExprTests []any                             `yaml:"promql_expr_test"`
		Alerts    []struct {
			EvalTime  string `yaml:"eval_time"`
			Alertname string
			Expected  []struct {
				Labels      map[string]string `yaml:"exp_labels"`
				Annotations map[string]string `yaml:"exp_annotations"`
			} `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	}
}

// promtool runs rules_test.yml, but does not mind what is missing in it.
func TestEveryAlertIsShownFiringAndNotFiring(t *testing.T) {
	t.Parallel()
	var file ruleTests
	readYAML(t, "prometheus/rules_test.yml", &file)
	firing, silent := map[string]int{}, map[string]int{}
	for _, test := range file.Tests {
		for _, a := range test.Alerts {
			if len(a.Expected) > 0 {
				firing[a.Alertname]++
			} else {
				silent[a.Alertname]++
			}
		}
	}
	alerts := 0
	for _, r := range readRules(t) {
		if r.Alert == "" {
			continue
		}
		alerts++
		if firing[r.Alert] == 0 || silent[r.Alert] == 0 {
			t.Errorf("%s is shown firing %d times and not firing %d times, want each at least once", r.Alert, firing[r.Alert], silent[r.Alert])
		}
		delete(firing, r.Alert)
		delete(silent, r.Alert)
	}
	if alerts < 15 || len(firing)+len(silent) > 0 {
		t.Errorf("%d alerts; tests of others: %v %v", alerts, firing, silent)
	}
}

// checkMetricNames is checkMetrics for texts that need not name any.
func checkMetricNames(text string) []string {
	if !metricName.MatchString(text) {
		return nil
	}
	return checkMetrics(text)
}

// promtool runs Prometheus' own checker, or skips the test where it isn't installed.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian: apt-get install prometheus)")
	}
	if out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
}

func TestPromtool(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "rules", "prometheus/rules.yml")
	promtool(t, "test", "rules", "prometheus/rules_test.yml")
	promtool(t, "check", "config", "--syntax-only", "prometheus/prometheus.yml")
}

// The example names alerts and receivers that exist, and nothing inhibits itself.
func TestAlertmanagerExample(t *testing.T) {
	t.Parallel()
	var file struct {
		Route        map[string]any
		Receivers    []struct{ Name string }
		InhibitRules []struct {
			Source []string `yaml:"source_matchers"`
			Target []string `yaml:"target_matchers"`
		} `yaml:"inhibit_rules"`
	}
	readYAML(t, "prometheus/alertmanager.yml", &file)
	var alerts []string
	for _, r := range readRules(t) {
		alerts = append(alerts, r.Alert)
	}
	if len(file.InhibitRules) == 0 {
		t.Error("nothing is inhibited")
	}
	for _, r := range file.InhibitRules {
		sources, targets := namesIn(r.Source), namesIn(r.Target)
		for _, name := range slices.Concat(sources, targets) {
			if !slices.Contains(alerts, name) {
				t.Errorf("there is no alert %s", name)
			}
		}
		for _, name := range targets {
			if slices.Contains(sources, name) {
				t.Errorf("%s inhibits itself", name)
			}
		}
		if len(sources) == 0 || len(targets) == 0 {
			t.Errorf("%q → %q names no alerts", r.Source, r.Target)
		}
	}
	for _, receiver := range []any{file.Route["receiver"], dig(t, file.Route, "routes", 0, "receiver")} {
		if !slices.ContainsFunc(file.Receivers, func(r struct{ Name string }) bool { return r.Name == receiver }) {
			t.Errorf("there is no receiver %v", receiver)
		}
	}
}

// namesIn returns the alerts that matchers name.
func namesIn(matchers []string) []string {
	return regexp.MustCompile(`FlowWorker\w+`).FindAllString(strings.Join(matchers, " "), -1)
}
