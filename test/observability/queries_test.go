//go:build prometheus

package observability

import (
	"slices"
	"testing"
)

// happened is what the load must have come to, for else it would not be one.
var happened = []string{
	`flow_worker_requests_total{outcome="created"}`, `flow_worker_requests_total{outcome="adopted"}`, `flow_worker_requests_total{outcome="failed"}`,
	`flow_worker_requests_total{outcome="duplicate"}`, `flow_worker_request_failures_total{reason="outcome_unknown"}`,
	`flow_worker_request_failures_total{reason="flow_rejected"}`, `flow_worker_request_failures_total{reason="invalid_request"}`,
	`flow_worker_retries_total{target="flow",cause="throttled"}`, `flow_worker_retries_total{target="flow",cause="status"}`,
	`flow_worker_retries_total{target="vault",cause="status"}`, `flow_worker_reconciliations_total{result="adopted"}`,
	`flow_worker_deliveries_total{settled="term"}`, `flow_worker_deliveries_total{settled="nak"}`, `flow_worker_flow_requests_total{code="error"}`,
	`max_over_time(flow_worker_circuit_open{target="flow"}[10m])`, `max_over_time(flow_worker_paused[10m])`, `max_over_time(flow_worker_queue_pending[10m])`,
	`ALERTS{alertname="FlowWorkerOutcomeUnknown",alertstate="firing"}`,
}

// native are the histograms as native ones.
var native = []query{
	{"native", `histogram_quantile(0.95, sum(rate(flow_worker_request_duration_seconds{job="flow-worker"}[5m])))`},
	{"native", `histogram_quantile(0.95, sum by (operation) (rate(flow_worker_flow_request_duration_seconds{job="flow-worker"}[5m]))) > 0`},
}

// TestEveryQueryHasAnAnswer asks a Prometheus everything that dashboard and rules ask, while it scrapes two
// workers on which all sorts of things happen.
func TestEveryQueryHasAnAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	classic := newServer(t, w.targets, "exemplar-storage")
	modern := newServer(t, w.targets, "exemplar-storage", "native-histograms")
	until(t, "both workers are scraped", func() bool { return classic.sum("up") == 2 && modern.sum("up") == 2 })
	w.load()
	w.outage(func() bool { return classic.sum(`max(flow_worker_circuit_open{target="flow"})`) == 1 })
	w.pause(func() bool {
		return classic.sum("min(flow_worker_paused)") == 1 && classic.sum("min(flow_worker_queue_pending)") >= 2
	})
	for _, expr := range happened {
		until(t, expr+" is above 0", func() bool { return classic.sum(expr) > 0 })
	}
	fromRules, rules := ruleQueries(t)
	fromDashboard := dashboardQueries(t)
	answered := classic.ask(slices.Concat(fromRules, fromDashboard))
	answered += modern.ask(native)
	if well, bad := classic.rules(); well != rules || len(bad) > 0 {
		t.Errorf("%d of %d rules were evaluated, these not: %q", well, rules, bad)
	}
	for _, metric := range []string{"flow_worker_request_duration_seconds_bucket", "flow_worker_flow_request_duration_seconds_bucket", "flow_worker_requests_total"} {
		if classic.exemplars(metric, trace) == 0 {
			t.Errorf("no exemplar of %s leads to a trace", metric)
		}
	}
	t.Logf("%d queries have an answer; %d for the %d rules, %d for the dashboard, %d for native histograms",
		answered, len(fromRules), rules, len(fromDashboard), len(native))
}

// ask asks each query until it has an answer that is a number, and returns how many have one.
func (s *server) ask(queries []query) (answered int) {
	s.t.Helper()
	for _, q := range queries {
		if s.answers(q) {
			answered++
		}
	}
	return answered
}
