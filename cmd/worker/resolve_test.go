package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// newUnsettledWorld runs a worker that gives up soon, in a world whose Flow Service cuts the marks off.
func newUnsettledWorld(t *testing.T) *testWorld {
	t.Helper()
	w := newTestWorld(t)
	w.environ = append(w.environ, "WORKER_REQUEST_DEADLINE=2s", "WORKER_SETTLE=1s", "USER=ada")
	w.flow.AddFault(flowtest.Fault{Effect: flowtest.EffectTruncate})
	w.start()
	return w
}

// submitUnsettled submits a request that ends as outcome_unknown.
func (w *testWorld) submitUnsettled(id, name string) {
	w.t.Helper()
	r := w.worker(request(name, goodToken), "submit", "--tenant", "acme", "--id", id, "--wait", "-")
	if r.code != exitFailed || !strings.Contains(r.stdout, "failed: outcome_unknown") {
		w.t.Fatalf("submit: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	w.awaitLetter(id, 0)
}

// awaitLetter waits for the dead letter of a request's try: it comes after the record that tells of it.
func (w *testWorld) awaitLetter(id string, retry int) {
	w.t.Helper()
	for w.t.Context().Err() == nil {
		r := w.worker("", "retry", id, "--dry-run", "--json")
		var line replayed
		if json.Unmarshal([]byte(r.stdout), &line) == nil && line.Status == "would_send" && line.Retry == retry+1 {
			return
		}
	}
}

// outcomes returns the outcomes that were told for a request, in order.
func (w *testWorld) outcomes(id string) (told []string) {
	w.t.Helper()
	ctx := w.t.Context()
	stream, err := w.jetStream().Stream(ctx, consumer.StreamResults)
	if err != nil {
		w.t.Fatal(err)
	}
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		msg, err := stream.GetMsg(ctx, seq)
		if err != nil {
			w.t.Fatal(err)
		}
		if res, err := event.DecodeResult(msg.Data); err == nil && res.Request.ID == id {
			reason := ""
			if res.Error != nil {
				reason = " " + string(res.Error.Reason)
			}
			told = append(told, res.Outcome+reason)
		}
	}
	return told
}

// A token is refused before anything is sent: it would have to be changed.
func TestResolveRefusesATokenBeforeItIsSent(t *testing.T) {
	t.Parallel()
	const token = "dapi0123456789abcdef0123456789abcdef"
	for flag, args := range map[string][]string{
		"--reason":     {"--absent", "--reason", "looked with " + token, "--by", "ada"},
		"--by":         {"--absent", "--reason", "x", "--by", token},
		"--connection": {"--connection", token, "--reason", "x", "--by", "ada"},
	} {
		for _, as := range []string{"--json=false", "--json"} { // there is no NATS to send it to
			r := worker(t, []string{"NATS_URL=nats://127.0.0.1:1"}, "", append([]string{"resolve", "r-1", "--yes", as}, args...)...)
			if r.code != exitUsage || !strings.Contains(r.stdout+r.stderr, flag+": holds what looks like a token") || strings.Contains(r.stdout+r.stderr, token) {
				t.Errorf("%s: exit %d:\n%s%s", flag, r.code, r.stdout, r.stderr)
			}
		}
	}
}

// What the POST made is there, but without its mark: no look-up can tell that it is this request's.
func TestResolveByNamingTheConnection(t *testing.T) {
	t.Parallel()
	w := newUnsettledWorld(t)
	w.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectReset, When: flowtest.StageAfter, Times: 1})
	w.submitUnsettled("r-1", "A")
	made := w.flow.Connections()[0].ID
	r := w.worker("", "resolve", "r-1", "--connection", made, "--reason", "found in the UI\tby its name", "--yes")
	if r.code != exitUsage || !strings.Contains(r.stderr, "--reason: want 1 to 512 bytes of printable text") {
		t.Errorf("a reason with a tab: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	r = w.worker("", "resolve", "r-1", "--connection", made, "--reason", "found in the UI by its name", "--yes", "--json")
	var v settledView
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil || r.code != exitOK || v.Status != "created" || v.Connection != made || v.Retry != 1 {
		t.Fatalf("exit %d, %v:\n%s%s", r.code, err, r.stdout, r.stderr)
	}
	if n := w.flow.Count(flowtest.OpCreate); n != 1 {
		t.Errorf("%d POSTs", n)
	}
	s := w.worker("", "status", "r-1")
	if !strings.Contains(s.stdout, "the message says that it made "+made+", said to be by ada: found in the UI by its name") {
		t.Errorf("its story:\n%s", s.stdout)
	}
	w.awaitEmpty(w.jetStream())
	if told := w.outcomes("r-1"); len(told) != 2 || told[1] != "created" {
		t.Errorf("told %q", told)
	}
	w.checkOver(made)
}

// checkOver finds that what is settled can be neither settled nor retried again.
func (w *testWorld) checkOver(made string) {
	w.t.Helper()
	for _, args := range []string{"resolve r-1 --absent --reason x --yes", "resolve r-1 --connection other --reason x --yes"} {
		if r := w.worker("", strings.Fields(args)...); r.code != exitFailed || !strings.Contains(r.stderr, "it has its connection by now") {
			w.t.Errorf("%s: exit %d:\n%s%s", args, r.code, r.stdout, r.stderr)
		}
	}
	r := w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "-")
	if r.code != exitOK || !strings.Contains(r.stdout, made) || len(w.flow.Connections()) != 1 {
		w.t.Errorf("sent again: exit %d, %d connections:\n%s%s", r.code, len(w.flow.Connections()), r.stdout, r.stderr)
	}
}

// Another's connection looks like this request's, so no retry can get on by itself.
func TestResolveByAbsence(t *testing.T) {
	t.Parallel()
	w := newUnsettledWorld(t)
	w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "other", "--wait", "-")
	w.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectStatus, Status: 500, Times: 1})
	w.submitUnsettled("r-1", "A")

	r := w.worker("", "resolve", "r-1", "--connection", "no-such", "--reason", "a typo", "--yes")
	if r.code != exitFailed || !strings.Contains(r.stdout, "not resolved: ") || !strings.Contains(r.stdout, "there is no connection no-such") {
		t.Errorf("one that is not there: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	w.awaitLetter("r-1", 1)
	r = w.worker("", "resolve", "r-1", "--absent", "--reason", "CHG-1", "--by", "bob", "--yes")
	if r.code != exitOK || !strings.Contains(r.stdout, "settled: its POST made no connection") {
		t.Fatalf("absent: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if n := w.flow.Count(flowtest.OpCreate); n != 2 {
		t.Errorf("%d POSTs before the retry, one of them the other's", n)
	}
	w.awaitLetter("r-1", 2)
	if r := w.worker("", "resolve", "r-1", "--absent", "--reason", "again", "--yes"); r.code != exitFailed || !strings.Contains(r.stderr, "it failed with flow_unavailable, and only outcome_unknown can be settled") {
		t.Errorf("again: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	w.worker("", "retry", "r-1", "--yes")
	if rec := w.ends("r-1", 3); rec.State != provision.StateCreated || w.flow.Count(flowtest.OpCreate) != 3 || len(w.flow.Connections()) != 2 {
		t.Errorf("%s after %d POSTs, %d connections", rec.State, w.flow.Count(flowtest.OpCreate), len(w.flow.Connections()))
	}
	w.awaitEmpty(w.jetStream())
	want := "failed outcome_unknown, failed outcome_unknown, failed flow_unavailable, created"
	if told := strings.Join(w.outcomes("r-1"), ", "); told != want {
		t.Errorf("told %s", told)
	}
}

// With the mark in place the look-up knows better than a person.
func TestResolveCannotContradictTheMark(t *testing.T) {
	t.Parallel()
	w := newUnsettledWorld(t)
	w.flow.SetFaults(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectReset, When: flowtest.StageAfter, Times: 1},
		flowtest.Fault{Operation: flowtest.OpList, Effect: flowtest.EffectStatus, Status: 403})
	w.submitUnsettled("r-1", "A")
	r := w.worker("", "resolve", "r-1", "--absent", "--reason", "x", "--yes")
	if r.code != exitFailed || !strings.Contains(r.stdout, "could not be asked") {
		t.Errorf("no look-up: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	w.awaitLetter("r-1", 1)
	w.flow.SetFaults()
	r = w.worker("", "resolve", "r-1", "--absent", "--reason", "x", "--yes")
	made := w.flow.Connections()
	if r.code != exitOK || len(made) != 1 || !strings.Contains(r.stdout, "adopted connection "+made[0].ID+", which carries this request's mark") {
		t.Errorf("exit %d, %d connections:\n%s%s", r.code, len(made), r.stdout, r.stderr)
	}
}

func TestResolveIsRefused(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.start()
	w.submitFailing("late")
	w.awaitLetter("late", 0)
	for args, want := range map[string]string{
		"late":                 "it failed with secret_not_found, and only outcome_unknown can be settled",
		"unknown":              "no request with this id has failed",
		"unknown --tenant a-b": "no request with this id has failed",
	} {
		r := w.worker("", append(strings.Fields("resolve "+args), "--absent", "--reason", "x", "--by", "ada", "--yes")...)
		if r.code != exitFailed || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: exit %d:\n%s%s", args, r.code, r.stdout, r.stderr)
		}
	}
	w.worker(request("Late", "vault:databricks/late#accessToken"), "submit", "--tenant", "acme", "--id", "late", "--source", "/else", "--wait", "-")
	if r := w.worker("", "resolve", "late", "--absent", "--reason", "x", "--by", "ada", "--yes"); r.code != exitUsage || !strings.Contains(r.stderr, "/else") {
		t.Errorf("ambiguous: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
}

func TestResolveWaitsNoLongerThanItIsTold(t *testing.T) {
	t.Parallel()
	w := newUnsettledWorld(t)
	w.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectReset, When: flowtest.StageAfter, Times: 1})
	w.submitUnsettled("r-1", "A")
	w.stopWorker()
	made := w.flow.Connections()[0].ID
	r := w.worker("", "resolve", "r-1", "--connection", made, "--reason", "x", "--yes", "--timeout", "100ms")
	if r.code != exitFailed || !strings.Contains(r.stderr, "no worker has settled it yet") {
		t.Errorf("exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	again := &resolution{cli: &cli{stdin: strings.NewReader("n\n"), stderr: &safeBuffer{}}, said: provision.Resolution{Connection: made}}
	if err := again.confirmed(context.Background(), provision.Record{}); err == nil || !strings.Contains(again.stderr.(*safeBuffer).String(), "that its POST made connection "+made) {
		t.Errorf("%v after %s", err, again.stderr)
	}
}
