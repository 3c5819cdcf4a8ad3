package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// submitFailing submits a request whose secret isn't there yet, and waits for its failure.
func (w *testWorld) submitFailing(id string) {
	w.t.Helper()
	r := w.worker(request("Late", "vault:databricks/late#accessToken"), "submit", "--tenant", "acme", "--id", id, "--wait", "-")
	if r.code != exitFailed || !strings.Contains(r.stdout, "failed: secret_not_found") {
		w.t.Fatalf("submit: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// ends follows a request until the try with the given number has ended, and returns its record.
func (w *testWorld) ends(id string, retry int) provision.Record {
	w.t.Helper()
	for {
		var rec provision.Record
		r := w.worker("", "status", "--watch", "--json", id)
		lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &rec); err != nil || w.t.Context().Err() != nil {
			w.t.Fatalf("status: exit %d, %v:\n%s%s", r.code, err, r.stdout, r.stderr)
		}
		if rec.Retry == retry && rec.Final != nil {
			return rec
		}
	}
}

func TestRetry(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.environ = append(w.environ, "VAULT_CACHE_TTL=0") // else "not found" is remembered for 2 s
	w.start()
	w.submitFailing("r-1")

	dry := w.worker("", "retry", "r-1", "--dry-run")
	if dry.code != exitOK || !strings.Contains(dry.stdout, "secret_not_found") || strings.Contains(dry.stdout, "sent as") {
		t.Errorf("--dry-run: exit %d:\n%s%s", dry.code, dry.stdout, dry.stderr)
	}
	first := w.worker("", "retry", "r-1", "--yes")
	if first.code != exitOK || !strings.Contains(first.stdout, "r-1  sent as retry 1") {
		t.Fatalf("first retry: exit %d:\n%s%s", first.code, first.stdout, first.stderr)
	}
	if rec := w.ends("r-1", 1); rec.State != provision.StateFailed {
		t.Fatalf("the secret isn't there yet, but the first retry ended as %s", rec.State)
	}
	w.vault.Put("flow/tenants/acme/databricks/late", map[string]any{"accessToken": databricksToken})
	w.retrySecond()
	rec := w.ends("r-1", 2)
	if rec.State != provision.StateCreated || w.flow.Count(flowtest.OpCreate) != 1 {
		t.Fatalf("ended as %s after %d POSTs", rec.State, w.flow.Count(flowtest.OpCreate))
	}
	w.retryWhatIsOver()
	if r := w.worker(request("Late", "vault:databricks/late#accessToken"), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "-"); r.code != exitOK ||
		!strings.Contains(r.stdout, rec.Final.Result.Connection.ID) {
		t.Errorf("its outcome, told again: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// retrySecond retries by reason, as JSON. The dead letter of the first retry comes only after its
// record, so it may have to be waited for.
func (w *testWorld) retrySecond() {
	t := w.t
	t.Helper()
	var line replayed
	for line.Status != "sent" {
		r := w.worker("", "retry", "--reason", "secret_not_found", "--tenant", "acme", "--since", "1h", "--yes", "--json")
		if err := json.Unmarshal([]byte(r.stdout), &line); err != nil || t.Context().Err() != nil {
			t.Fatalf("second retry: exit %d, %v:\n%s%s", r.code, err, r.stdout, r.stderr)
		}
	}
	if line.ID != "r-1" || line.Retry != 2 || line.Seq == 0 || line.Reason != provision.ReasonSecretNotFound {
		t.Errorf("second retry: %+v", line)
	}
}

func (w *testWorld) retryWhatIsOver() {
	t := w.t
	t.Helper()
	if r := w.worker("", "retry", "r-1", "--yes"); r.code != exitFailed || !strings.Contains(r.stdout, "refused: it has its connection by now") {
		t.Errorf("a created one: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if r := w.worker("", "retry", "--reason", "secret_not_found", "--yes"); r.code != exitOK || !strings.Contains(r.stdout, "skipped: it has its connection by now") {
		t.Errorf("a created one by reason: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if r := w.worker("", "retry", "--reason", "crash_loop", "--yes"); r.code != exitOK || !strings.Contains(r.stderr, "no failed request matches") {
		t.Errorf("none of a reason: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if r := w.worker("", "retry", "no-such", "--yes", "--json"); r.code != exitFailed || !strings.Contains(r.stdout, `"status":"refused"`) {
		t.Errorf("an unknown one: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// A dead letter whose connection had in truth been made is retried: that one is adopted, none is made.
func TestRetryOfWhatHadBeenMade(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.environ = append(w.environ, "WORKER_REQUEST_DEADLINE=2s", "WORKER_SETTLE=1s")
	w.flow.SetFaults(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectReset, When: flowtest.StageAfter, Times: 1},
		flowtest.Fault{Operation: flowtest.OpList, Effect: flowtest.EffectStatus, Status: 403})
	w.start()
	r := w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "-")
	if r.code != exitFailed || !strings.Contains(r.stdout, "outcome_unknown") {
		t.Fatalf("submit: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	w.flow.SetFaults()
	w.awaitLetter("r-1", 0)
	w.worker("", "retry", "--reason", "outcome_unknown", "--yes")
	rec, made := w.ends("r-1", 1), w.flow.Connections()
	if rec.State != provision.StateCreated || !rec.Final.Result.Adopted || rec.Final.Result.Attempts != 0 {
		t.Fatalf("ended as %s, %+v", rec.State, rec.Final)
	}
	if n := w.flow.Count(flowtest.OpCreate); n != 1 || len(made) != 1 || made[0].ID != rec.Final.Result.Connection.ID {
		t.Errorf("%d POSTs, connections %+v", n, made)
	}
	w.awaitEmpty(w.jetStream())
	if told := strings.Join(w.outcomes("r-1"), ", "); told != "failed outcome_unknown, created" {
		t.Errorf("told %s", told)
	}
}

func TestRetryOfSeveral(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.start()
	for _, id := range []string{"a", "b"} {
		w.submitFailing(id)
	}
	r := w.worker("", "retry", "--reason", "secret_not_found", "--limit", "1", "--dry-run", "--json")
	if r.code != exitOK || strings.Count(r.stdout, "would_send") != 1 || !strings.Contains(r.stderr, "leaves out 1 request\n") {
		t.Errorf("--limit: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	w.worker(request("Late", "vault:databricks/late#accessToken"), "submit", "--tenant", "acme", "--id", "a", "--source", "/else", "--wait", "-")
	if r := w.worker("", "retry", "a", "--yes"); r.code != exitUsage || !strings.Contains(r.stderr, "/else") {
		t.Errorf("an ambiguous id: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	r = w.worker("", "retry", "a", "b", "--source", "/worker/submit", "--rate", "50", "--yes")
	if r.code != exitOK || strings.Count(r.stdout, "sent as retry 1") != 2 {
		t.Errorf("two ids: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
}

func TestConfirmation(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{"y\n": true, "YES\n": true, " yes \n": true, "y": true, "n\n": false, "\n": false, "": false, "yo\n": false} {
		var errs safeBuffer
		r := &replay{cli: &cli{stdin: strings.NewReader(in), stderr: &errs}}
		if yes, err := r.confirm(t.Context(), "Sure? "); yes != want || err != nil || errs.String() != "Sure? " {
			t.Errorf("%q: got %v, %v after %q", in, yes, err, errs.String())
		}
		err := r.confirmed(t.Context(), 2) // the input is at its end
		if err == nil || err.Error() != "nothing was sent" || !strings.Contains(errs.String(), "Send 2 requests again?") {
			t.Errorf("%q: got %v after %q", in, err, errs.String())
		}
	}
	broken, closeIt := io.Pipe()
	_ = closeIt.CloseWithError(errors.New("broken"))
	r := &replay{cli: &cli{stdin: broken, stderr: io.Discard}}
	if yes, err := r.confirm(t.Context(), ""); yes || err == nil {
		t.Errorf("broken input: got %v, %v", yes, err)
	}
	silent, hold := io.Pipe()
	defer func() { _ = hold.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r = &replay{cli: &cli{stdin: silent, stderr: io.Discard}}
	if yes, err := r.confirm(ctx, ""); yes || err != nil {
		t.Errorf("interrupted: got %v, %v", yes, err)
	}
}

func TestRequestsInWords(t *testing.T) {
	t.Parallel()
	if got := []string{requests(0), requests(1), requests(2)}; !slices.Equal(got, []string{"0 requests", "1 request", "2 requests"}) {
		t.Errorf("got %q", got)
	}
}
