package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// typed returns the arguments that a shell gives to worker where somebody copies the command at the end of text.
func typed(t *testing.T, text string) []string {
	t.Helper()
	_, line, found := strings.Cut(strings.TrimSuffix(text, "\n"), ": worker ")
	if !found {
		t.Fatalf("no command at the end of %q", text)
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `worker() { printf '%s\n' "$@"; }; worker `+line).Output()
	if err != nil {
		t.Fatalf("sh can't run worker %s: %v", line, err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

// A tenant chooses the ids of its requests. What an operator is told to type acts on the request, and on nothing
// else, whatever its id looks like to a shell.
func TestCommandsToTypeAreSafe(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.environ = append(w.environ, "VAULT_CACHE_TTL=0")
	w.start()
	pwned := filepath.Join(t.TempDir(), "pwned")
	id := "-y$(touch " + pwned + ")`touch " + pwned + "`'\"; touch " + pwned + " #"
	r := w.worker(request("Late", "vault:databricks/late#accessToken"), "submit", "--tenant", "acme", "--id="+id, "-")
	told := map[string]string{"submit": r.stdout}
	if rec := w.endsAs(typed(t, r.stdout)); rec.Key.ID != id || rec.State != provision.StateFailed {
		t.Fatalf("submitted: %+v", rec.Key)
	}
	for !strings.Contains(r.stdout, "sent as retry") && t.Context().Err() == nil { // the dead letter comes after the record
		r = w.worker("", "retry", "--reason", "secret_not_found", "--yes")
	}
	_, told["retry"], _ = strings.Cut(r.stdout, "sent as")
	for command, text := range told {
		if rec := w.endsAs(typed(t, text)); rec.Key.ID != id || rec.Key.Tenant != "acme" || rec.Key.Source != "/worker/submit" {
			t.Errorf("%s: %+v", command, rec.Key)
		}
	}
	if _, err := os.Stat(pwned); err == nil {
		t.Error("the id was run")
	}
}

// The same goes for what resolve tells, whose requests are found by their ids as a tenant chose them.
func TestCommandsToTypeAfterResolveAreSafe(t *testing.T) {
	t.Parallel()
	w := newUnsettledWorld(t)
	const id = "r'1 \"$(exit 1)`exit 1`"
	w.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectReset, When: flowtest.StageAfter, Times: 1})
	w.submitUnsettled(id, "A")
	w.stopWorker()
	r := w.worker("", "resolve", id, "--absent", "--reason", "x", "--yes", "--timeout", "100ms")
	want := []string{"status", "--tenant", "acme", "--source", "/worker/submit", "--watch", id}
	if got := typed(t, r.stderr); !slices.Equal(got, want) {
		t.Errorf("not settled yet: %q", got)
	}
	var out safeBuffer
	absent := provision.Record{Key: provision.Key{Tenant: "acme", Source: "a $b", ID: id},
		Final: &provision.FinalResult{Result: provision.Result{Error: provision.Fail(provision.ReasonFlowUnavailable, "absent")}}}
	if err := (&resolution{cli: &cli{stdout: &out}}).verdict(absent); err != nil {
		t.Fatal(err)
	}
	want = []string{"retry", "--tenant", "acme", "--source", "a $b", id}
	if got := typed(t, out.String()); !slices.Equal(got, want) {
		t.Errorf("settled as absent: %q", got)
	}
}

// endsAs follows a request by a status command until it has ended, and returns its record.
func (w *testWorld) endsAs(args []string) (rec provision.Record) {
	w.t.Helper()
	args = append([]string{args[0], "--watch", "--json"}, args[1:]...)
	for rec.Final == nil {
		r := w.worker("", args...)
		lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &rec); err != nil || w.t.Context().Err() != nil {
			w.t.Fatalf("%q: exit %d, %v:\n%s%s", args, r.code, err, r.stdout, r.stderr)
		}
	}
	return rec
}
