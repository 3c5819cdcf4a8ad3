package app

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/tracing/tracingtest"
)

// TestSpansTellNoSecret sends a worker that exports spans down every path on which a request can fail, as
// TestNothingLeaks does, and then looks for the canaries in everything that came to the collector. What it
// logged on the way says of every request which it is.
func TestSpansTellNoSecret(t *testing.T) {
	t.Parallel()
	w := newLeakWorld(t)
	collector := tracingtest.Start()
	t.Cleanup(collector.Close)
	w.canaries["collector's key"] = canary.New()
	w.start("VAULT_AUTH=approle", "VAULT_ROLE_ID=role", "VAULT_SECRET_ID_FILE="+w.file("secret-id", w.canaries["AppRole secret-id"]+"\n"),
		"OTEL_EXPORTER_OTLP_ENDPOINT="+collector.URL(), "OTEL_EXPORTER_OTLP_HEADERS=x-key="+url.QueryEscape(w.canaries["collector's key"]),
		"OTEL_BSP_MAX_QUEUE_SIZE=100000", "OTEL_BSP_SCHEDULE_DELAY=100")
	w.everyFailure()
	w.send("acme", "hangs", leakData("parrot|500|hang|plain|1", goodRef))
	w.secondThoughts()
	w.stop()
	hunt := w.hunt([]sink{{"log", w.log.String, nil, "worker is ready"}})
	if hunt.Search("spans", collector.Raw(), "collector's key") > 0 || hunt.Searched("spans") < 100_000 {
		t.Errorf("%d bytes of spans were searched", hunt.Searched("spans"))
	}
	if !strings.Contains(collector.Raw(), "X-Key: "+w.canaries["collector's key"]) {
		t.Error("the collector did not get its key")
	}
	for _, hit := range hunt.Hits() {
		t.Errorf("%s leaks %q as %s: …%s…", hit.Sink, hit.Canary, hit.Spelling, hit.Around)
	}
	checkSpanPaths(t, collector.Spans())
	n := checkRequestLines(t, w.log.String())
	t.Logf("%d lines about requests; searched:\n%s", n, hunt.Report())
}

// checkSpanPaths wants to see spans of failures of each kind, and none with more than a word on it.
func checkSpanPaths(t *testing.T, spans []tracingtest.Span) {
	t.Helper()
	seen := map[string]bool{}
	for _, s := range spans {
		seen[s.Name] = true
		seen[s.Attrs["error.type"]] = true
		if s.Failed && s.Message != s.Attrs["error.type"] || len(s.Message) > 20 || strings.Contains(s.Attrs["url.full"], "?") {
			t.Errorf("span %+v", s)
		}
	}
	for _, want := range []string{"GET /v1/{mount}/{path}", "POST /ims/token/v3", "POST /connections", "GET /connections", "ledger load", "ledger store",
		"send connections.deadletters.{tenant}", "400", "403", "503", "timeout", "failed", "internal", "flow_rejected", "vault_unavailable", "plaintext_secret"} {
		if !seen[want] {
			t.Errorf("no span with %s", want)
		}
	}
}

// checkRequestLines wants every line about a request to say which, and returns how many there are.
func checkRequestLines(t *testing.T, log string) (n int) {
	t.Helper()
	for line := range strings.Lines(log) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if !aboutRequest(fields) {
			continue
		}
		n++
		for _, name := range []string{"tenant", "source", "id", "seq", "delivered", "attempt", "trace_id"} {
			if v, ok := fields[name]; !ok || v == "" {
				t.Errorf("no %s in %s", name, line)
			}
		}
	}
	if n == 0 {
		t.Error("no line is about a request")
	}
	return n
}

// aboutRequest reports whether a line has a field that only a request has. (The source of a line may be the code.)
func aboutRequest(fields map[string]any) bool {
	for _, name := range []string{"tenant", "id", "seq", "delivered", "attempt", "trace_id", "subject", "sandbox", "operation", "verdict", "settled", "outcome", "log_id"} {
		if fields[name] != nil && fields["msg"] != "NATS reports an error" { // whose subject is NATS's
			return true
		}
	}
	return false
}
