package app

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// lossWorld is a broker whose ledger gets lost, and all that a worker needs.
type lossWorld struct {
	t        *testing.T
	ctx      context.Context
	store    string
	broker   *natstest.Server
	js       jetstream.JetStream
	flow     *flowtest.Emulator
	settings settings.Settings
}

func newLossWorld(t *testing.T) *lossWorld {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	w := &lossWorld{t: t, ctx: ctx, store: filepath.Join(t.TempDir(), "js"), flow: flowtest.New(flowtest.Config{AllowAnyToken: true})}
	w.broker = natstest.Run(t, natstest.Options{StoreDir: w.store})
	vault := vaulttest.New(vaulttest.Config{})
	vault.Put("flow/tenants/acme/adobe", map[string]any{"orgId": "acme@AdobeOrg", "accessToken": "t", "apiKey": "k"})
	vault.Put("flow/tenants/acme/databricks/acme", map[string]any{"accessToken": "dapi"})
	vaultAt, flowAt := httptest.NewServer(vault), httptest.NewServer(w.flow)
	t.Cleanup(vaultAt.Close)
	t.Cleanup(flowAt.Close)
	set, err := settings.Load(settings.Source{Environ: []string{
		"NATS_URL=" + w.broker.ClientURL(), "VAULT_ADDR=" + vaultAt.URL, "VAULT_TOKEN=" + vault.Token(),
		"FLOW_URL=" + flowAt.URL + "/data/foundation/flowservice", "IMS_URL=" + flowAt.URL,
		"WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_STATUS_ADDR=127.0.0.1:0", "WORKER_RETRY_INITIAL=20ms",
	}}, settings.All...)
	check(t, err)
	w.settings = set.Settings
	w.js = natstest.Connect(t, w.broker.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	return w
}

// start runs a worker that looks at the ledger that often, beside its other occasions, and returns it
// when it is ready, and a function that ends it.
func (w *lossWorld) start(every time.Duration) (worker *worker, stop func()) {
	w.t.Helper()
	l, err := listen(w.ctx, w.settings)
	check(w.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	ready, done := make(chan struct{}), make(chan error, 1)
	worker, err = newWorker(ctx, w.settings, Deps{Log: slog.New(slog.DiscardHandler), Ready: func(Addresses) { close(ready) }})
	check(w.t, err)
	worker.guard.every = every
	go func() { done <- worker.run(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		check(w.t, <-done)
		worker.close()
	})
	w.t.Cleanup(stop)
	select {
	case <-ready:
	case <-w.ctx.Done():
		w.t.Fatal("the worker did not get ready")
	}
	return worker, stop
}

// send publishes the one request as a new message and waits until it is dealt with.
func (w *lossWorld) send() {
	w.t.Helper()
	m, err := event.EncodeRequest(event.Draft{ID: "r", Source: "/loss", Body: []byte(tutorialRequest)})
	check(w.t, err)
	_, err = w.js.PublishMsg(w.ctx, &nats.Msg{Subject: "connections.requests.acme", Header: m.Headers, Data: m.Body})
	check(w.t, err)
	w.eventually("the request to be dealt with", func() bool {
		s, err := w.js.Stream(w.ctx, consumer.StreamRequests)
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
}

// eventually asks NATS or the worker until the answer is yes.
func (w *lossWorld) eventually(what string, yes func() bool) {
	w.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (w *lossWorld) purge() {
	w.t.Helper()
	s, err := w.js.Stream(w.ctx, "KV_"+ledger.DefaultBucket)
	check(w.t, err)
	check(w.t, s.Purge(w.ctx))
}

// looked checks how many connections and look-ups there were.
func (w *lossWorld) looked(when string, wantLook bool) {
	w.t.Helper()
	if n := len(w.flow.Connections()); n != 1 {
		w.t.Errorf("%s: %d connections, want 1", when, n)
	}
	if n := w.flow.Count(flowtest.OpList); (n > 0) != wantLook {
		w.t.Errorf("%s: %d look-ups, want some: %v", when, n, wantLook)
	}
}

// A request that is repeated after the ledger was purged makes no second connection: the worker that
// ran meanwhile has noticed, and one that starts later is told by the first one's note.
func TestLedgerPurgedUnderAWorker(t *testing.T) {
	t.Parallel()
	for _, later := range []bool{false, true} {
		t.Run(map[bool]string{false: "the same worker", true: "one that starts later"}[later], func(t *testing.T) {
			t.Parallel()
			w := newLossWorld(t)
			worker, stop := w.start(20 * time.Millisecond)
			w.send()
			w.looked("before the purge", false)
			w.purge()
			w.eventually("the purge to be noticed", func() bool { return time.Now().Before(worker.guard.lookFirstUntil()) })
			if later {
				stop()
				w.start(time.Hour)
			}
			w.send()
			w.looked("after the purge", true)
		})
	}
}

// A repeat comes right after the ledger was deleted, long before anybody looks: the worker finds out by
// writing.
func TestRepeatRightAfterTheLedgerWasDeleted(t *testing.T) {
	t.Parallel()
	for _, anew := range []bool{false, true} {
		t.Run(map[bool]string{false: "deleted", true: "made anew at once"}[anew], func(t *testing.T) {
			t.Parallel()
			w := newLossWorld(t)
			w.start(time.Hour)
			w.send()
			w.looked("before the deletion", false)
			check(t, w.js.DeleteKeyValue(w.ctx, ledger.DefaultBucket))
			if anew {
				_, err := ledger.Open(w.ctx, w.js, ledger.Config{Manage: true})
				check(t, err)
			}
			w.send()
			w.looked("after it", true)
		})
	}
}

// Nobody saw the purge: the worker that starts next misses the note.
func TestLedgerPurgedWhileNoWorkerRuns(t *testing.T) {
	t.Parallel()
	w := newLossWorld(t)
	_, stop := w.start(time.Hour)
	w.send()
	w.looked("before the purge", false)
	stop()
	w.purge()
	w.start(time.Hour)
	w.send()
	w.looked("after the purge", true)
}

// NATS comes back without its last writes: the worker looks at the ledger before it takes a request.
func TestLedgerLosesItsLastWrites(t *testing.T) {
	t.Parallel()
	w := newLossWorld(t)
	w.start(time.Hour)
	w.broker.Stop()
	saved := w.store + "-saved"
	check(t, os.CopyFS(saved, os.DirFS(w.store)))
	w.restart()
	w.send()
	w.looked("before the loss", false)
	w.broker.Stop()
	check(t, errors.Join(os.RemoveAll(w.store), os.Rename(saved, w.store)))
	w.restart()
	w.send()
	w.looked("after the loss", true)
}

// restart starts the broker again and waits until the test's own connection was made again.
func (w *lossWorld) restart() {
	w.t.Helper()
	before := w.js.Conn().Stats().Reconnects
	check(w.t, w.broker.Restart(w.ctx))
	w.eventually("the connection", func() bool { return w.js.Conn().Stats().Reconnects > before && w.js.Conn().IsConnected() })
}

// A ledger without a note, as older versions kept it, was not purged after its oldest record was
// written, so nobody is sent to look for longer than that calls for.
func TestLedgerOfAnOlderVersion(t *testing.T) {
	t.Parallel()
	w := newLossWorld(t)
	book, err := ledger.Open(w.ctx, w.js, ledger.Config{Manage: true})
	check(t, err)
	rec := provision.Record{Key: provision.Key{Tenant: "acme", Source: "s", ID: "old"}, State: provision.StateClaimed}
	_, err = book.Store(w.ctx, rec.Key, rec, 0)
	check(t, err)
	wrote := time.Now()
	worker, _ := w.start(time.Hour)
	if until := worker.guard.lookFirstUntil(); until.Before(time.Now()) || until.After(wrote.Add(ledger.DefaultTTL)) {
		t.Errorf("look first until %v; the oldest record was written at %v", until, wrote)
	}
}

// The log is told once of a loss, not of every look.
func TestLossIsToldOnce(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	w := &worker{}
	js := openLedgerFor(t.Context(), t, w)
	g := &ledgerGuard{ledger: &w.ledger, reconnects: func() uint64 { return 0 }, log: slog.New(slog.NewTextHandler(&log, nil))}
	check(t, g.check(t.Context()))
	if log.Len() > 0 || !g.lookFirstUntil().IsZero() {
		t.Errorf("nothing was lost: %s", log.String())
	}
	for range 2 {
		check(t, js.DeleteKeyValue(t.Context(), ledger.DefaultBucket))
		_, err := ledger.Open(t.Context(), js, ledger.Config{Manage: true})
		check(t, err)
		for range 3 {
			check(t, g.check(t.Context()))
		}
	}
	if n := strings.Count(log.String(), "may have lost records"); n != 1 {
		t.Errorf("told %d times, want once:\n%s", n, log.String())
	}
}

// After a reconnection the first request looks at the ledger, and waits outside where that fails.
func TestLookAfterReconnection(t *testing.T) {
	t.Parallel()
	w := &worker{}
	js := openLedgerFor(t.Context(), t, w)
	times := uint64(0)
	g := &ledgerGuard{ledger: &w.ledger, reconnects: func() uint64 { return times }, log: slog.New(slog.DiscardHandler)}
	w.guard, w.status = g, &ops.Status{}
	check(t, g.check(t.Context()))
	check(t, js.DeleteKeyValue(t.Context(), ledger.DefaultBucket))
	check(t, g.checkOnceConnected(t.Context())) // it doesn't ask
	times++
	if out := w.handle(t.Context(), provision.Delivery{}); out.Result != nil || out.Delay <= 0 || !strings.Contains(out.Why, "ledger") {
		t.Errorf("no ledger after a reconnection: %+v, want the message to go back", out)
	}
	_, err := ledger.Open(t.Context(), js, ledger.Config{Manage: true})
	check(t, err)
	check(t, g.checkOnceConnected(t.Context()))
	if g.LostAt().IsZero() {
		t.Error("the ledger was made anew, and nobody noticed")
	}
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

const tutorialRequest = `{"sandbox":"prod","name":"Databricks connection to Experience Platform","description":"guard",
 "auth":{"specName":"Access Token Authentication","params":{"domain":"https://adb-1234567890123456.7.azuredatabricks.net",
 "clusterId":"0601-182128-dcbte59m","accessToken":"vault:databricks/acme#accessToken","database":"acme-db"}},
 "connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}}`
