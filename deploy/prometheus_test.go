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

func TestRules(t *testing.T) {
	t.Parallel()
	tests := string(read(t, "prometheus/rules_test.yml"))
	ours := strings.ReplaceAll(reasons(provision.Reason.Retryable), " ", "|")
	recorded := []string{}
	for _, r := range readRules(t) {
		name := r.Record + r.Alert
		expr := r.Expr
		for _, record := range recorded {
			expr = strings.ReplaceAll(expr, record, "flow_worker_build_info")
		}
		if !strings.Contains(expr, `up{job="flow-worker"}`) {
			for _, problem := range checkMetrics(expr) {
				t.Errorf("%s: %s", name, problem)
			}
		}
		for _, m := range regexp.MustCompile(`reason=~"([^"]*\|[^"]*\|[^"]*)"`).FindAllStringSubmatch(r.Expr, -1) {
			if m[1] != ours {
				t.Errorf("%s: reasons %s, want those that are not the sender's: %s", name, m[1], ours)
			}
		}
		if r.Record != "" {
			recorded = append(recorded, r.Record)
			continue
		}
		checkAlert(t, r, tests)
	}
}

func checkAlert(t *testing.T, r rule, tests string) {
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
	if fires := regexp.MustCompile(`alertname: ` + r.Alert + `\n +exp_alerts:`); !fires.MatchString(tests) {
		t.Errorf("no test in which %s fires", r.Alert)
	}
	if silent := regexp.MustCompile(`alertname: ` + r.Alert + ` }`); !silent.MatchString(tests) {
		t.Errorf("no test in which %s is silent", r.Alert)
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
