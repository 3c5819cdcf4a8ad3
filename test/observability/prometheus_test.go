//go:build prometheus

package observability

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/natstest"
)

// server is a Prometheus.
type server struct {
	t    *testing.T
	base string
}

// newServer starts a Prometheus that scrapes the targets every second, with the rules.
func newServer(t *testing.T, targets []string, features ...string) *server {
	t.Helper()
	path := os.Getenv("FLOW_WORKER_PROMETHEUS")
	if path == "" {
		var err error
		if path, err = exec.LookPath("prometheus"); err != nil {
			t.Fatalf("%v; set FLOW_WORKER_PROMETHEUS, or install it (Debian: apt-get install prometheus)", err)
		}
	}
	rules, err := filepath.Abs(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	quoted, err := json.Marshal(targets)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "prometheus.yml")
	text := fmt.Sprintf("global: { scrape_interval: 1s, evaluation_interval: 1s }\nrule_files: [%q]\n"+
		"scrape_configs: [{ job_name: flow-worker, static_configs: [{ targets: %s }] }]\n", rules, quoted)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ports, err := natstest.FreePorts(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("127.0.0.1:%d", ports[0])
	p := start(t, "prometheus", nil, path, "--config.file="+config, "--storage.tsdb.path="+t.TempDir(), "--web.listen-address="+at,
		"--enable-feature="+strings.Join(features, ","))
	p.await(t, "Server is ready to receive web requests")
	return &server{t: t, base: "http://" + at + "/api/v1/"}
}

// get asks the API and decodes what it answers as data.
func (s *server) get(path string, params url.Values, data any) error {
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.base+path+"?"+params.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", resp.Status, answer.Error)
	}
	return json.Unmarshal(answer.Data, data)
}

// values asks a query and returns the values of its answer that are numbers.
func (s *server) values(expr string) (numbers []float64, err error) {
	var data struct {
		ResultType string
		Result     json.RawMessage
	}
	if err := s.get("query", url.Values{"query": {expr}}, &data); err != nil {
		return nil, err
	}
	var vector []struct{ Value [2]any }
	if data.ResultType != "vector" {
		return nil, fmt.Errorf("the answer is a %s, want a vector", data.ResultType)
	}
	if err := json.Unmarshal(data.Result, &vector); err != nil {
		return nil, err
	}
	for _, sample := range vector {
		text, _ := sample.Value[1].(string)
		if v, err := strconv.ParseFloat(text, 64); err == nil && text != "NaN" {
			numbers = append(numbers, v)
		}
	}
	return numbers, nil
}

// sum adds up what a query answers; 0 if nothing.
func (s *server) sum(expr string) (sum float64) {
	s.t.Helper()
	numbers, err := s.values(expr)
	if err != nil {
		s.t.Fatalf("%s: %v", expr, err)
	}
	for _, v := range numbers {
		sum += v
	}
	return sum
}

// exemplars returns how many exemplars of a metric lead to the trace.
func (s *server) exemplars(metric, trace string) (n int) {
	s.t.Helper()
	var data []struct {
		Exemplars []struct{ Labels map[string]string }
	}
	now := time.Now()
	err := s.get("query_exemplars", url.Values{"query": {metric}, "start": {now.Add(-time.Hour).Format(time.RFC3339)}, "end": {now.Add(time.Minute).Format(time.RFC3339)}}, &data)
	if err != nil {
		s.t.Fatalf("exemplars of %s: %v", metric, err)
	}
	for _, series := range data {
		for _, e := range series.Exemplars {
			if e.Labels["trace_id"] == trace {
				n++
			}
		}
	}
	return n
}

// rules returns how many rules were evaluated well, and which were not.
func (s *server) rules() (well int, bad []string) {
	s.t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := s.get("rules", nil, &data); err != nil {
		s.t.Fatal(err)
	}
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			if r.Health == "ok" && r.LastError == "" {
				well++
			} else {
				bad = append(bad, fmt.Sprintf("%s is %s: %s", r.Name, r.Health, r.LastError))
			}
		}
	}
	return well, bad
}

// answers reports whether a query has an answer that is a number; a moment's grace is for what has yet to
// be scraped or recorded.
func (s *server) answers(q query) bool {
	s.t.Helper()
	for range grace {
		numbers, err := s.values(q.expr)
		if err != nil {
			s.t.Errorf("%s: %s: %v", q.from, q.expr, err)
			return false
		}
		if len(numbers) > 0 {
			return true
		}
		select {
		case <-time.After(time.Second):
		case <-s.t.Context().Done():
		}
	}
	s.t.Errorf("%s: %s has no answer", q.from, q.expr)
	return false
}

// grace is for how many looks, a second apart, a query may be without an answer.
const grace = 20
