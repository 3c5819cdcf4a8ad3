package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// What the promise costs. Run it with
//
//	go test ./cmd/worker/internal/app -run '^$' -bench Price -benchtime 3x
//
// Each iteration sends a batch through the whole worker and the same batch through a bare loop that
// only pulls, posts, publishes and acknowledges, in turn, so that a noisy machine is noisy for both;
// and once more through a bare loop that gives every POST a connection of its own, as the worker does.
// Everything runs in one process: server, emulator and sender are part of all figures.
const priceBatch = 2000

// BenchmarkPrice compares at an emulator that answers at once.
func BenchmarkPrice(b *testing.B) {
	w := newPriceWorld(b, 0, 64)
	w.round(b, w.bare, 200) // warm up
	w.round(b, w.whole, 200)
	var whole, bare, apart cost
	for b.Loop() {
		bare.add(w.round(b, w.bare, priceBatch))
		whole.add(w.round(b, w.whole, priceBatch))
		apart.add(w.round(b, w.bareApart, priceBatch))
	}
	whole.report(b, "worker")
	bare.report(b, "bare")
	apart.report(b, "bare-conn-per-POST")
	b.ReportMetric(whole.rate()/bare.rate(), "ratio")
	b.ReportMetric(whole.rate()/apart.rate(), "ratio-to-conn-per-POST")
}

// BenchmarkPriceAtLatency measures how well slots are used when the Flow Service takes its time. The
// ideal of many slots at a short time may be more than the machine has CPU for, server, emulator and
// sender included: then the figure tells of the machine. of-ideal leaves out the first and the last
// round of slots, where not all of them have work; whole-run doesn't.
func BenchmarkPriceAtLatency(b *testing.B) {
	for _, at := range []struct {
		slots   int
		latency time.Duration
	}{
		{512, 100 * time.Millisecond},
		{64, 100 * time.Millisecond},
		{512, time.Second},
		{64, time.Second},
	} {
		b.Run(fmt.Sprintf("%d slots, %v", at.slots, at.latency), func(b *testing.B) { priceAtLatency(b, at.slots, at.latency) })
	}
}

func priceAtLatency(b *testing.B, slots int, latency time.Duration) {
	w := newPriceWorld(b, latency, slots)
	w.round(b, w.whole, slots)
	n := int(12 * float64(slots) * max(1, 0.5/latency.Seconds())) // 6 s or more at the ideal rate
	var whole cost
	for b.Loop() {
		whole.add(w.round(b, w.whole, n))
	}
	whole.report(b, "worker")
	ideal := float64(slots) / latency.Seconds()
	b.ReportMetric(whole.steady/float64(b.N)/ideal, "of-ideal")
	b.ReportMetric(whole.rate()/ideal, "whole-run")
}

// cost is what some requests took.
type cost struct {
	requests int
	wall     time.Duration
	cpu      time.Duration
	allocs   uint64
	steady   float64 // results per second while all slots had work, summed over the rounds
}

func (c *cost) add(o cost) {
	c.requests += o.requests
	c.wall += o.wall
	c.cpu += o.cpu
	c.allocs += o.allocs
	c.steady += o.steady
}

func (c *cost) rate() float64 { return float64(c.requests) / c.wall.Seconds() }

func (c *cost) report(b *testing.B, who string) {
	b.ReportMetric(c.rate(), who+"-req/s")
	b.ReportMetric(float64(c.cpu.Microseconds())/float64(c.requests), who+"-cpu-µs/req")
	b.ReportMetric(float64(c.allocs)/float64(c.requests), who+"-allocs/req")
}

// priceWorld is a broker with two sets of streams: the worker's own, and "bare.*".
type priceWorld struct {
	js    jetstream.JetStream
	flow  *flowtest.Emulator
	url   string
	slots int
	sent  int
}

func newPriceWorld(b *testing.B, latency time.Duration, slots int) *priceWorld {
	b.Helper()
	ns := natstest.Run(b, natstest.Options{})
	vault := vaulttest.New(vaulttest.Config{})
	vault.Put("flow/tenants/acme/adobe", map[string]any{"orgId": "acme@AdobeOrg", "accessToken": "t", "apiKey": "k"})
	vault.Put("flow/tenants/acme/databricks/acme", map[string]any{"accessToken": "dapi"})
	em := flowtest.New(flowtest.Config{AllowAnyToken: true, Latency: latency})
	vaultAt, flowAt := httptest.NewServer(vault), httptest.NewServer(em)
	b.Cleanup(vaultAt.Close)
	b.Cleanup(flowAt.Close)
	w := &priceWorld{flow: em, url: flowAt.URL, slots: slots}
	w.startWorker(b, ns.ClientURL(), vaultAt.URL, vault.NewToken(vaulttest.Role{}))
	w.js = natstest.Connect(b, ns.ClientURL())
	return w
}

func (w *priceWorld) startWorker(b *testing.B, nats, vault, token string) {
	b.Helper()
	set, err := settings.Load(settings.Source{Environ: []string{
		"NATS_URL=" + nats, "VAULT_ADDR=" + vault, "VAULT_TOKEN=" + token,
		"FLOW_URL=" + w.url + "/data/foundation/flowservice", "IMS_URL=" + w.url,
		"WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_STATUS_ADDR=127.0.0.1:0", fmt.Sprintf("WORKER_CONCURRENCY=%d", w.slots),
	}}, settings.All...)
	check(b, err)
	ctx, stop := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- Run(ctx, set.Settings, Deps{Ready: func(Addresses) { close(ready) }}) }()
	b.Cleanup(func() {
		stop()
		check(b, <-done)
	})
	select {
	case <-ready:
	case err := <-done:
		b.Fatal(err)
	}
}

// round measures how long n requests take, from the first message until the last result.
func (w *priceWorld) round(b *testing.B, do func(*testing.B, []event.Message) []time.Time, n int) cost {
	b.Helper()
	var messages []event.Message
	for range n {
		w.sent++
		m, err := event.EncodeRequest(event.Draft{ID: fmt.Sprintf("r%d", w.sent), Source: "/bench", Body: []byte(priceRequest)})
		check(b, err)
		messages = append(messages, m)
	}
	var m0, m1 runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m0)
	cpu, began := cpuTime(b), time.Now()
	results := do(b, messages)
	c := cost{requests: n, wall: time.Since(began), cpu: cpuTime(b) - cpu, steady: steadyRate(results, w.slots)}
	runtime.ReadMemStats(&m1)
	c.allocs = m1.Mallocs - m0.Mallocs
	return c
}

// steadyRate returns how many results per second there were between the first and the last round of slots.
func steadyRate(results []time.Time, slots int) float64 {
	if len(results) <= 2*slots+1 {
		return 0
	}
	middle := results[slots : len(results)-slots]
	return float64(len(middle)-1) / middle[len(middle)-1].Sub(middle[0]).Seconds()
}

// whole sends the requests to the worker and returns when each result entered its stream.
func (w *priceWorld) whole(b *testing.B, messages []event.Message) []time.Time {
	b.Helper()
	w.publish(b, "connections.requests.acme", messages)
	return w.await(b, "CONNECTION_RESULTS", len(messages))
}

// Clients of the bare loop.
var (
	bareClient  = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024}}
	apartClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
)

func (w *priceWorld) bare(b *testing.B, messages []event.Message) []time.Time {
	b.Helper()
	return w.bareLoop(b, messages, bareClient)
}

func (w *priceWorld) bareApart(b *testing.B, messages []event.Message) []time.Time {
	b.Helper()
	return w.bareLoop(b, messages, apartClient)
}

// bareLoop pulls, posts, publishes and acknowledges, with as many slots.
func (w *priceWorld) bareLoop(b *testing.B, messages []event.Message, client *http.Client) []time.Time {
	b.Helper()
	for _, s := range []jetstream.StreamConfig{
		{Name: "BARE", Subjects: []string{"bare.requests"}, Retention: jetstream.WorkQueuePolicy},
		{Name: "BARE_RESULTS", Subjects: []string{"bare.results"}, Duplicates: time.Minute},
	} {
		_, err := w.js.CreateOrUpdateStream(b.Context(), s)
		check(b, err)
	}
	cons, err := w.js.CreateOrUpdateConsumer(b.Context(), "BARE", jetstream.ConsumerConfig{
		Durable: "bare", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: -1,
	})
	check(b, err)
	var slots sync.WaitGroup
	sem := make(chan struct{}, w.slots)
	cc, err := cons.Consume(func(msg jetstream.Msg) {
		sem <- struct{}{}
		slots.Go(func() {
			defer func() { <-sem }()
			w.bareOne(b, msg, client)
		})
	}, jetstream.PullMaxMessages(w.slots))
	check(b, err)
	w.publish(b, "bare.requests", messages)
	results := w.await(b, "BARE_RESULTS", len(messages))
	cc.Stop()
	slots.Wait()
	return results
}

func (w *priceWorld) bareOne(b *testing.B, msg jetstream.Msg, client *http.Client) {
	var e struct {
		ID   string         `json:"id"`
		Data map[string]any `json:"data"`
	}
	if err := json.Unmarshal(msg.Data(), &e); err != nil {
		b.Error(err)
		return
	}
	delete(e.Data, "sandbox")
	body, _ := json.Marshal(e.Data)
	req, _ := http.NewRequestWithContext(b.Context(), http.MethodPost, w.url+"/connections", bytes.NewReader(body))
	for k, v := range map[string]string{"Authorization": "Bearer t", "x-api-key": "k", "x-gw-ims-org-id": "acme@AdobeOrg",
		"x-sandbox-name": "prod", "Content-Type": "application/json"} {
		req.Header.Set(k, v)
	}
	res, err := client.Do(req)
	if err != nil {
		b.Error(err)
		return
	}
	var made map[string]any
	if err := json.NewDecoder(res.Body).Decode(&made); err != nil || res.StatusCode != http.StatusCreated {
		b.Error(res.Status, err)
	}
	_ = res.Body.Close()
	out, _ := json.Marshal(made)
	if _, err := w.js.Publish(b.Context(), "bare.results", out, jetstream.WithMsgID(e.ID)); err != nil {
		b.Error(err)
	}
	if err := msg.DoubleAck(b.Context()); err != nil {
		b.Error(err)
	}
}

func (w *priceWorld) publish(b *testing.B, subject string, messages []event.Message) {
	b.Helper()
	for _, m := range messages {
		msg := nats.NewMsg(subject)
		msg.Header, msg.Data = m.Headers, m.Body
		_, err := w.js.PublishMsgAsync(msg)
		check(b, err)
	}
	<-w.js.PublishAsyncComplete()
}

// await reads the stream's new messages until n have come, and returns when each was stored.
func (w *priceWorld) await(b *testing.B, stream string, n int) []time.Time {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	s, err := w.js.Stream(ctx, stream)
	check(b, err)
	cons, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	check(b, err)
	messages, err := cons.Messages()
	check(b, err)
	defer messages.Stop()
	stored := make([]time.Time, n)
	for i := range stored {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		check(b, err)
		meta, err := msg.Metadata()
		check(b, err)
		stored[i] = meta.Timestamp
	}
	check(b, s.Purge(ctx))
	return stored
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	check(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

const priceRequest = `{"sandbox":"prod","name":"Databricks connection to Experience Platform","description":"bench",
 "auth":{"specName":"Access Token Authentication","params":{"domain":"https://adb-1234567890123456.7.azuredatabricks.net",
 "clusterId":"0601-182128-dcbte59m","accessToken":"vault:databricks/acme#accessToken","database":"acme-db"}},
 "connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}}`
