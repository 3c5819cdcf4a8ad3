package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/tracing/tracingtest"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// traceWorld is a whole worker among services that write down which trace context they are called with.
type traceWorld struct {
	t         *testing.T
	ctx       context.Context
	collector *tracingtest.Collector
	emulator  *flowtest.Emulator
	js        jetstream.JetStream
	log       logLines
	environ   []string

	mu    sync.Mutex
	heard map[string][]string // :: method and path → traceparents; guarded by mu
}

// logLines keeps what a logger writes.
type logLines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// lines returns what was written, decoded.
func (l *logLines) lines(t *testing.T) (out []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.b.Bytes()) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		out = append(out, m)
	}
	return out
}

func newTraceWorld(t *testing.T) *traceWorld {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	w := &traceWorld{t: t, ctx: ctx, collector: tracingtest.Start(), emulator: flowtest.New(flowtest.Config{AllowAnyToken: true}), heard: map[string][]string{}}
	t.Cleanup(w.collector.Close)
	vault := vaulttest.New(vaulttest.Config{})
	for _, tenant := range []string{"acme", "globex"} {
		vault.Put("flow/tenants/"+tenant+"/adobe", map[string]any{"orgId": tenant + "@AdobeOrg", "clientId": tenant + "-client", "clientSecret": "s-" + tenant})
		vault.Put("flow/tenants/"+tenant+"/dbx", map[string]any{"accessToken": "dapi-" + tenant})
	}
	broker := natstest.Run(t, natstest.Options{})
	w.js = natstest.Connect(t, broker.ClientURL())
	flowAt := w.serve(w.emulator)
	w.environ = []string{
		"NATS_URL=" + broker.ClientURL(), "VAULT_ADDR=" + w.serve(vault), "VAULT_TOKEN=" + vault.Token(),
		"FLOW_URL=" + flowAt + "/data/foundation/flowservice", "IMS_URL=" + flowAt,
		"WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_STATUS_ADDR=127.0.0.1:0", "LOG_LEVEL=debug",
		"WORKER_RETRY_INITIAL=5ms", "WORKER_RETRY_DELAY_MAX=100ms", "WORKER_RETRY_ELAPSED=5s", "WORKER_REDELIVERY_DELAY_MAX=2s",
		"WORKER_ACK_WAIT=2s", "WORKER_SETTLE=300ms", "FLOW_TIMEOUT=5s",
	}
	return w
}

// serve starts a service whose callers' trace contexts are written down.
func (w *traceWorld) serve(h http.Handler) string {
	at := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		call := r.Method + " " + r.URL.Path
		w.heard[call] = append(w.heard[call], r.Header.Get("Traceparent")+" "+r.Header.Get("Tracestate"))
		w.mu.Unlock()
		h.ServeHTTP(rw, r)
	}))
	w.t.Cleanup(at.Close)
	return at.URL
}

// with returns what calls to a path of that beginning said.
func (w *traceWorld) with(call string) (contexts []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for at, all := range w.heard {
		if strings.HasPrefix(at, call) {
			contexts = append(contexts, all...)
		}
	}
	return contexts
}

// exporting are settings by which spans come at once.
func (w *traceWorld) exporting() []string {
	return []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + w.collector.URL(), "OTEL_BSP_SCHEDULE_DELAY=20"}
}

// run starts a worker with more settings, and returns what stops it.
func (w *traceWorld) run(more ...string) (stop func()) {
	w.t.Helper()
	set, err := settings.Load(settings.Source{Environ: append(append([]string{}, w.environ...), more...)}, settings.All...)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.ctx))
	ready, done := make(chan struct{}), make(chan error, 1)
	log := slog.New(slog.NewJSONHandler(&w.log, &slog.HandlerOptions{Level: set.Settings.LogLevel}))
	go func() {
		done <- app.Run(ctx, set.Settings, app.Deps{Log: log, Build: app.Build{Version: "1.2.3"}, Ready: func(app.Addresses) { close(ready) }})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(stop)
	select {
	case <-ready:
	case <-w.ctx.Done():
		w.t.Fatalf("the worker did not get ready:\n%s", w.log.b.String())
	}
	return stop
}

// data is a request's, with the connection's name, which faults select by.
func traceData(name string) string {
	return fmt.Sprintf(`{"sandbox":"prod","name":%q,"auth":{"specName":"Access Token Authentication","params":{"domain":"https://adb-1.7.azuredatabricks.net",`+
		`"clusterId":"c","database":"d","accessToken":"vault:dbx#accessToken"}},"connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}}`, name)
}

// submit publishes a request with more headers.
func (w *traceWorld) submit(tenant, id, body string, headers ...string) {
	w.t.Helper()
	m, err := event.EncodeRequest(event.Draft{ID: id, Source: "/traces", Body: []byte(body)})
	if err != nil {
		w.t.Fatal(err)
	}
	msg := &nats.Msg{Subject: "connections.requests." + tenant, Header: nats.Header(m.Headers), Data: m.Body}
	if msg.Header == nil {
		msg.Header = nats.Header{}
	}
	for i := 0; i < len(headers); i += 2 {
		msg.Header.Set(headers[i], headers[i+1])
	}
	if _, err := w.js.PublishMsg(w.ctx, msg); err != nil {
		w.t.Fatal(err)
	}
}

// results returns the first n results that were ever published, by id, once they are there.
func (w *traceWorld) results(n int) map[string]provision.Result {
	w.t.Helper()
	stream, err := w.js.Stream(w.ctx, "CONNECTION_RESULTS")
	if err != nil {
		w.t.Fatal(err)
	}
	from, err := stream.OrderedConsumer(w.ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		w.t.Fatal(err)
	}
	messages, err := from.Messages()
	if err != nil {
		w.t.Fatal(err)
	}
	defer messages.Stop()
	out := map[string]provision.Result{}
	for range n {
		msg, err := messages.Next(jetstream.NextContext(w.ctx))
		if err != nil {
			w.t.Fatalf("%d of %d results: %v", len(out), n, err)
		}
		res, err := event.DecodeResult(msg.Data())
		if err != nil {
			w.t.Fatal(err)
		}
		out[res.Request.ID] = res
	}
	return out
}

// byName returns the spans of a name, in the order in which they began.
func byName(spans []tracingtest.Span, name string) (out []tracingtest.Span) {
	for _, s := range spans {
		if s.Name == name {
			out = append(out, s)
		}
	}
	return out
}
