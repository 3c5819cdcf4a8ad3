package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// leakWorld is a worker whose every secret is a canary, and everything it could leak into.
type leakWorld struct {
	t        *testing.T
	ctx      context.Context
	canaries map[string]string // :: name → secret
	dir      string            // for files
	store    string            // NATS's
	log      lockedLog
	emulator *flowtest.Emulator
	flow     *parrot
	vault    *parrot
	flowURL  string
	environ  []string
	spy      *nats.Conn
	js       jetstream.JetStream
	heardMu  sync.Mutex
	heard    map[string][]string // :: kind of subject → messages that went by
	sick     atomic.Pointer[string]
	worker   *worker
	at       Addresses
	stop     func()
}

type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// secretNames are the canaries that there are from the start; those of IMS come later.
var secretNames = []string{"acme clientSecret", "acme Databricks token", "static accessToken", "static apiKey", "static Databricks token",
	"refused clientSecret", "imsdown clientSecret", "sealed Databricks token", "NATS password", "AppRole secret-id", "JWT", "Vault token", "plaintext token",
	"unknown field", "unknown attribute", "unknown header", "broken JSON", "decoder's panic", "panic's token", "user info", "trace state"}

func newLeakWorld(t *testing.T) *leakWorld {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	w := &leakWorld{t: t, ctx: ctx, canaries: map[string]string{}, dir: t.TempDir(), heard: map[string][]string{}}
	for _, name := range secretNames {
		w.canaries[name] = canary.New()
	}
	w.canaries["NATS password"] = canary.Plain()
	w.addMisplaced()
	w.startVault()
	w.startFlow()
	w.startNATS()
	return w
}

func (w *leakWorld) startFlow() {
	w.emulator = flowtest.New(flowtest.Config{AllowAnyToken: true})
	w.flow = newParrot(w.emulator)
	at := httptest.NewServer(w.flow)
	at.Config.ErrorLog = nil
	w.t.Cleanup(at.Close)
	w.flowURL = at.URL
	w.environ = append(w.environ, "FLOW_URL="+at.URL+"/data/foundation/flowservice", "IMS_URL="+at.URL)
}

// startVault starts a Vault that knows the worker by a canary. It stands behind a parrot, which speaks for
// tenant "sealed".
func (w *leakWorld) startVault() {
	c := w.canaries
	vault := vaulttest.New(vaulttest.Config{})
	put := func(path string, kv ...any) {
		fields := map[string]any{}
		for i := 0; i < len(kv); i += 2 {
			fields[kv[i].(string)] = kv[i+1]
		}
		vault.Put("flow/tenants/"+path, fields)
	}
	put("acme/adobe", "orgId", "acme@AdobeOrg", "clientId", "acme-client-id", "clientSecret", c["acme clientSecret"])
	put("acme/dbx", "accessToken", c["acme Databricks token"])
	put("static/adobe", "orgId", "static@AdobeOrg", "accessToken", c["static accessToken"], "apiKey", c["static apiKey"])
	put("static/dbx", "accessToken", c["static Databricks token"], "domain", "https://adb-1.7.azuredatabricks.net")
	put("refused/adobe", "orgId", "refused@AdobeOrg", "clientId", "parrot-refused", "clientSecret", c["refused clientSecret"])
	put("refused/dbx", "accessToken", c["acme Databricks token"])
	put("imsdown/adobe", "orgId", "imsdown@AdobeOrg", "clientId", "parrot-down", "clientSecret", c["imsdown clientSecret"])
	put("imsdown/dbx", "accessToken", c["acme Databricks token"])
	put("odd/adobe", "orgId", c["acme Databricks token"], "clientId", "id", "clientSecret", c["acme clientSecret"])
	front := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/login"):
			_ = json.NewEncoder(rw).Encode(map[string]any{"request_id": "1", "auth": map[string]any{
				"client_token": c["Vault token"], "lease_duration": 3600, "renewable": true}})
		case strings.Contains(r.URL.Path, "/sealed/"):
			rw.WriteHeader(503)
			_ = json.NewEncoder(rw).Encode(map[string]any{"errors": w.vault.allHeard()})
		case strings.Contains(r.URL.Path, "/denied/"):
			rw.WriteHeader(403)
			_ = json.NewEncoder(rw).Encode(map[string]any{"errors": w.vault.allHeard()})
		default:
			r.Header.Set("X-Vault-Token", vault.Token())
			vault.ServeHTTP(rw, r)
		}
	})
	w.vault = newParrot(front)
	at := httptest.NewServer(w.vault)
	w.t.Cleanup(at.Close)
	w.environ = append(w.environ, "VAULT_ADDR="+at.URL)
}

// startNATS starts a broker with two ways to come in, and a spy who hears everything that goes by.
func (w *leakWorld) startNATS() {
	pair, err := nkeys.CreateUser()
	check(w.t, err)
	public, err := pair.PublicKey()
	check(w.t, err)
	seed, err := pair.Seed()
	check(w.t, err)
	w.canaries["NATS seed"] = string(seed)
	conf := fmt.Sprintf("accounts: { A: { jetstream: enabled, users: [ {user: worker, password: %q}, {nkey: %s} ] } }\n", w.canaries["NATS password"], public)
	w.store = w.dir + "/store"
	broker := natstest.Run(w.t, natstest.Options{ConfigFile: w.file("nats.conf", conf), StoreDir: w.store})
	login := nats.UserInfo("worker", w.canaries["NATS password"])
	w.js = natstest.Connect(w.t, broker.ClientURL(), login)
	w.spy, err = nats.Connect(broker.ClientURL(), login)
	check(w.t, err)
	w.t.Cleanup(w.spy.Close)
	_, err = w.spy.Subscribe(">", w.overhear)
	check(w.t, err)
	check(w.t, w.spy.Flush())
	w.environ = append(w.environ, "NATS_URL="+strings.Replace(broker.ClientURL(), "://", "://worker:"+w.canaries["NATS password"]+"@", 1))
}

// overhear takes down a message, unless it is a request, which is the requester's own.
func (w *leakWorld) overhear(m *nats.Msg) {
	if strings.HasPrefix(m.Subject, "connections.requests.") || strings.HasPrefix(m.Reply, "$JS.ACK.CONNECTION_REQUESTS.") {
		return
	}
	kind := "NATS inboxes and acks"
	for prefix, name := range map[string]string{"connections.results.": "results", "connections.deadletters.": "dead letters",
		"$KV.": "ledger, every write", "$JS.EVENT.": "JetStream advisories", "$JS.API.": "JetStream calls"} {
		if strings.HasPrefix(m.Subject, prefix) {
			kind = name
		}
	}
	w.heardMu.Lock()
	defer w.heardMu.Unlock()
	w.heard[kind] = append(w.heard[kind], fmt.Sprintf("%s %s %v\n%s", m.Subject, m.Reply, m.Header, m.Data))
}

func (w *leakWorld) overheard(kind string) string {
	w.heardMu.Lock()
	defer w.heardMu.Unlock()
	return strings.Join(w.heard[kind], "\n")
}

func (w *leakWorld) file(name, content string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	check(w.t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// start runs a worker with more settings.
func (w *leakWorld) start(more ...string) {
	w.t.Helper()
	w.vault.forget() // what another worker said is none of this one's
	set, err := settings.Load(settings.Source{Environ: append(append([]string{
		"WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_STATUS_ADDR=127.0.0.1:0", "WORKER_PPROF=true", "LOG_LEVEL=debug",
		"WORKER_RETRY_INITIAL=5ms", "WORKER_RETRY_DELAY_MAX=100ms", "WORKER_RETRY_ELAPSED=1s", "WORKER_REDELIVERY_DELAY_MAX=200ms",
		"WORKER_ACK_WAIT=1s", "WORKER_REQUEST_DEADLINE=3s", "WORKER_SETTLE=300ms", "FLOW_TIMEOUT=2s",
	}, w.environ...), more...)}, settings.All...)
	check(w.t, err)
	l, err := listen(w.ctx, set.Settings)
	check(w.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.ctx))
	ready, done := make(chan struct{}), make(chan error, 1)
	log := slog.New(slog.NewJSONHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}))
	w.at = l.addresses()
	w.worker, err = newWorker(ctx, set.Settings, Deps{Log: log, Build: Build{Version: "1"}, Ready: func(Addresses) { close(ready) }})
	check(w.t, err)
	w.bend()
	go func(run *worker) { done <- run.run(ctx, l) }(w.worker)
	w.stop = sync.OnceFunc(func() { cancel(); check(w.t, <-done); w.worker.close() })
	w.t.Cleanup(w.stop)
	select {
	case <-ready:
	case <-w.ctx.Done():
		w.t.Fatalf("the worker did not get ready:\n%s", w.log.String())
	}
}

// bend makes the worker break where only a bug could break it, and keeps its circuits closed, which would
// keep it from the failures that are wanted.
func (w *leakWorld) bend() {
	w.worker.hubConfig.Gate = nil
	w.worker.watch.connections = buggyFlow{w.worker.flow}
	w.worker.consumer.Codec = buggyCodec{w.worker.consumer.Codec.(*event.Decoder)}
	w.worker.health.Add("sick", func(context.Context) error {
		if why := w.sick.Load(); why != nil {
			return fmt.Errorf("sick of %s", *why)
		}
		return nil
	})
}

// buggyFlow panics where a connection's name says so, with all that it knows.
type buggyFlow struct{ provision.Connections }

// Authorize implements provision.Connections.
func (b buggyFlow) Authorize(ctx context.Context, as provision.Account) error {
	if as.Sandbox == "panic" {
		panic(fmt.Sprintf("%v %+v %#v %s", as, as, as, []any{as}))
	}
	return b.Connections.Authorize(ctx, as)
}

// Create implements provision.Connections. One connection is always too late.
func (b buggyFlow) Create(ctx context.Context, as provision.Account, c provision.NewConnection, notAfter time.Time) (provision.Connection, error) {
	if c.Name == "too late" {
		notAfter = time.Now().Add(-time.Second)
	}
	return b.Connections.Create(ctx, as, c, notAfter)
}

// buggyCodec panics over a message that says so.
type buggyCodec struct{ *event.Decoder }

// Decode implements consumer.Codec.
func (b buggyCodec) Decode(tenant string, h map[string][]string, body []byte, meta event.Meta) provision.Delivery {
	if bytes.Contains(body, []byte("decoder, panic!")) {
		return b.panics(body)
	}
	return b.Decoder.Decode(tenant, h, body, meta)
}

func (buggyCodec) panics(body []byte) provision.Delivery {
	return []provision.Delivery{}[len(body)]
}
