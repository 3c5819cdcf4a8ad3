//go:build soak && linux

package fairness

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

// The world that every measurement of the built worker takes place in, unless it says otherwise.
const (
	latency = 500 * time.Millisecond // of the Flow Service
	slots   = 64                     // WORKER_CONCURRENCY's default
	big     = "big"
	small   = "small"
)

// world is everything around the workers.
type world struct {
	brokers     *brokers
	js          jetstream.JetStream // the requesters' connection
	flow        *flowtest.Emulator
	flowURL     string
	flowTimeout time.Duration
	workers     []*worker
	sent        int

	posts, made, throttled atomic.Int64 // POSTs of connections, those answered 201, and 429
}

// newWorld starts a broker and the Flow Service, but no worker.
func newWorld(ctx context.Context, t *testing.T, servers int) *world {
	t.Helper()
	w := &world{brokers: startBrokers(ctx, t, servers), flowTimeout: 75 * time.Second}
	w.flow = flowtest.New(flowtest.Config{AllowAnyToken: true, Latency: latency})
	at := httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(func() {
		at.CloseClientConnections()
		at.Close()
	})
	w.flowURL = at.URL
	w.js = w.brokers.connect(t)
	return w
}

// serve counts the POSTs on their way to the emulator.
func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/connections") {
		w.flow.ServeHTTP(rw, r)
		return
	}
	w.posts.Add(1)
	rec := &recorder{ResponseWriter: rw}
	w.flow.ServeHTTP(rec, r)
	switch rec.status {
	case http.StatusCreated:
		w.made.Add(1)
	case http.StatusTooManyRequests:
		w.throttled.Add(1)
	}
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController at what the recorder hides, which faults that break connections need.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// publish queues n requests of a tenant.
func (w *world) publish(ctx context.Context, t *testing.T, tenant string, n int) {
	t.Helper()
	for range n {
		_, err := w.js.PublishMsgAsync(w.request(t, tenant), jetstream.WithStallWait(time.Minute)) // a busy broker is slow, not ill
		must(t, err)
	}
	select {
	case <-w.js.PublishAsyncComplete():
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	}
}

func (w *world) request(t *testing.T, tenant string) *nats.Msg {
	t.Helper()
	w.sent++
	m, err := event.EncodeRequest(event.Draft{ID: fmt.Sprintf("r%d", w.sent), Source: "/fairness", Body: []byte(requestData)})
	must(t, err)
	return &nats.Msg{Subject: event.RequestSubject(tenant), Header: nats.Header(m.Headers), Data: m.Body}
}

// ask publishes one request of a tenant and returns how long its result takes. It fails the test if
// that is longer than patience.
func (w *world) ask(ctx context.Context, t *testing.T, tenant string, patience time.Duration) time.Duration {
	t.Helper()
	wait, ok := w.askFor(ctx, t, tenant, patience)
	if !ok {
		t.Errorf("no result of the request of %s after %v", tenant, wait)
	}
	return wait
}

// askFor is ask that only tells.
func (w *world) askFor(ctx context.Context, t *testing.T, tenant string, patience time.Duration) (time.Duration, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m := w.request(t, tenant)
	sub, err := w.js.Conn().SubscribeSync("connections.results." + tenant + ".>")
	must(t, err)
	defer sub.Unsubscribe() //nolint:errcheck // nothing follows from it
	must(t, w.js.Conn().Flush())
	began := time.Now()
	_, err = w.js.PublishMsg(ctx, m)
	must(t, err)
	msg, err := sub.NextMsgWithContext(ctx)
	took := time.Since(began)
	if err == nil && !strings.HasSuffix(msg.Subject, ".created") {
		t.Errorf("%s: %s", msg.Subject, msg.Data)
	}
	return took, err == nil
}

const requestData = `{"sandbox":"prod","name":"Databricks connection","description":"made to measure",
 "auth":{"specName":"Access Token Authentication","params":{"domain":"https://adb-1234567890123456.7.azuredatabricks.net",
 "clusterId":"0601-182128-dcbte59m","accessToken":"vault:databricks/main#accessToken","database":"main"}},
 "connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}}`
