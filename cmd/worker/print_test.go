package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// What others wrote comes out of errors, too: they may not steer the terminal, nor look like two.
func TestErrorsAreSafe(t *testing.T) {
	t.Parallel()
	const hostile = "a\x1b[2J\u202e\x07\r\nworker: all is well\u009b"
	const want = "worker: " + `a\x1b[2J\u202e\a\r` + "\n  " + `worker: all is well\u009b` + "\n"
	for name, tc := range map[string]struct {
		err  error
		code int
	}{
		"work":     {&workError{errors.New(hostile)}, exitFailed},
		"usage":    {usagef("%s", hostile), exitUsage},
		"reported": {errReported, exitFailed},
	} {
		var b strings.Builder
		code := (&cli{stderr: &b}).report(tc.err)
		if got := b.String(); code != tc.code || got != want && name != "reported" || name == "reported" && got != "" {
			t.Errorf("%s: exit %d, %q", name, code, got)
		}
	}
	r := newTestWorld(t).worker("", "status", "--no\x1b[31m")
	if r.code != exitUsage || !strings.Contains(r.stderr, `--no\x1b[31m`) || strings.ContainsRune(r.stderr, '\x1b') {
		t.Errorf("a flag: exit %d, %q", r.code, r.stderr)
	}
}

func TestTablesAreSafeAndFitATerminal(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := printRows(&b, [][]string{{"a\nb", "c\td"}}); err != nil || b.String() != "a\\nb  c\\td\n" {
		t.Errorf("got %q, %v", b.String(), err)
	}
	long := strings.Repeat("é", 256)
	got := fit([][]string{{"ID", "NAME"}, {long, long}, {strings.Repeat("\n", 30), ""}})
	want := [][]string{{"ID", "NAME"}, {strings.Repeat("é", columnMax-1) + "…", long}, {strings.Repeat(`\n`, 19) + `\…`, ""}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A name that its message may not have is refused before anything is sent.
func TestSubmitRefusesUnreadableNames(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	if r := w.worker("", "init"); r.code != exitOK {
		t.Fatal(r.stderr)
	}
	for _, flag := range []string{"--id", "--source"} {
		for _, name := range []string{"a\nb", "\x1b[31m", "a\xff", strings.Repeat("x", 257)} {
			for _, more := range []string{"--json", "--dry-run"} {
				r := w.worker(request("A", goodToken), "submit", "--tenant", "acme", flag, name, more, "-")
				if r.code != exitUsage || !strings.Contains(r.stderr, flag) || r.stdout != "" {
					t.Errorf("%s %q %s: exit %d: %s%s", flag, name, more, r.code, r.stdout, r.stderr)
				}
			}
		}
	}
	event := `{"specversion":"1.0","type":"flowworker.connection.create.v1","source":"/s","id":"a\nb","data":` + request("A", goodToken) + `}`
	if r := w.worker(event, "submit", "--tenant", "acme", "-"); r.code != exitFailed || r.stdout != "" || !strings.Contains(r.stderr, "/id") {
		t.Errorf("an event with such an id: exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	stream, err := w.jetStream().Stream(t.Context(), "CONNECTION_REQUESTS")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d messages were published", n)
	}
	r := w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "a\u202eb", "-")
	if r.code != exitOK || !strings.HasPrefix(r.stdout, `a\u202eb  published`) {
		t.Errorf("a legal id: exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
}

// An empty id, as an unset variable of a script leaves it, is no request's, and least of all every request's. One
// that is too long for any request would be too long for NATS, too. Nothing is connected to for these.
func TestNamesThatNoRequestHas(t *testing.T) {
	t.Parallel()
	long, settle := strings.Repeat("x", 257), []string{"--absent", "--reason", "x", "--by", "ada", "--yes"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"status", ""}, "the id is empty"},
		{[]string{"status", "", "--tenant", "acme"}, "the id is empty"},
		{[]string{"status", long}, "the id has 257 bytes; want 1 to 256 bytes"},
		{[]string{"status", "x", "--tenant", "bad.*"}, "--tenant is"},
		{[]string{"status", "x", "--tenant", strings.Repeat(long, 20)}, "--tenant is"},
		{[]string{"status", "x", "--source", long}, "--source has 257 bytes; want 1 to 256 bytes"},
		{[]string{"list", "--source", long}, "--source has 257 bytes"},
		{[]string{"retry", "", "--yes"}, "the id is empty"},
		{[]string{"retry", "x", "", "--dry-run"}, "the id is empty"},
		{[]string{"retry", "x", long, "--yes"}, "the id has 257 bytes"},
		{[]string{"retry", "--reason", "expired", "--source", long, "--yes"}, "--source has 257 bytes"},
		{append([]string{"resolve", ""}, settle...), "the id is empty"},
		{append([]string{"resolve", long}, settle...), "the id has 257 bytes"},
		{append([]string{"resolve", "x", "--source", long}, settle...), "--source has 257 bytes"},
	} {
		r := worker(t, []string{"NATS_URL=nats://127.0.0.1:1"}, "", c.args...)
		if r.code != exitUsage || !strings.Contains(r.stderr, c.want) || len(r.stderr) > 300 {
			t.Errorf("%.60q: exit %d, want %d with %q:\n%s", c.args, r.code, exitUsage, c.want, r.stderr)
		}
	}
	for _, args := range [][]string{{"status", long[1:]}, {"retry", long[1:], "--source", long[1:], "--yes"}} {
		if r := worker(t, []string{"NATS_URL=nats://127.0.0.1:1"}, "", args...); r.code != exitFailed || !strings.Contains(r.stderr, "not to be reached") {
			t.Errorf("%.60q of 256 bytes: exit %d:\n%s", args, r.code, r.stderr)
		}
	}
}

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
