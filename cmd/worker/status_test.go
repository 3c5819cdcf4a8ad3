package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

// What a request went through is told in plain words, and what can be done about it.
func TestStatusTellsTheStory(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.flow.SetFaults(
		flowtest.Fault{Operation: flowtest.OpCreate, Name: "throttled", Effect: flowtest.EffectStatus, Status: 429, Times: 2},
		flowtest.Fault{Operation: flowtest.OpCreate, Name: "lost", Effect: flowtest.EffectReset, When: flowtest.StageAfter, Times: 1},
		flowtest.Fault{Operation: flowtest.OpCreate, Name: "refused", Effect: flowtest.EffectClusterStopped},
	)
	w.environ = append(w.environ, "WORKER_REQUEST_DEADLINE=2s", "WORKER_RETRY_INITIAL=100ms")
	w.start()
	for name, wants := range map[string][]string{
		"throttled": {"POSTs +3", `throttled; waiting as long as the Flow Service asks \(flow: HTTP 429`, "the POST made the connection\n", "created connection "},
		"lost": {"POSTs +1\n", `no answer to the POST: it may have made a connection, so it is looked up, not repeated \(flow: `,
			"looked up: it is there, with this request's mark; adopted\n", "state +adopted\n"},
		"refused": {"state +failed flow_unavailable\n", "the Databricks cluster does not run yet",
			"worker retry --tenant acme --source /worker/submit refused +sends it again, once its cause is mended"},
	} {
		w.worker(request(name, goodToken), "submit", "--tenant", "acme", "--id", name, "--wait", "-")
		r := w.worker("", "status", name)
		for _, want := range wants {
			if !regexp.MustCompile(want).MatchString(r.stdout) {
				t.Errorf("%s: no %q in the story, exit %d:\n%s%s", name, want, r.code, r.stdout, r.stderr)
			}
		}
	}
	open := w.statusOfOpen()
	if !regexp.MustCompile(`next +.*looks? up whether the POST made a connection`).MatchString(open) || strings.Contains(open, "worker retry") {
		t.Errorf("of one that has not ended:\n%s", open)
	}
}

// statusOfOpen returns the status of a request whose POST is open.
func (w *testWorld) statusOfOpen() string {
	w.t.Helper()
	w.stopWorker()
	w.store(w.jetStream(), "open", "unknown", 7)
	return w.worker("", "status", "open").stdout
}
