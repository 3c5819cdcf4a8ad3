package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/doctor"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/flow"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault"
)

// leafWorld is a world whose NATS is a leaf node with a JetStream of its own; hub is the JetStream beyond it, in the
// domain "hub".
func leafWorld(t *testing.T) (w *testWorld, hub jetstream.JetStream) {
	t.Helper()
	conf := func(format string, args ...any) natstest.Options {
		file := filepath.Join(t.TempDir(), "server.conf")
		if err := os.WriteFile(file, fmt.Appendf(nil, format, args...), 0o600); err != nil {
			t.Fatal(err)
		}
		return natstest.Options{ConfigFile: file}
	}
	hubServer := natstest.Run(t, conf("server_name: hub\njetstream { domain: hub }\nleafnodes { listen: \"127.0.0.1:-1\" }\n"))
	at, err := hubServer.LeafURL()
	if err != nil {
		t.Fatal(err)
	}
	w = newWorldWith(t, conf("server_name: leaf\njetstream { domain: leaf }\nleafnodes { remotes: [ { url: %q } ] }\n", at))
	w.awaitDomain("hub")
	return w, natstest.Connect(t, hubServer.ClientURL())
}

// awaitDomain waits until the way to a domain is up.
func (w *testWorld) awaitDomain(domain string) {
	w.t.Helper()
	js, err := jetstream.NewWithDomain(w.jetStream().Conn(), domain)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		if _, err = js.AccountInfo(ctx); err == nil {
			return
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			w.t.Fatalf("the domain %s does not answer: %v", domain, err)
		}
	}
}

// streamNames returns the streams that js has.
func streamNames(t *testing.T, js jetstream.JetStream) string {
	t.Helper()
	var names []string
	list := js.StreamNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// With NATS_JS_DOMAIN a worker on a leaf node uses the hub's streams for all that it does, and so do the commands.
func TestWorkerOnALeafNode(t *testing.T) {
	t.Parallel()
	for name, setting := range map[string]string{"domain": "NATS_JS_DOMAIN=hub", "prefix": "NATS_JS_API_PREFIX=$JS.hub.API"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, hub := leafWorld(t)
			w.environ = append(w.environ, setting)
			w.start()
			r := w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "--timeout", "1m", "-")
			if r.code != exitOK || !strings.HasPrefix(r.stdout, "r-1  created connection ") {
				t.Fatalf("submit: exit %d:\n%s%s\n%s", r.code, r.stdout, r.stderr, w.log.String())
			}
			for _, args := range [][]string{{"status", "r-1"}, {"list"}, {"pause"}, {"resume"}, {"init"}, {"list", "--stuck"}} {
				if r := w.worker("", args...); r.code != exitOK {
					t.Errorf("%q: exit %d:\n%s%s", args, r.code, r.stdout, r.stderr)
				}
			}
			failed := w.worker(request("B", "vault:none#x"), "submit", "--tenant", "acme", "--id", "r-2", "--wait", "--timeout", "1m", "-")
			if failed.code != exitFailed || !strings.Contains(failed.stdout, "secret_not_found") {
				t.Errorf("a failure: exit %d:\n%s%s", failed.code, failed.stdout, failed.stderr)
			}
			if r := w.worker("", "retry", "r-2", "--tenant", "acme", "--yes"); r.code != exitOK {
				t.Errorf("retry: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
			}
			code, all := w.examined("--tenant", "acme")
			if code != exitOK || !told(all, "jetstream", doctor.OK, `domain "hub"`) || !told(all, "nats rights", doctor.OK, "write the ledger") {
				t.Errorf("doctor: exit %d: %+v", code, all)
			}
			if got := streamNames(t, hub); !strings.Contains(got, "KV_connection-ledger") || strings.Count(got, "CONNECTION_") != 3 {
				t.Errorf("the hub has %q", got)
			}
			if got := streamNames(t, w.jetStream()); got != "" {
				t.Errorf("the leaf node has %q", got)
			}
		})
	}
}

// A domain that there is not is named, with the setting.
func TestUnknownDomain(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.environ = append(w.environ, "NATS_JS_DOMAIN=hub")
	r := w.worker("", "init")
	if r.code != exitFailed || !strings.Contains(r.stderr, `no JetStream answers for the domain "hub"`) || !strings.Contains(r.stderr, "NATS_JS_DOMAIN") {
		t.Errorf("exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// A context of the nats command has what is not set beside it.
func TestContext(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "server.conf")
	if err := os.WriteFile(file, []byte(`
		accounts {
			A { jetstream: { max_bytes_required: true }, users: [ { user: app, password: "p:w'd" } ] }
			SYS { users: [ { user: sys, password: s } ] }
		}
		system_account: SYS`), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorldWith(t, natstest.Options{ConfigFile: file})
	home := t.TempDir()
	dir := filepath.Join(home, ".config", "nats", "context")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "flow.json"), fmt.Appendf(nil, `{"description":"","url":%q,"user":"app","password":"p:w'd","jetstream_domain":"","tls_first":false}`, w.natsURL), 0o600); err != nil {
		t.Fatal(err)
	}
	w.environ = append(w.environ[1:], "HOME="+home, "NATS_CONTEXT=flow")
	if r := w.worker("", "init"); r.code != exitFailed || !strings.Contains(r.stderr, "set WORKER_STREAM_MAX_BYTES, such as 1GB") {
		t.Errorf("an account that wants sizes: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if code, all := w.examined(); code != exitFailed || !told(all, "nats objects", doctor.Fail, "it does not exist", `set WORKER_STREAM_MAX_BYTES, such as 1GB, and run "worker init"`) {
		t.Errorf("doctor before there are objects: exit %d: %+v", code, all)
	}
	w.environ = append(w.environ, "WORKER_STREAM_MAX_BYTES=10MB")
	w.start()
	r := w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "--timeout", "1m", "-")
	if r.code != exitOK {
		t.Errorf("submit: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	code, all := w.examined()
	if code != exitOK || !told(all, "jetstream", doctor.OK, `account "A"`) || !told(all, "nats limits", doctor.OK, "KV_connection-ledger is 0 % full (max_bytes 10000000); when it is full, no record can be written") {
		t.Errorf("doctor: exit %d: %+v", code, all)
	}
	shown := w.worker("", "config").stdout
	for _, want := range []string{w.natsURL + " ", "NATS_USER ", "app ", "context\n", "********"} {
		if !strings.Contains(shown, want) || strings.Contains(shown, "p:w'd") {
			t.Errorf("config, without %q or with a secret:\n%s", want, shown)
		}
	}
	if r := worker(t, append(w.environ, "NATS_CONTEXT=other"), "", "list"); r.code != exitUsage || !strings.Contains(r.stderr, `"other" is no context in `+dir+`; there are flow`) {
		t.Errorf("an unknown context: exit %d:\n%s", r.code, r.stderr)
	}
}

// hostSpellings are hosts of URLs, and whether what is sent to them surely stays on this machine.
var hostSpellings = map[string]bool{
	"127.0.0.1": true, "127.0.0.1:8090": true, "127.255.255.254": true, "localhost": true, "localhost:8090": true, "[::1]": true, "[::1]:8090": true,
	"[::ffff:127.0.0.1]": true, "[::ffff:7f00:1]:80": true, "[0:0:0:0:0:0:0:1]": true,

	"127.0.0.1.evil.com": false, "127.0.0.1.nip.io:8090": false, "localhost.evil.com": false, "localhost.": false, "localhost.localdomain": false,
	"127.0.0.1.": false, "127.1": false, "127.0.1": false, "0177.0.0.1": false, "127.0.0.01": false, "0x7f.0.0.1": false, "2130706433": false, "0x7f000001": false,
	"0.0.0.0": false, "0": false, "[::]": false, "[::ffff:0.0.0.0]": false, "[::127.0.0.1]": false, "[64:ff9b::127.0.0.1]": false, "[fe80::1]": false,
	"128.0.0.1": false, "126.255.255.255": false, "10.0.0.1": false, "169.254.169.254": false, "evil.com": false, "evil.com:127": false,
	"evil.com#127.0.0.1": false, "evil.com?127.0.0.1": false, "evil.com/127.0.0.1": false, `evil.com\127.0.0.1`: false, "127.0.0.1@evil.com": false,
	"localhost@evil.com": false, "localhost%2eevil.com": false, "127.0.0.1%00.evil.com": false, "ⓛocalhost": false, "１２７.0.0.1": false, "127。0。0。1": false,
	" localhost": false, "": false, ":8090": false, "[::1": false, "::1": false, "localhost localhost": false,
}

// Credentials go over https, or stay on the machine. The client says so a second time, for whoever uses
// it without the settings.
func TestPlainHTTPIsForLoopback(t *testing.T) {
	t.Parallel()
	for host, want := range hostSpellings {
		for _, name := range []string{"FLOW_URL", "IMS_URL"} {
			r := worker(t, []string{name + "=http://" + host}, "", "config")
			if got := r.code == exitOK; got != want || !got && !strings.Contains(r.stderr, name+":") {
				t.Errorf("%s=http://%s: exit %d, taken %t, want %t:\n%s", name, host, r.code, got, want, r.stderr)
			}
		}
		for field, cfg := range map[string]flow.Config{"BaseURL": {BaseURL: "http://" + host}, "IMSURL": {IMSURL: "http://" + host}} {
			c, err := flow.New(cfg)
			if got := err == nil; got != want {
				t.Errorf("%s http://%s: taken by the client %t, want %t", field, host, got, want)
			}
			if err == nil {
				c.Close()
			}
		}
	}
}

// What is sent to Vault goes over https or stays on the machine, and so does what comes back. To go without
// a check of the certificate is refused likewise.
func TestVaultElsewhereNeedsTLS(t *testing.T) {
	t.Parallel()
	for host, want := range hostSpellings {
		r := worker(t, []string{"VAULT_ADDR=http://" + host}, "", "config")
		if got := r.code == exitOK; got != want || !got && (r.code != exitUsage || !strings.Contains(r.stderr, "VAULT_ADDR:")) {
			t.Errorf("VAULT_ADDR=http://%s: exit %d, taken %t, want %t:\n%s", host, r.code, got, want, r.stderr)
		}
		skips := worker(t, []string{"VAULT_ADDR=https://" + host, "VAULT_SKIP_VERIFY=true"}, "", "config")
		if got := skips.code == exitOK; got != want {
			t.Errorf("VAULT_ADDR=https://%s with VAULT_SKIP_VERIFY: taken %t, want %t:\n%s", host, got, want, skips.stderr)
		}
		for _, conf := range []vault.Config{{Address: "http://" + host}, {Address: "https://" + host, TLS: &vaultapi.TLSConfig{Insecure: true}}} {
			conf.Token = provision.NewSensitive("t")
			if _, err := vault.New(conf); (err == nil) != want {
				t.Errorf("%s: taken by the client %t, want %t: %v", conf.Address, err == nil, want, err)
			}
		}
	}
}

// TestStoredOtherwise: the Flow Service accepts a connection spec's id in capitals, stores and lists it in small
// letters, and the answer to the POST is lost. There is one connection, found by its mark.
func TestStoredOtherwise(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.flow.SetFaults(
		flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectStore,
			Habits: []flowtest.Habit{flowtest.HabitLowerIDs, flowtest.HabitLowerNames, flowtest.HabitPlainDescriptions}},
		flowtest.Fault{Operation: flowtest.OpList, Effect: flowtest.EffectOmit, Fields: []string{"state", "auth"}},
		flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectReset, When: flowtest.StageAfter, Times: 1})
	w.start()
	body := strings.ReplaceAll(request("Orders of  ACME", goodToken), flowtest.DatabricksSpecID, strings.ToUpper(flowtest.DatabricksSpecID))
	r := w.worker(body, "submit", "--tenant", "acme", "--id", "r-1", "--wait", "-")
	if r.code != 0 || !strings.Contains(r.stdout, "adopted connection") {
		t.Errorf("submit: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if stored := w.flow.Connections(); len(stored) != 1 || stored[0].SpecID != flowtest.DatabricksSpecID {
		t.Errorf("stored: %+v", stored)
	}
}

// TestADraftIsNotAdopted: it is no connection to be used.
func TestADraftIsNotAdopted(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.flow.SetFaults(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectState, State: "draft", Times: 1})
	w.start()
	w.worker(request("orders", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "-")
	body := strings.Replace(request("orders", goodToken), `"name"`, `"ifExists":"adopt","name"`, 1)
	r := w.worker(body, "submit", "--tenant", "acme", "--id", "r-2", "--wait", "-")
	if r.code != exitFailed || !strings.Contains(r.stdout, "name_exists") || !strings.Contains(r.stdout, "draft") {
		t.Errorf("submit: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if n := len(w.flow.Connections()); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// The workers have the queue delivered anew where messages were lost sight of, if need be while they
// work on it. Here that happens again and again, to two workers at their POSTs: no request makes two
// connections, has two outcomes, or fails for it.
func TestAQueueThatIsDeliveredAnewAmidWork(t *testing.T) {
	t.Parallel()
	const requests, resets = 30, 8
	w := newTestWorld(t)
	w.environ = append(w.environ, "WORKER_SETTLE=500ms", "FLOW_TIMEOUT=3s", "WORKER_RETRY_DELAY_MAX=300ms", "WORKER_ACK_WAIT=2s", "WORKER_REDELIVERY_DELAY_MAX=1s")
	w.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectLatency, Delay: 200 * time.Millisecond})
	w.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectStatus, Status: 503, Probability: 0.2})
	w.start()
	other := &testWorld{t: t, environ: w.environ, natsURL: w.natsURL, flow: w.flow, vault: w.vault}
	other.start()
	js := w.jetStream()
	for i := range requests {
		body := request(fmt.Sprint("connection ", i), goodToken)
		if _, err := js.Publish(t.Context(), "connections.requests.acme", []byte(body), jetstream.WithMsgID(fmt.Sprint("r-", i))); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	again := time.NewTicker(150 * time.Millisecond)
	defer again.Stop()
	for done := 0; done < resets || messages(t, js, consumer.StreamRequests) > 0; done++ {
		if done < resets {
			if _, err := js.ResetConsumerToSequence(t.Context(), consumer.StreamRequests, consumer.ConsumerName, 1); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatal("the queue does not get empty")
		}
	}
	if n := messages(t, js, consumer.StreamResults); n != requests {
		t.Errorf("%d results, want %d", n, requests)
	}
	if n := messages(t, js, consumer.StreamDeadLetters); n != 0 {
		t.Errorf("%d requests failed", n)
	}
	marks := w.flow.Marks()
	for mark, ids := range marks {
		if len(ids) != 1 {
			t.Errorf("%d connections with the mark %s", len(ids), mark)
		}
	}
	if len(marks) != requests {
		t.Errorf("%d requests have their connections, want %d", len(marks), requests)
	}
	if w.stopWorker()+other.stopWorker() != exitOK || strings.Contains(w.log.String()+other.log.String(), "crash_loop") {
		t.Error("the workers did not end well")
	}
}

func messages(t *testing.T, js jetstream.JetStream, stream string) uint64 {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}
