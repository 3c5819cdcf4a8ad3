package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

const goodToken = "vault:databricks/acme#accessToken"

func TestRunSubmitStatusList(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.start()

	r := w.worker(request("First", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "-")
	if r.code != exitOK || !strings.HasPrefix(r.stdout, "r-1  created connection ") {
		t.Fatalf("submit: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if !strings.Contains(r.stderr, "POST 1 is announced") && !strings.Contains(r.stderr, "the POST made the connection") {
		t.Errorf("no progress:\n%s", r.stderr)
	}
	again := w.worker(request("First", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "--timeout", "1m", "-")
	if again.code != exitOK || again.stdout != r.stdout || w.flow.Count(flowtest.OpCreate) != 1 {
		t.Errorf("the same again: exit %d, %d POSTs:\n%s%s", again.code, w.flow.Count(flowtest.OpCreate), again.stdout, again.stderr)
	}
	for range 2 { // the second time the stream of results knows the event already
		other := w.worker(request("Other", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "--timeout", "1m", "-")
		if other.code != exitFailed || !strings.Contains(other.stdout, "failed: id_reused") {
			t.Errorf("other data under its id: exit %d:\n%s%s", other.code, other.stdout, other.stderr)
		}
	}
	w.checkStatus()
	w.checkHTTP()
	if code := w.stopWorker(); code != exitOK {
		t.Errorf("exit %d after the first signal:\n%s", code, w.log.String())
	}
	w.noSecrets("the log", w.log.String()+w.stdout.String())
}

func (w *testWorld) checkStatus() {
	t := w.t
	t.Helper()
	r := w.worker("", "status", "r-1")
	for _, want := range []string{"request", "r-1", "created", "First", "WHAT HAPPENED", "the POST made the connection"} {
		if r.code != exitOK || !strings.Contains(r.stdout, want) {
			t.Errorf("status: exit %d, no %q in:\n%s%s", r.code, want, r.stdout, r.stderr)
		}
	}
	var rec provision.Record
	if r := w.worker("", "status", "--json", "r-1"); json.Unmarshal([]byte(r.stdout), &rec) != nil || rec.State != provision.StateCreated {
		t.Errorf("status --json: exit %d:\n%s", r.code, r.stdout)
	}
	if r := w.worker("", "status", "--watch", "r-1"); r.code != exitOK {
		t.Errorf("status --watch of an ended one: exit %d: %s", r.code, r.stderr)
	}
	if r := w.worker("", "status", "r-2"); r.code != exitFailed || !strings.Contains(r.stderr, `"r-2"`) {
		t.Errorf("status of an unknown one: exit %d: %s", r.code, r.stderr)
	}
	w.worker(request("Elsewhere", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--source", "/elsewhere", "--wait", "-")
	if r := w.worker("", "status", "r-1"); r.code != exitUsage || !strings.Contains(r.stderr, "/elsewhere") {
		t.Errorf("status of an ambiguous one: exit %d: %s", r.code, r.stderr)
	}
	if r := w.worker("", "status", "r-1", "--source", "/elsewhere", "--tenant", "acme"); r.code != exitOK || !strings.Contains(r.stdout, "Elsewhere") {
		t.Errorf("status of one of two: exit %d: %s", r.code, r.stderr)
	}
	if r := w.worker("", "list", "--state", "created", "--tenant", "acme"); strings.Count(r.stdout, "\n") != 3 {
		t.Errorf("list: exit %d, want a head and two lines:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if r := w.worker("", "list", "--older-than", "1h"); r.code != exitOK || r.stdout != "" || !strings.Contains(r.stderr, "no request matches") {
		t.Errorf("list of nothing: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if r := w.worker("", "list", "--json", "--newer-than", "1h"); strings.Count(r.stdout, "\n") != 2 {
		t.Errorf("list --json: exit %d:\n%s", r.code, r.stdout)
	}
}

func (w *testWorld) checkHTTP() {
	t := w.t
	t.Helper()
	if code, body := w.get(w.address("http") + "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: %d %s", code, body)
	}
	_, metrics := w.get(w.address("http") + "/metrics")
	for _, want := range []string{`flow_worker_requests_total{outcome="created"} 2`, "flow_worker_build_info{", "flow_worker_nats_connected 1",
		`flow_worker_flow_requests_total{code="2xx",operation="create"} 2`, "flow_worker_vault_requests_total", "flow_worker_circuit_open"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	_, page := w.get(w.address("status") + "/status.json")
	if !strings.Contains(page, `"r-1"`) {
		t.Errorf("the status page doesn't know r-1:\n%s", page)
	}
	w.noSecrets("HTTP", metrics+page)
}

func TestSubmitOfSeveral(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.start()
	file := filepath.Join(t.TempDir(), "requests.json")
	missing := strings.Replace(request("B", goodToken), `"database":"d"`, `"data_base":"d"`, 1)
	if err := os.WriteFile(file, []byte("["+request("A", goodToken)+","+missing+"]"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.worker("", "submit", "--tenant", "acme", "--dry-run", file)
	if r.code != exitFailed || !strings.Contains(r.stdout, "valid  A") || !strings.Contains(r.stdout, "data_base") || !strings.Contains(r.stdout, "database: required") {
		t.Errorf("--dry-run: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	r = w.worker("", "submit", "--tenant", "acme", "--wait", "--json", "--timeout", "1m", file)
	if r.code != exitFailed || strings.Count(r.stdout, `"outcome":"created"`) != 1 || strings.Count(r.stdout, `"reason":"invalid_request"`) != 1 {
		t.Errorf("--wait --json: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	r = w.worker(request("C", goodToken), "submit", "--tenant", "acme", "--json", "-")
	var got receipt
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || got.Seq == 0 || got.ID == "" || r.code != exitOK {
		t.Errorf("without --wait: exit %d, %v:\n%s", r.code, err, r.stdout)
	}
}

func TestSubmitKeepsSecretsOutOfTheStream(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.start()
	r := w.worker(request("A", databricksToken), "submit", "--tenant", "acme", "--wait", "-")
	if r.code != exitFailed || !strings.Contains(r.stderr, "is not sent") || !strings.Contains(r.stderr, "plaintext_secret") {
		t.Errorf("exit %d:\n%s", r.code, r.stderr)
	}
	if r := w.worker("", "list"); r.stdout != "" {
		t.Errorf("it was sent:\n%s", r.stdout)
	}
}

func TestTimeoutOfSubmit(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	if r := w.worker("", "init"); r.code != exitOK || !strings.Contains(r.stdout, "created") {
		t.Fatalf("init: exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	r := w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--wait", "--timeout", "100ms", "-")
	if r.code != exitFailed || !strings.Contains(r.stderr, "not all results are there yet") {
		t.Errorf("exit %d:\n%s", r.code, r.stderr)
	}
}

func TestInit(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	for _, args := range [][]string{{"status", "x"}, {"list"}, {"submit", "--tenant", "acme", "-"}} {
		if r := w.worker(request("A", goodToken), args...); r.code != exitFailed || !strings.Contains(r.stderr, `run "worker init"`) {
			t.Errorf("%q before init: exit %d: %s", args, r.code, r.stderr)
		}
	}
	for _, want := range []string{"created", "unchanged"} {
		r := w.worker("", "init")
		if r.code != exitOK || strings.Count(r.stdout, want) != 5 {
			t.Errorf("init: exit %d, want 5 times %q:\n%s%s", r.code, want, r.stdout, r.stderr)
		}
	}
	if r := w.worker("", "init", "--worker-ack-wait", "2m"); !strings.Contains(r.stdout, "upgraded") {
		t.Errorf("upgrade: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if r := w.worker("", "init", "--json"); strings.Count(r.stdout, `"name"`) != 5 {
		t.Errorf("init --json: exit %d:\n%s", r.code, r.stdout)
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.worker("", "init")
	for _, tc := range []struct{ line, want string }{
		{"pause", "is paused; "}, {"pause --for 1h", "for another "}, {"resume", "the workers take requests"}, {"resume", "take requests"},
	} {
		if r := w.worker("", strings.Fields(tc.line)...); r.code != exitOK || !strings.Contains(r.stdout, tc.want) {
			t.Errorf("%s: exit %d, want %q: %s%s", tc.line, r.code, tc.want, r.stdout, r.stderr)
		}
	}
	if r := w.worker("", "pause", "--for=-1s"); r.code != exitUsage {
		t.Errorf("a negative pause: exit %d", r.code)
	}
}

// A POST under way at the first signal is finished, and its result told, before the worker ends.
func TestTheFirstSignalDrains(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectLatency, Delay: time.Second, When: flowtest.StageAfter})
	w.start()
	submitted := make(chan result, 1)
	go func() {
		submitted <- worker(t, w.environ, request("A", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "--timeout", "1m", "-")
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := w.flow.Wait(ctx, func(e *flowtest.Emulator) bool { return e.Count(flowtest.OpCreate) == 1 }); err != nil {
		t.Fatal(err)
	}
	if code := w.stopWorker(); code != exitOK {
		t.Errorf("exit %d:\n%s", code, w.log.String())
	}
	if r := <-submitted; r.code != exitOK || !strings.Contains(r.stdout, "created connection") {
		t.Errorf("exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
}

func TestRunTellsWhichPortIsTaken(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.start()
	taken := strings.TrimPrefix(w.address("http"), "http://")
	for _, flag := range []string{"--worker-http-addr", "--worker-status-addr"} {
		r := w.worker("", "run", flag, taken)
		name := strings.ToUpper(strings.ReplaceAll(strings.TrimPrefix(flag, "--"), "-", "_"))
		if r.code != exitFailed || !strings.Contains(r.stderr, name+": ") {
			t.Errorf("%s: exit %d: %s", flag, r.code, r.stderr)
		}
	}
}

// A worker that is started before its broker takes up its work when the broker comes.
func TestRunWaitsForNATS(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	environ := append(append([]string{}, w.environ...), "NATS_URL=nats://127.0.0.1:1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, log safeBuffer
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"run"}, environ, strings.NewReader(""), &out, &log) }()
	log.await(t, "no messages are taken for now")
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("exit %d:\n%s", code, log.String())
	}
}

// A worker with a token it got before is of no use while its Vault is sealed, and says so.
func TestSealedVaultIsNotReady(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.start()
	w.awaitReady(http.StatusOK, `"ready": true`)
	w.vault.Seal()
	w.awaitReady(http.StatusServiceUnavailable, "Vault is sealed")
	w.vault.Unseal()
	w.awaitReady(http.StatusOK, `"ready": true`)
}

// awaitReady asks /readyz until it answers so.
func (w *testWorld) awaitReady(code int, text string) {
	w.t.Helper()
	ask := time.NewTicker(20 * time.Millisecond)
	defer ask.Stop()
	deadline := time.After(time.Minute)
	for {
		got, body := w.get(w.address("http") + "/readyz")
		if got == code && strings.Contains(body, text) {
			return
		}
		select {
		case <-ask.C:
		case <-deadline:
			w.t.Fatalf("/readyz never answered %d with %q, but %d %s", code, text, got, body)
		}
	}
}
