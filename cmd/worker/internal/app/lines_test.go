package app_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

// mixedLoad are requests of all kinds, by the beginning of their names.
var mixedLoad = []struct {
	name    string
	fault   *flowtest.Fault // what happens to them at the Flow Service
	data    string          // replaces part of the data: old|new
	outcome string
}{
	{"good", nil, "", "created"},
	{"throttled", &flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectStatus, Status: 429, Times: 3}, "", "created"},
	{"handed-back", &flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectStatus, Status: 429, Times: 2, RetryAfter: time.Second}, "", "created"},
	{"answer-lost", &flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectReset, When: flowtest.StageAfter, Times: 1}, "", "created"},
	{"broken-off", &flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectReset, When: flowtest.StageBefore, Times: 1}, "", "created"},
	{"failing", &flowtest.Fault{Operation: flowtest.OpAny, Effect: flowtest.EffectStatus, Status: 500, Times: 3}, "", "created"},
	{"refused", &flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectStatus, Status: 400}, "", "failed"},
	{"missing", nil, "vault:dbx|vault:nothing", "failed"},
	{"plaintext", nil, "vault:dbx#accessToken|dapi0123456789", "failed"},
	{"unknown-field", nil, `"database"|"datebase"`, "failed"},
}

// submitMixed sends n requests of each kind, two tenants taking turns, each twice where twice says so, and
// returns what becomes of them, by id.
func (w *traceWorld) submitMixed(n int, twice bool) (want map[string]string) {
	w.t.Helper()
	want = map[string]string{}
	for _, kind := range mixedLoad {
		if f := kind.fault; f != nil {
			with := *f
			with.NamePrefix = kind.name
			w.emulator.AddFault(with)
		}
	}
	for i := range n {
		for _, kind := range mixedLoad {
			id := fmt.Sprintf("req-%s-%d", kind.name, i)
			data := traceData(fmt.Sprint(kind.name, " ", i))
			if kind.data != "" {
				old, with, _ := strings.Cut(kind.data, "|")
				data = strings.Replace(data, old, with, 1)
			}
			tenant := []string{"acme", "globex"}[i%2]
			want[id] = kind.outcome
			var headers []string
			if i%3 == 0 {
				headers = []string{"traceparent", fmt.Sprintf("00-%032x-%016x-01", i+1, i+1)}
			}
			w.submit(tenant, id, data, headers...)
			if twice && i == 0 {
				w.submit(tenant, id, data, append(headers, "Nats-Msg-Id", id+"-repeat")...)
			}
		}
	}
	return want
}

// At level info there is exactly one line about each request: that it is finished.
func TestInfoIsOneLinePerFinishedRequest(t *testing.T) {
	t.Parallel()
	w := newTraceWorld(t)
	stop := w.run("LOG_LEVEL=info")
	want := w.submitMixed(6, true)
	drained(w)
	stop()
	got := map[string]int{}
	for _, line := range w.log.lines(t) {
		id, about := line["id"].(string)
		if !about {
			if text, _ := json.Marshal(line); strings.Contains(string(text), "req-") {
				t.Errorf("a line about a request without its id: %s", text)
			}
			continue
		}
		got[id]++
		if line["msg"] != "request finished" || line["level"] != "INFO" || line["outcome"] != want[id] && line["outcome"] != "adopted" {
			t.Errorf("%s, which was to be %s: %v", id, want[id], line)
		}
	}
	for id := range want {
		if got[id] != 1 {
			t.Errorf("%s has %d lines", id, got[id])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d requests have lines, want %d", len(got), len(want))
	}
}

// At level debug every line about a request has tenant, id, attempt and trace, and all lines of one
// request's message have the same trace.
func TestEveryLineSaysWhichRequest(t *testing.T) {
	t.Parallel()
	w := newTraceWorld(t)
	stop := w.run("LOG_LEVEL=debug")
	want := w.submitMixed(3, true)
	drained(w)
	stop()
	traces, kinds, attempts := map[string]string{}, map[string]int{}, 0.0
	for _, line := range w.log.lines(t) {
		text, _ := json.Marshal(line)
		_, about := line["tenant"]
		if !about && !strings.Contains(string(text), "req-") {
			continue
		}
		id, _ := line["id"].(string)
		attempt, numbered := line["attempt"].(float64)
		trace, _ := line["trace_id"].(string)
		if line["tenant"] != "acme" && line["tenant"] != "globex" || want[id] == "" || !numbered || len(trace) != 32 {
			t.Errorf("not all that a line about a request has: %s", text)
			continue
		}
		if traces[id] != "" && traces[id] != trace {
			t.Errorf("%s is in the traces %s and %s", id, traces[id], trace)
		}
		traces[id] = trace
		kinds[line["msg"].(string)]++
		attempts = max(attempts, attempt)
	}
	for _, msg := range []string{"request finished", "message settled", "flow: call succeeded", "flow: call failed", "the POST made no connection that we know of"} {
		if kinds[msg] == 0 {
			t.Errorf("no line %q about a request, but %v", msg, kinds)
		}
	}
	if len(traces) != len(want) || attempts < 2 {
		t.Errorf("lines about %d of %d requests, at most %v attempts", len(traces), len(want), attempts)
	}
	t.Logf("%v", kinds)
}
