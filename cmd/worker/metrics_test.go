package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

var update = flag.Bool("update", false, "rewrite the generated part of docs/metrics.md")

// The formats of a scrape.
const (
	plainText   = "text/plain"
	openMetrics = "application/openmetrics-text; version=1.0.0"
	protobuf    = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)

// scrape returns what a worker shows to a Prometheus that asks for a format, and the format that it is in.
func (w *testWorld) scrape(accept string) (body, format string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.address("http")+"/metrics", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b), resp.Header.Get("Content-Type")
}

// shows scrapes until a line begins with the text.
func (w *testWorld) shows(line string) {
	w.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		body, _ := w.scrape(plainText)
		if strings.Contains(body, "\n"+line) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("no line %s in\n%s", line, body)
		}
	}
}

// The whole registry of a worker that has just begun, as client_golang's own linter sees it; and as the
// page on metrics describes it. Then requests end in all sorts of ways, and no series is new.
func TestMetricsOfAWorker(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.start()
	text, _ := w.scrape(plainText)
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	families := readFamilies(text)
	if len(families) < 40 {
		t.Errorf("only %d metrics", len(families))
	}
	checkMetricsPage(t, metricsTable(families))
	w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "good", "--wait", "-")
	w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "good", "--wait", "-")
	w.worker(request("B", goodToken), "submit", "--tenant", "nobody", "--id", "bad", "--wait", "-")
	w.publish("acme", request("C", "plaintext"))
	w.publish("Nobody", "{}")
	w.shows(`flow_worker_requests_total{outcome="failed"} 2`)
	w.shows(`flow_worker_deliveries_total{settled="term"} 1`)
	after, _ := w.scrape(plainText)
	for _, f := range readFamilies(after) {
		if i := slices.IndexFunc(families, func(b family) bool { return b.name == f.name }); f.ours() && (i < 0 || len(families[i].samples) != len(f.samples)) {
			t.Errorf("%s has series that were not there from the start: %q", f.name, f.samples)
		}
	}
}

// family is a metric in the text format.
type family struct {
	name, kind, help string
	samples          []string // with their labels, without values
}

func (f family) ours() bool { return strings.HasPrefix(f.name, "flow_worker_") }

// readFamilies reads the text format, as far as the tests here need it.
func readFamilies(text string) (all []family) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		words := strings.SplitN(line, " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			all = append(all, family{name: words[2], help: words[3]})
		case strings.HasPrefix(line, "# TYPE "):
			all[len(all)-1].kind = words[3]
		default:
			last := &all[len(all)-1]
			last.samples = append(last.samples, line[:strings.LastIndexByte(line, ' ')])
		}
	}
	return all
}

// metricsTable describes the worker's own metrics.
func metricsTable(families []family) string {
	var b strings.Builder
	b.WriteString("| metric | type | unit | labels and their values | what it is |\n|---|---|---|---|---|\n")
	buckets := ""
	for _, f := range families {
		if !f.ours() {
			continue
		}
		labels, bounds := f.labels()
		kind := f.kind
		if kind == "histogram" {
			kind += ", classic and native"
			buckets += fmt.Sprintf("\nClassic buckets of `%s`, in seconds: %s.\n", f.name, strings.Join(bounds, ", "))
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", f.name, kind, f.unit(), labels, f.help)
	}
	return b.String() + buckets
}

func (f family) unit() string {
	switch {
	case strings.HasSuffix(f.name, "_seconds"):
		return "seconds"
	case strings.HasPrefix(f.help, "1 while "):
		return "0 or 1"
	case strings.HasPrefix(f.help, "Always 1"):
		return "1"
	}
	return "count"
}

var labelPair = regexp.MustCompile(`(\w+)="([^"]*)"`)

// labels lists a metric's labels and all their values; and the upper bounds of a histogram's buckets.
func (f family) labels() (text string, bounds []string) {
	var names []string
	values := map[string][]string{} // :: label → values
	for _, s := range f.samples {
		for _, m := range labelPair.FindAllStringSubmatch(s, -1) {
			if !slices.Contains(values[m[1]], m[2]) {
				values[m[1]] = append(values[m[1]], m[2])
			}
			if !slices.Contains(names, m[1]) && m[1] != "le" {
				names = append(names, m[1])
			}
		}
	}
	for i, n := range names {
		if f.name == "flow_worker_build_info" {
			names[i] = "`" + n + "`"
		} else {
			names[i] = "`" + n + "`: `" + strings.Join(values[n], "` `") + "`"
		}
	}
	return strings.Join(names, "; "), values["le"]
}

const metricsPage = "docs/metrics.md"

// checkMetricsPage compares the generated part of the page with what a worker shows.
func checkMetricsPage(t *testing.T, want string) {
	t.Helper()
	const begin, end = "<!-- generated: cmd/worker, TestMetricsOfAWorker -->\n", "<!-- end: generated -->\n"
	head, rest, found := strings.Cut(readDoc(t, metricsPage), begin)
	was, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no generated part", metricsPage)
	}
	if *update {
		if err := os.WriteFile("../../"+metricsPage, []byte(head+begin+want+end+tail), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(was, want); diff != "" {
		t.Errorf("%s says other than what a worker shows; if that is as it should be, run this test with -args -update (-page +worker):\n%s", metricsPage, diff)
	}
}

// Exemplars lead from a metric to a trace, for who asks for OpenMetrics; the plain format has none. Native
// histograms are in the protobuf format only.
func TestFormatsOfMetrics(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.start()
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	m := nats.NewMsg("connections.requests.acme")
	m.Data, m.Header = []byte(request("Traced", goodToken)), nats.Header{"traceparent": {"00-" + id + "-00f067aa0ba902b7-01"}}
	if _, err := w.jetStream().PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	w.shows(`flow_worker_requests_total{outcome="created"} 1`)
	for accept, want := range map[string]bool{openMetrics: true, plainText: false} {
		body, format := w.scrape(accept)
		for _, name := range []string{"flow_worker_requests_total", "flow_worker_request_duration_seconds_bucket", "flow_worker_flow_requests_total",
			"flow_worker_flow_request_duration_seconds_bucket"} {
			if got := hasExemplar(body, name, id); got != want {
				t.Errorf("%s: an exemplar of %s: %v, want %v", format, name, got, want)
			}
		}
		if !strings.HasPrefix(format, strings.SplitN(accept, ";", 2)[0]) {
			t.Errorf("asked for %s, got %s", accept, format)
		}
	}
	if body, format := w.scrape(protobuf); !strings.HasPrefix(format, "application/vnd.google.protobuf") || !strings.Contains(body, id) {
		t.Errorf("asked for protobuf, got %s", format)
	}
}

func hasExemplar(text, name, id string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, `# {trace_id="`+id+`"}`) {
			return true
		}
	}
	return false
}
