package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

// The NATS subjects of the contract, and the baseline's own bucket.
const (
	requestsPrefix = "connections.requests."
	resultsPrefix  = "connections.results."
	bucket         = "bench-ledger"
)

// load is what a contender is given to do.
type load struct {
	requests int
	tenants  int
	slots    int           // of each process
	latency  time.Duration // of the Flow Service
	workers  int           // how many processes; 0 means 1
	inOrder  bool          // all requests of one tenant, then those of the next, instead of one of each in turn
	http2    bool          // the Flow Service is at HTTPS and offers HTTP/2
	env      []string      // more settings of the worker
}

func (l load) String() string {
	s := fmt.Sprintf("%v, %d slots, %d queued by %d tenants", l.latency, l.slots, l.requests, l.tenants)
	if l.http2 {
		s += ", HTTP/2"
	}
	if l.workers > 1 {
		s += fmt.Sprintf(", %d processes", l.workers)
	}
	return s
}

// contender is a program that is measured.
type contender struct {
	name   string
	role   string   // of this program; empty means another one
	shell  string   // a command for sh; empty means the worker
	env    []string // more of its environment
	worker bool
}

var (
	theWorker    = contender{name: "worker", worker: true}
	theBaseline  = contender{name: "baseline", role: "baseline"}
	withLedger   = contender{name: "baseline with two ledger writes", role: "baseline", env: []string{ledgerVariable + "=" + bucket}}
	tracedWorker = contender{name: "worker with tracing", worker: true, env: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + upstreamHere}}
)

// upstreamHere stands for the upstream's URL in a contender's environment.
const upstreamHere = "{upstream}"

// world is everything around a contender, new for each run.
type world struct {
	dir       string
	binary    string // of the worker
	status    string // where the worker serves its status page
	load      load
	cert      string // the upstream's, empty without HTTP/2
	processes []*process
	contender []*process
	isWorker  bool   // the contender is the worker
	broker    string // its URL
	upstream  string
	vault     []string // URL and token
	client    http.Client
	js        jetstream.JetStream
}

// newWorld starts broker, upstream and Vault and makes the streams. Close it also after an error.
func (b *bench) newWorld(ctx context.Context, l load) (*world, error) {
	w := &world{binary: b.binary, status: "127.0.0.1:0", load: l}
	var err error
	if w.dir, err = os.MkdirTemp(b.tmp, "run-"); err != nil {
		return w, err
	}
	if b.profiles {
		ports, err := natstest.FreePorts(ctx, 1)
		if err != nil {
			return w, err
		}
		w.status = fmt.Sprintf("127.0.0.1:%d", ports[0])
		w.load.env = append(w.load.env[:len(w.load.env):len(w.load.env)], "WORKER_PPROF=true")
	}
	if l.http2 {
		w.cert = filepath.Join(w.dir, "upstream.pem")
	}
	urls := map[string][]string{}
	for role, env := range map[string][]string{
		"nats":     {storeVariable + "=" + filepath.Join(w.dir, "jetstream")},
		"vault":    {tenantsVariable + "=" + strconv.Itoa(l.tenants)},
		"upstream": {latencyVariable + "=" + l.latency.String(), certVariable + "=" + w.cert},
	} {
		p, err := startRole(ctx, w.dir, role, env...)
		if err != nil {
			return w, err
		}
		w.processes = append(w.processes, p)
		urls[role] = p.words
	}
	w.broker, w.upstream, w.vault = urls["nats"][0], urls["upstream"][0], urls["vault"]
	if err := w.trustUpstream(); err != nil {
		return w, err
	}
	nc, err := nats.Connect(w.broker)
	if err != nil {
		return w, err
	}
	if w.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(8192)); err != nil {
		return w, err
	}
	if err := run(ctx, w.workerEnv(), w.binary, "init"); err != nil {
		return w, err
	}
	_, err = w.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: bucket, History: 1})
	return w, err
}

// trustUpstream makes a client for what the upstream has seen.
func (w *world) trustUpstream() error {
	transport := &http.Transport{}
	w.client = http.Client{Transport: transport}
	if w.cert == "" {
		return nil
	}
	cert, err := os.ReadFile(w.cert)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	return nil
}

// close ends everything and removes what it has left.
func (w *world) close() {
	if w.js != nil {
		w.js.Conn().Close()
	}
	for _, p := range append(w.contender, w.processes...) {
		p.stop()
	}
	w.client.CloseIdleConnections()
	_ = os.RemoveAll(w.dir) // what is left is in a folder that goes as a whole
}

func (w *world) workerEnv() []string {
	return append([]string{
		"NATS_URL=" + w.broker, "VAULT_ADDR=" + w.vault[0], "VAULT_TOKEN=" + w.vault[1],
		"FLOW_URL=" + w.upstream + flowPath, "IMS_URL=" + w.upstream, "SSL_CERT_FILE=" + w.cert,
		"WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_STATUS_ADDR=" + w.status, "WORKER_CONCURRENCY=" + strconv.Itoa(w.load.slots),
	}, w.load.env...)
}

func (w *world) contenderEnv() []string {
	return []string{
		natsVariable + "=" + w.broker, flowVariable + "=" + w.upstream + flowPath, "SSL_CERT_FILE=" + w.cert,
		streamVariable + "=" + consumer.StreamRequests, consumerVariable + "=" + consumer.ConsumerName,
		requestsVariable + "=" + requestsPrefix, resultsVariable + "=" + resultsPrefix, slotsVariable + "=" + strconv.Itoa(w.load.slots),
	}
}

// start starts a contender's processes.
func (w *world) start(ctx context.Context, c contender) error {
	w.isWorker = c.worker
	for i := range max(1, w.load.workers) {
		var p *process
		var err error
		name := fmt.Sprintf("contender-%d", i)
		env := replaced(c.env, upstreamHere, w.upstream)
		switch {
		case c.worker:
			p, err = start(w.dir, name, append(w.workerEnv(), env...), w.binary, "run")
		case c.role != "":
			p, err = startRole(ctx, w.dir, c.role, append(w.contenderEnv(), env...)...)
		default:
			p, err = start(w.dir, name, append(w.contenderEnv(), env...), "/bin/sh", "-c", c.shell)
		}
		if err != nil {
			return err
		}
		w.contender = append(w.contender, p)
	}
	return nil
}

// requestForm is a request of the Databricks tutorial; its id and its number belong into it.
const requestForm = `{"specversion":"1.0","id":%[1]q,"source":"/bench","type":"flowworker.connection.create.v1","datacontenttype":"application/json","data":` +
	`{"sandbox":"prod","name":"Databricks connection %[1]s","description":"A Databricks base connection to Experience Platform",` +
	`"auth":{"specName":"Access Token Authentication","params":{"domain":"https://adb-1234567890123456.7.azuredatabricks.net",` +
	`"clusterId":"0601-182128-dcbte59m","accessToken":"vault:databricks/main#accessToken","database":"acme-db"}},` +
	`"connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}}}`

func requestMessage(tenant, id string) *nats.Msg {
	return &nats.Msg{Subject: requestsPrefix + tenant, Data: fmt.Appendf(nil, requestForm, id),
		Header: nats.Header{"Content-Type": {"application/cloudevents+json"}}}
}

// preload queues the load's requests, with ids that begin with prefix.
func (w *world) preload(ctx context.Context, prefix string, tenant func(i int) string) error {
	for i := range w.load.requests {
		_, err := w.js.PublishMsgAsync(requestMessage(tenant(i), prefix+strconv.Itoa(i)), jetstream.WithStallWait(time.Minute))
		if err != nil {
			return err
		}
	}
	select {
	case <-w.js.PublishAsyncComplete():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s, err := w.js.Stream(ctx, consumer.StreamRequests)
	if err == nil && int(s.CachedInfo().State.Msgs) != w.load.requests {
		err = fmt.Errorf("%d requests are queued, want %d", s.CachedInfo().State.Msgs, w.load.requests)
	}
	return err
}

// tenantOf returns the tenant of the i-th request.
func (l load) tenantOf(i int) string {
	if l.inOrder {
		return tenantName(i * l.tenants / l.requests)
	}
	return tenantName(i % l.tenants)
}

// traffic asks the upstream what it has seen, as soon as that is some number of POSTs.
func (w *world) traffic(ctx context.Context, posts int) (t traffic, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.upstream+statsPath+"?posts="+strconv.Itoa(posts), nil)
	if err != nil {
		return t, err
	}
	res, err := w.client.Do(req)
	if err != nil {
		return t, errors.Join(w.contenderFailure(), err)
	}
	defer res.Body.Close()
	return t, json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&t)
}

// contenderFailure says which of the contender's processes has ended.
func (w *world) contenderFailure() error {
	for _, p := range w.contender {
		select {
		case <-p.ended:
			return p.failure()
		default:
		}
	}
	return nil
}

// results returns how many results there are, and when the last one was stored.
func (w *world) results(ctx context.Context) (int, time.Time, error) {
	s, err := w.js.Stream(ctx, consumer.StreamResults)
	if err != nil {
		return 0, time.Time{}, err
	}
	state := s.CachedInfo().State
	return int(state.Msgs), state.LastTime, nil
}

// resultTimes reads all results: when each request's was stored, by the request's id.
func (w *world) resultTimes(ctx context.Context) (map[string]time.Time, error) {
	n, _, err := w.results(ctx)
	if err != nil {
		return nil, err
	}
	from, err := w.js.OrderedConsumer(ctx, consumer.StreamResults, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, err
	}
	messages, err := from.Messages()
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	times := make(map[string]time.Time, n)
	for range n {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, err
		}
		var result struct{ Subject string }
		if err := json.Unmarshal(msg.Data(), &result); err != nil {
			return nil, fmt.Errorf("a result: %w", err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return nil, err
		}
		times[result.Subject] = meta.Timestamp
	}
	return times, nil
}
