//go:build linux

package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

// load is what a contender is given to do.
type load struct {
	requests int
	tenants  int
	slots    int           // of each process
	latency  time.Duration // of the Flow Service
	workers  int           // how many processes; 0 means 1
	inOrder  bool          // all requests of one tenant, then those of the next, instead of one of each at a time
	http2    bool          // the Flow Service is at HTTPS and offers HTTP/2
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

// tenantOf returns the tenant of the i-th request.
func (l load) tenantOf(i int) string {
	if l.inOrder {
		return tenantName(i * l.tenants / l.requests)
	}
	return tenantName(i % l.tenants)
}

// contender is a program that is measured.
type contender struct {
	name   string
	shell  string // a command for sh; empty means the worker, or the baseline
	worker bool
	ledger bool // baseline: with two ledger writes
	traced bool // worker: exports spans
}

var (
	theWorker    = contender{name: "worker", worker: true}
	tracedWorker = contender{name: "worker with tracing", worker: true, traced: true}
	theBaseline  = contender{name: "baseline"}
	withLedger   = contender{name: "baseline with two ledger writes", ledger: true}
)

// Names that a contender is told. Those of streams and consumer are the contract's.
const (
	requestsPrefix = "connections.requests."
	resultsPrefix  = "connections.results."
	bucket         = "bench-ledger"
)

// world is a contender and everything around it, new for each run. What fails in it panics; see check.
type world struct {
	ctx       context.Context // ends when a process does, or the time for the run is over
	cancel    context.CancelCauseFunc
	dir       string
	binary    string // of the worker
	load      load
	status    string // where the worker serves its status page; empty means anywhere
	cert      string // path of the upstream's certificate; empty without HTTP/2
	broker    string // URLs
	upstream  string
	vault     []string // URL and token
	around    []*process
	contender []*process
	client    http.Client // of the upstream's statistics
	js        jetstream.JetStream
}

// newWorld starts broker, upstream and Vault and makes the streams. Close it by defer.
func (b *bench) newWorld(ctx context.Context, l load) *world {
	ctx, stop := context.WithTimeout(ctx, b.patience)
	w := &world{binary: b.binary, load: l, dir: must(os.MkdirTemp(b.tmp, "run-"))}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	context.AfterFunc(w.ctx, stop)
	var built bool
	defer func() {
		if !built {
			w.close()
		}
	}()
	if l.http2 {
		w.cert = filepath.Join(w.dir, "upstream.pem")
	}
	if b.profiles {
		w.status = fmt.Sprintf("127.0.0.1:%d", must(natstest.FreePorts(ctx, 1))[0])
	}
	broker := startRole(w.dir, "nats", storeVariable+"="+filepath.Join(w.dir, "jetstream"))
	vault := startRole(w.dir, "vault", tenantsVariable+"="+strconv.Itoa(l.tenants+singles))
	upstream := startRole(w.dir, "upstream", latencyVariable+"="+l.latency.String(), certVariable+"="+w.cert)
	w.around = []*process{broker, vault, upstream}
	w.watch(w.around)
	w.broker, w.vault, w.upstream = broker.ready(w.ctx)[0], vault.ready(w.ctx), upstream.ready(w.ctx)[0]
	if w.cert != "" {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(must(os.ReadFile(w.cert)))
		w.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	}
	w.js = must(jetstream.New(must(nats.Connect(w.broker)), jetstream.WithPublishAsyncMaxPending(8192)))
	create := exec.CommandContext(w.ctx, w.binary, "init")
	create.Env = append(os.Environ(), w.workerEnv(contender{})...)
	if text, err := create.CombinedOutput(); err != nil {
		check(fmt.Errorf("worker init: %w\n%s", err, text))
	}
	must(w.js.CreateKeyValue(w.ctx, jetstream.KeyValueConfig{Bucket: bucket, History: 1}))
	built = true
	return w
}

// watch ends the world's context when one of its processes ends.
func (w *world) watch(processes []*process) {
	for _, p := range processes {
		go func() {
			<-p.ended
			w.cancel(p.failure())
		}()
	}
}

// close ends everything, removes what it has left, and names the cause of a failure.
func (w *world) close() {
	p := recover()
	cause := context.Cause(w.ctx)
	w.cancel(nil)
	if w.js != nil {
		w.js.Conn().Close()
	}
	for _, p := range append(w.contender, w.around...) {
		p.stop()
	}
	w.client.CloseIdleConnections()
	_ = os.RemoveAll(w.dir) // what is left is in a folder that goes as a whole
	if f, ok := p.(failure); ok {
		panic(failure{fmt.Errorf("%v: %w", w.load, cmp.Or(cause, f.error))})
	} else if p != nil {
		panic(p)
	}
}

func (w *world) workerEnv(c contender) []string {
	env := []string{
		"NATS_URL=" + w.broker, "VAULT_ADDR=" + w.vault[0], "VAULT_TOKEN=" + w.vault[1],
		"FLOW_URL=" + w.upstream + flowPath, "IMS_URL=" + w.upstream, "SSL_CERT_FILE=" + w.cert,
		"WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_STATUS_ADDR=" + cmp.Or(w.status, "127.0.0.1:0"), "WORKER_PPROF=" + strconv.FormatBool(w.status != ""),
		"WORKER_CONCURRENCY=" + strconv.Itoa(w.load.slots),
	}
	if c.traced {
		env = append(env, "OTEL_EXPORTER_OTLP_ENDPOINT="+w.upstream)
	}
	return env
}

func (w *world) baselineEnv(c contender) []string {
	env := []string{
		natsVariable + "=" + w.broker, flowVariable + "=" + w.upstream + flowPath, "SSL_CERT_FILE=" + w.cert,
		streamVariable + "=" + consumer.StreamRequests, consumerVariable + "=" + consumer.ConsumerName,
		requestsVariable + "=" + requestsPrefix, resultsVariable + "=" + resultsPrefix, slotsVariable + "=" + strconv.Itoa(w.load.slots),
	}
	if c.ledger {
		env = append(env, ledgerVariable+"="+bucket)
	}
	return env
}

// start starts a contender's processes.
func (w *world) start(c contender) {
	for i := range max(1, w.load.workers) {
		path, args, env := w.binary, []string{"run"}, w.workerEnv(c)
		switch {
		case c.shell != "":
			path, args, env = "/bin/sh", []string{"-c", c.shell}, w.baselineEnv(c)
		case !c.worker:
			path, args, env = must(os.Executable()), nil, append(w.baselineEnv(c), roleVariable+"=baseline")
		}
		w.contender = append(w.contender, start(w.dir, fmt.Sprintf("contender-%d", i), env, path, args...))
	}
	w.watch(w.contender)
}

// requestForm is a request of the Databricks tutorial.
const requestForm = `{"specversion":"1.0","id":%[1]q,"source":"/bench","type":"flowworker.connection.create.v1","datacontenttype":"application/json","data":` +
	`{"sandbox":"prod","name":"Databricks connection %[1]s","description":"A Databricks base connection to Experience Platform",` +
	`"auth":{"specName":"Access Token Authentication","params":{"domain":"https://adb-1234567890123456.7.azuredatabricks.net",` +
	`"clusterId":"0601-182128-dcbte59m","accessToken":"vault:databricks/main#accessToken","database":"acme-db"}},` +
	`"connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}}}`

func requestMessage(tenant, id string) *nats.Msg {
	return &nats.Msg{Subject: requestsPrefix + tenant, Data: fmt.Appendf(nil, requestForm, id),
		Header: nats.Header{"Content-Type": {"application/cloudevents+json"}}}
}

// requestID returns the id of the i-th request.
func requestID(i int) string { return "r" + strconv.Itoa(i) }

// preload queues the load's requests.
func (w *world) preload() {
	for i := range w.load.requests {
		must(w.js.PublishMsgAsync(requestMessage(w.load.tenantOf(i), requestID(i)), jetstream.WithStallWait(time.Minute)))
	}
	select {
	case <-w.js.PublishAsyncComplete():
	case <-w.ctx.Done():
		check(context.Cause(w.ctx))
	}
	if n := must(w.js.Stream(w.ctx, consumer.StreamRequests)).CachedInfo().State.Msgs; int(n) != w.load.requests {
		check(fmt.Errorf("%d requests are queued, want %d", n, w.load.requests))
	}
}

// get reads what is at a URL.
func (w *world) get(url string) []byte {
	req := must(http.NewRequestWithContext(w.ctx, http.MethodGet, url, nil))
	res, err := w.client.Do(req)
	check(err)
	defer res.Body.Close()
	body := must(io.ReadAll(res.Body))
	if res.StatusCode != http.StatusOK {
		check(errors.New(url + ": " + res.Status))
	}
	return body
}

// traffic asks the upstream what it has seen, as soon as that is some number of POSTs.
func (w *world) traffic(posts int) (t traffic) {
	check(json.Unmarshal(w.get(w.upstream+statsPath+"?posts="+strconv.Itoa(posts)), &t))
	return t
}

// results returns how many results there are, and when the last one was stored.
func (w *world) results() (int, time.Time) {
	state := must(w.js.Stream(w.ctx, consumer.StreamResults)).CachedInfo().State
	return int(state.Msgs), state.LastTime
}

// resultTimes reads all results: when each request's was stored, by the request's id.
func (w *world) resultTimes() map[string]time.Time {
	n, _ := w.results()
	from := must(w.js.OrderedConsumer(w.ctx, consumer.StreamResults, jetstream.OrderedConsumerConfig{}))
	messages := must(from.Messages())
	defer messages.Stop()
	times := make(map[string]time.Time, n)
	for range n {
		msg := must(messages.Next(jetstream.NextContext(w.ctx)))
		var result struct{ Subject string }
		check(json.Unmarshal(msg.Data(), &result))
		times[result.Subject] = must(msg.Metadata()).Timestamp
	}
	return times
}
