package deploy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// metrics are the worker's metrics with their labels and, where the contract closes the set, the
// labels' values.
var metrics = map[string]map[string]string{ // :: metric → label → values, separated by blanks
	"requests_total":                {"outcome": "created adopted failed duplicate"},
	"request_failures_total":        {"reason": reasons(func(provision.Reason) bool { return true })},
	"request_duration_seconds":      {"outcome": "created adopted failed duplicate", "le": ""},
	"requests_in_flight":            {},
	"deliveries_total":              {"settled": "ack nak term abandoned"},
	"flow_requests_total":           {"operation": operations, "code": "1xx 2xx 3xx 4xx 5xx error"},
	"flow_request_duration_seconds": {"operation": operations, "code": "1xx 2xx 3xx 4xx 5xx error", "le": ""},
	"retries_total":                 {"target": "flow vault ims", "cause": "status timeout network throttled"},
	"reconciliations_total":         {"result": "adopted absent several unknown"},
	"vault_requests_total":          {"operation": "login renew read", "result": "ok not_found denied unavailable"},
	"circuit_open":                  {"target": "flow vault ims"},
	"writes_failing":                {"object": "ledger results deadletters acks"},
	"paused":                        {},
	"queue_orphans":                 {},
	"ledger_stuck":                  {},
	"dead_letters":                  {},
	"repairs_total":                 {"repair": "queue consumer", "result": "done failed"},
	"queue_pending":                 {},
	"queue_ack_pending":             {},
	"queue_redelivered":             {},
	"queue_oldest_seconds":          {},
	"nats_connected":                {},
	"vault_token_ttl_seconds":       {},
	"build_info":                    {"version": "", "commit": "", "goversion": ""},
}

const operations = "create list get update delete explore test token"

// scraped are the labels that Prometheus adds to all metrics.
var scraped = []string{"job", "instance"}

var (
	// The names that rules give to their results have colons, so they are no part of this.
	metricName = regexp.MustCompile(`\bflow_worker_([a-z0-9_]+)(?:\{([^}]*)\})?`)
	matcher    = regexp.MustCompile(`(\w+)(=~|!~|!=|=)"([^"]*)"`)
	histogram  = regexp.MustCompile(`^(\w+_seconds)_(?:bucket|sum|count)$`)
	aggregated = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

func reasons(keep func(provision.Reason) bool) string {
	var names []string
	for _, r := range provision.Reasons {
		if keep(r) {
			names = append(names, string(r))
		}
	}
	return strings.Join(names, " ")
}

// checkMetrics checks that every metric, label and label value in text exists.
func checkMetrics(text string) (problems []string) {
	found := metricName.FindAllStringSubmatch(text, -1)
	if len(found) == 0 {
		return []string{"no metric of the worker in it"}
	}
	labelsOf := map[string]string{}
	for _, m := range found {
		name := m[1]
		if h := histogram.FindStringSubmatch(name); h != nil && metrics[h[1]]["le"] == "" {
			name = h[1]
		}
		labels, ok := metrics[name]
		if !ok {
			problems = append(problems, "no metric flow_worker_"+m[1])
		}
		maps.Copy(labelsOf, labels)
		problems = append(problems, checkMatchers(m[1], m[2], labels)...)
	}
	for _, by := range aggregated.FindAllStringSubmatch(text, -1) {
		for label := range strings.SplitSeq(by[1], ", ") {
			if _, ok := labelsOf[label]; !ok && !slices.Contains(scraped, label) {
				problems = append(problems, "aggregates by "+label+", which none of its metrics has")
			}
		}
	}
	return problems
}

func checkMatchers(name, text string, labels map[string]string) (problems []string) {
	for _, m := range matcher.FindAllStringSubmatch(text, -1) {
		values, ok := labels[m[1]]
		if slices.Contains(scraped, m[1]) {
			continue
		}
		if !ok {
			problems = append(problems, fmt.Sprintf("flow_worker_%s has no label %s", name, m[1]))
			continue
		}
		for value := range strings.SplitSeq(m[3], "|") {
			if values != "" && !slices.Contains(strings.Fields(values), value) {
				problems = append(problems, fmt.Sprintf("flow_worker_%s is never %s=%q", name, m[1], value))
			}
		}
	}
	return problems
}

// The list above and docs/metrics.md agree, which a test of cmd/worker keeps as a running worker has them.
func TestMetricsAreThoseOfAWorker(t *testing.T) {
	t.Parallel()
	page := map[string]map[string]string{}
	for _, row := range metricRow.FindAllStringSubmatch(string(read(t, "../docs/metrics.md")), -1) {
		labels := map[string]string{}
		for _, l := range metricLabel.FindAllStringSubmatch(row[3], -1) {
			labels[l[1]] = sorted(strings.ReplaceAll(l[2], "`", ""))
		}
		if strings.HasPrefix(row[2], "histogram, classic and native ") {
			labels["le"] = ""
		}
		page[row[1]] = labels
	}
	known := map[string]map[string]string{}
	for name, labels := range metrics {
		known[name] = map[string]string{}
		for label, values := range labels {
			known[name][label] = sorted(values)
		}
	}
	if diff := cmp.Diff(known, page); diff != "" {
		t.Errorf("docs/metrics.md has other metrics (+) than are known here (-):\n%s", diff)
	}
}

var (
	metricRow   = regexp.MustCompile("(?m)^\\| `flow_worker_(\\w+)` \\| ([^|]*)\\|[^|]*\\| ([^|]*)\\|")
	metricLabel = regexp.MustCompile("`(\\w+)`(?:: ((?:`\\w+` ?)+))?")
)

func sorted(words string) string {
	return strings.Join(slices.Sorted(slices.Values(strings.Fields(words))), " ")
}

func TestCheckMetrics(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`sum by (outcome) (rate(flow_worker_requests_total{job="$job"}[5m]))`: "",
		`flow_worker_request_duration_seconds_bucket{le="60"}`:                "",
		`up == 0`:                        "no metric of the worker",
		`flow_worker_request_total`:      "no metric flow_worker_request_total",
		`flow_worker_paused_bucket`:      "no metric flow_worker_paused_bucket",
		`flow_worker_paused{target="x"}`: "no label target",
		`flow_worker_request_failures_total{reason=~"internal|boredom"}`: `never reason="boredom"`,
		`sum by (tenant) (flow_worker_requests_total)`:                   "aggregates by tenant",
	} {
		got := checkMetrics(text)
		if want == "" && len(got) > 0 || want != "" && !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("checkMetrics(%s) = %q, want %q", text, got, want)
		}
	}
}
