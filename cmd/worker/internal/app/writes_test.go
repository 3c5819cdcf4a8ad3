package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/ops"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// writesWorld is a broker that can be told to drop what the worker publishes, and all that a worker needs.
type writesWorld struct {
	t      *testing.T
	ctx    context.Context
	conf   string
	store  string // what the account may store at most, in the configuration's words; empty means no limit
	broker *natstest.Server
	js     jetstream.JetStream // of an administrator
	flow   *flowtest.Emulator
	worker *worker
	at     Addresses
	sent   int
}

func newWritesWorld(t *testing.T) *writesWorld {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	w := &writesWorld{t: t, ctx: ctx, conf: filepath.Join(t.TempDir(), "nats.conf"), flow: flowtest.New(flowtest.Config{AllowAnyToken: true})}
	w.configure("nothing")
	w.broker = natstest.Run(t, natstest.Options{ConfigFile: w.conf})
	w.js = natstest.Connect(t, w.broker.ClientURL(), natstest.As("admin", "p"))
	return w
}

// configure writes a configuration by which the worker may not publish to some subjects.
func (w *writesWorld) configure(denied ...string) {
	w.t.Helper()
	limits := "enabled"
	if w.store != "" {
		limits = "{ max_store: " + w.store + " }"
	}
	text := fmt.Sprintf(`accounts { A { jetstream: %s, users: [ { user: admin, password: p }
  { user: worker, password: p, permissions { publish { allow: ">", deny: ["%s"] }, subscribe: ">" } } ] } }`, limits, strings.Join(denied, `", "`))
	check(w.t, os.WriteFile(w.conf, []byte(text), 0o600))
}

// deny has the server drop what the worker publishes to some subjects. It tells the client, and answers nothing.
func (w *writesWorld) deny(subjects ...string) {
	w.t.Helper()
	w.configure(subjects...)
	check(w.t, w.broker.Reload())
}

// fill gives a stream a limit that it has reached, or none.
func (w *writesWorld) fill(stream string, full bool) {
	w.t.Helper()
	s, err := w.js.Stream(w.ctx, stream)
	check(w.t, err)
	cfg := s.CachedInfo().Config
	cfg.MaxBytes, cfg.Discard = -1, jetstream.DiscardNew
	if full {
		cfg.MaxBytes = int64(max(s.CachedInfo().State.Bytes, 1))
	}
	_, err = w.js.UpdateStream(w.ctx, cfg)
	check(w.t, err)
}

// start runs a worker until the test ends. It gives up sooner than others on what isn't confirmed.
func (w *writesWorld) start() {
	w.t.Helper()
	vault := vaulttest.New(vaulttest.Config{})
	vault.Put("flow/tenants/acme/adobe", map[string]any{"orgId": "acme@AdobeOrg", "accessToken": "t", "apiKey": "k"})
	vault.Put("flow/tenants/acme/databricks/acme", map[string]any{"accessToken": "dapi"})
	vaultAt, flowAt := httptest.NewServer(vault), httptest.NewServer(w.flow)
	w.t.Cleanup(vaultAt.Close)
	w.t.Cleanup(flowAt.Close)
	set, err := settings.Load(settings.Source{Environ: []string{
		"NATS_URL=" + strings.Replace(w.broker.ClientURL(), "//", "//worker:p@", 1), "VAULT_ADDR=" + vaultAt.URL, "VAULT_TOKEN=" + vault.Token(),
		"FLOW_URL=" + flowAt.URL + "/data/foundation/flowservice", "IMS_URL=" + flowAt.URL,
		"WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_STATUS_ADDR=127.0.0.1:0", "WORKER_RETRY_INITIAL=20ms", "WORKER_RETRY_DELAY_MAX=1s", "WORKER_SETTLE=1s",
	}}, settings.All...)
	check(w.t, err)
	l, err := listen(w.ctx, set.Settings)
	check(w.t, err)
	w.at = l.addresses()
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	w.worker, err = newWorker(ctx, set.Settings, Deps{Log: slog.New(slog.DiscardHandler)})
	check(w.t, err)
	w.worker.consumer.PublishTimeout, w.worker.consumer.PublishElapsed, w.worker.consumer.DelayMax = time.Second, 3*time.Second, time.Second
	done := make(chan error, 1)
	go func() { done <- w.worker.run(ctx, l) }()
	w.t.Cleanup(func() {
		cancel()
		check(w.t, <-done)
		w.worker.close()
	})
}

// send publishes n more requests: one that is refused, and others that make a connection each.
func (w *writesWorld) send(n int) {
	w.t.Helper()
	for range n {
		w.sent++
		body := writesRequest
		if w.sent == 1 {
			body = strings.Replace(body, "vault:databricks/acme#accessToken", "dapi0123", 1)
		}
		m, err := event.EncodeRequest(event.Draft{ID: fmt.Sprint("r", w.sent), Source: "/writes", Body: []byte(body)})
		check(w.t, err)
		_, err = w.js.PublishMsg(w.ctx, &nats.Msg{Subject: "connections.requests.acme", Header: m.Headers, Data: m.Body})
		check(w.t, err)
	}
}

func (w *writesWorld) eventually(what string, yes func() bool) {
	w.t.Helper()
	(&lossWorld{t: w.t, ctx: w.ctx}).eventually(what, yes)
}

func (w *writesWorld) get(path string) (int, string) {
	w.t.Helper()
	resp, err := http.Get("http://" + w.at.HTTP + path)
	check(w.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	check(w.t, err)
	return resp.StatusCode, string(body)
}

// readiness returns the status of /readyz and the reasons of the checks that fail.
func (w *writesWorld) readiness() (int, map[string]string) {
	w.t.Helper()
	code, body := w.get("/readyz")
	var report ops.Report
	check(w.t, json.Unmarshal([]byte(body), &report))
	failing := map[string]string{}
	for _, c := range report.Checks {
		if !c.OK {
			failing[c.Name] = c.Reason
		}
	}
	return code, failing
}

func (w *writesWorld) ready() bool {
	code, _ := w.readiness()
	return code == http.StatusOK
}

func (w *writesWorld) messages(stream string) uint64 {
	w.t.Helper()
	s, err := w.js.Stream(w.ctx, stream)
	check(w.t, err)
	return s.CachedInfo().State.Msgs
}

const ledgerStream = "KV_" + ledger.DefaultBucket

// While the broker takes writes of one kind no more, the worker says so and takes no requests. When it does again
// the worker notices by itself, and each request has its one connection and its one outcome.
func TestBrokerTakesNoWrites(t *testing.T) {
	t.Parallel()
	denied := func(subject string) func(*writesWorld, bool) {
		return func(w *writesWorld, ill bool) {
			if ill {
				w.deny(subject)
			} else {
				w.deny("nothing")
			}
		}
	}
	full := func(stream string) func(*writesWorld, bool) {
		return func(w *writesWorld, ill bool) { w.fill(stream, ill) }
	}
	for name, c := range map[string]struct {
		object, remedy string
		spoil          func(w *writesWorld, ill bool)
	}{
		"ledger, no answer":           {"ledger", "$KV.connection-ledger.>", denied("$KV.connection-ledger.>")},
		"ledger, full":                {"ledger", ledgerStream, full(ledgerStream)},
		"results, no answer":          {"results", "connections.results.*.*", denied("connections.results.>")},
		"results, full":               {"results", consumer.StreamResults, full(consumer.StreamResults)},
		"dead letters, no answer":     {"deadletters", "connections.deadletters.*", denied("connections.deadletters.>")},
		"dead letters, full":          {"deadletters", consumer.StreamDeadLetters, full(consumer.StreamDeadLetters)},
		"acknowledgements, no answer": {"acks", "$JS.ACK.CONNECTION_REQUESTS.flow-worker.>", denied("$JS.ACK.>")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWritesWorld(t)
			w.start()
			w.eventually("readiness", w.ready)
			c.spoil(w, true)
			w.send(1)
			w.illness(c.object, c.remedy)
			w.send(19)
			w.rests()
			c.spoil(w, false)
			w.eventually("readiness again", w.ready)
			w.recovered(c.object)
		})
	}
}

// illness waits until the worker says that an object takes no writes.
func (w *writesWorld) illness(object, remedy string) {
	w.t.Helper()
	w.eventually("the end of readiness", func() bool { return !w.ready() })
	code, failing := w.readiness()
	if why := failing[object]; code != http.StatusServiceUnavailable || len(failing) != 1 ||
		!strings.Contains(why, "takes no writes since 20") || !strings.Contains(why, remedy) {
		w.t.Errorf("readiness: %d, %q", code, failing)
	}
	if _, metrics := w.get("/metrics"); !strings.Contains(metrics, `flow_worker_writes_failing{object="`+object+`"} 1`) {
		w.t.Error("the metric says otherwise")
	}
}

// rests checks that next to nothing is begun: results and dead letters can only be tried with a request. A pull that
// was under way may bring messages, which are kept in hand and not begun.
func (w *writesWorld) rests() {
	w.t.Helper()
	if n := w.flow.Count(flowtest.OpCreate); n > 1 {
		w.t.Errorf("%d POSTs, want one at most", n)
	}
}

// recovered waits until everything is done, and checks what was done.
func (w *writesWorld) recovered(object string) {
	w.t.Helper()
	w.eventually("the end of all requests", func() bool { return w.messages(consumer.StreamRequests) == 0 })
	if n := len(w.flow.Connections()); n != w.sent-1 {
		w.t.Errorf("%d connections, want %d", n, w.sent-1)
	}
	if n := w.flow.Count(flowtest.OpCreate); n != w.sent-1 {
		w.t.Errorf("%d POSTs, want %d", n, w.sent-1)
	}
	if results, letters := w.messages(consumer.StreamResults), w.messages(consumer.StreamDeadLetters); results != uint64(w.sent) || letters != 1 {
		w.t.Errorf("%d results and %d dead letters, want %d and 1", results, letters, w.sent)
	}
	if _, metrics := w.get("/metrics"); !strings.Contains(metrics, `flow_worker_writes_failing{object="`+object+`"} 0`) {
		w.t.Error("the metric says otherwise")
	}
}

// An account that may store no more takes no writes of any kind, and can be read.
func TestAccountStoresNoMore(t *testing.T) {
	t.Parallel()
	w := newWritesWorld(t)
	w.start()
	w.eventually("readiness", w.ready)
	w.send(2)
	w.eventually("the end of all requests", func() bool { return w.messages(consumer.StreamRequests) == 0 })
	_, err := consumer.Pause(w.ctx, w.js, time.Time{})
	check(t, err)
	w.send(3) // the stream of requests takes no more either
	w.store = "1KB"
	w.deny("nothing")
	_, err = consumer.Resume(w.ctx, w.js)
	check(t, err)
	w.illness("ledger", ledgerStream)
	w.store = ""
	w.deny("nothing")
	w.eventually("readiness again", w.ready)
	w.recovered("ledger")
}

// A worker that starts when the ledger takes no writes takes no request at all, and begins when it does.
func TestLedgerTakesNoWritesAtStart(t *testing.T) {
	t.Parallel()
	w := newWritesWorld(t)
	_, err := consumer.EnsureObjects(w.ctx, w.js, consumer.ObjectsConfig{Manage: true})
	check(t, err)
	w.deny("$KV.connection-ledger.>")
	w.start()
	w.eventually("the ledger's failure to be found", func() bool {
		code, failing := w.readiness()
		return code == http.StatusServiceUnavailable && failing["ledger"] != "" && strings.Contains(failing["consumer"], "the ledger takes no writes")
	})
	w.send(3)
	w.deny("nothing")
	w.eventually("readiness", w.ready)
	w.recovered("ledger")
}

const writesRequest = `{"sandbox":"prod","name":"Databricks connection to Experience Platform","description":"a test",
 "auth":{"specName":"Access Token Authentication","params":{"domain":"https://adb-1234567890123456.7.azuredatabricks.net",
 "clusterId":"0601-182128-dcbte59m","accessToken":"vault:databricks/acme#accessToken","database":"acme-db"}},
 "connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}}`
