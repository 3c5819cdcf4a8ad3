package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// The secrets of the test world: none may be in any output.
const (
	databricksToken = "dapi-test-token-never-to-be-seen"
	clientSecret    = "p8e-test-secret-never-to-be-seen"
)

// testWorld is a worker run by its own command, and all that it needs.
type testWorld struct {
	t       *testing.T
	environ []string
	natsURL string
	flow    *flowtest.Emulator
	vault   *vaulttest.Server
	log     safeBuffer
	stdout  safeBuffer
	stop    context.CancelFunc
	ended   chan int
}

// newTestWorld starts NATS, Vault and the Flow Service, but no worker.
func newTestWorld(t *testing.T) *testWorld {
	t.Helper()
	return newWorldWith(t, natstest.Options{})
}

func newWorldWith(t *testing.T, nats natstest.Options) *testWorld {
	t.Helper()
	broker := natstest.Run(t, nats)
	vault, emulator := vaulttest.New(vaulttest.Config{}), flowtest.New(flowtest.Config{})
	vault.Put("flow/tenants/acme/adobe", map[string]any{"orgId": "a@AdobeOrg", "clientId": "id", "clientSecret": clientSecret})
	vault.Put("flow/tenants/acme/databricks/acme", map[string]any{"accessToken": databricksToken})
	vaultAt, flowAt := httptest.NewServer(vault), httptest.NewServer(emulator)
	t.Cleanup(vaultAt.Close)
	t.Cleanup(flowAt.Close)
	return &testWorld{t: t, flow: emulator, vault: vault, natsURL: broker.ClientURL(), environ: []string{
		"NATS_URL=" + broker.ClientURL(), "VAULT_ADDR=" + vaultAt.URL, "VAULT_TOKEN=" + vault.Token(),
		"FLOW_URL=" + flowAt.URL, "IMS_URL=" + flowAt.URL, "WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_STATUS_ADDR=127.0.0.1:0",
		"WORKER_RETRY_INITIAL=20ms", "WORKER_SETTLE=2s", "FLOW_TIMEOUT=20s", "WORKER_SHUTDOWN_TIMEOUT=30s", "LOG_LEVEL=debug",
	}}
}

// jetStream connects to the world's NATS, past the commands.
func (w *testWorld) jetStream() jetstream.JetStream {
	w.t.Helper()
	return natstest.Connect(w.t, w.natsURL)
}

// start runs the worker until stopWorker or the test's end, and returns when it is ready.
func (w *testWorld) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	w.stop, w.ended = cancel, make(chan int, 1)
	go func() { w.ended <- run(ctx, []string{"run"}, w.environ, strings.NewReader(""), &w.stdout, &w.log) }()
	w.t.Cleanup(func() { w.stopWorker() })
	w.log.await(w.t, "worker is ready")
}

// stopWorker does what the first signal does, and returns the exit code. A second call does nothing.
func (w *testWorld) stopWorker() int {
	w.stop()
	code := <-w.ended
	w.ended <- code
	return code
}

// worker runs a command in this world, and looks for secrets in its output.
func (w *testWorld) worker(stdin string, args ...string) result {
	w.t.Helper()
	r := worker(w.t, w.environ, stdin, args...)
	w.noSecrets(strings.Join(args, " "), r.stdout+r.stderr)
	return r
}

func (w *testWorld) noSecrets(where, text string) {
	w.t.Helper()
	for _, s := range []string{databricksToken, clientSecret, "vaulttest-root"} {
		if strings.Contains(text, s) {
			w.t.Errorf("%s shows the secret %q", where, s)
		}
	}
}

// address returns where the worker listens, from its log.
func (w *testWorld) address(attr string) string {
	w.t.Helper()
	for line := range strings.Lines(w.log.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == "worker started" {
			return "http://" + entry[attr].(string)
		}
	}
	w.t.Fatalf("no address in the log:\n%s", w.log.String())
	return ""
}

func (w *testWorld) get(url string) (int, string) {
	w.t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
