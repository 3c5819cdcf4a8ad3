package deploy

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

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
