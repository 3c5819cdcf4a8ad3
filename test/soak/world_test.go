//go:build soak

package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// world is everything around the workers.
type world struct {
	t        *testing.T
	seed     int64
	dir      string
	brokers  []*broker
	flow     *flowtest.Emulator
	vault    *vaulttest.Server
	flowSaw  *meter
	vaultSaw *meter
	flowURL  string
	nc       *nats.Conn
	js       jetstream.JetStream
	env      []string // of every worker
	told     *collector
	fleet    *fleet
	struck   int // faults that struck and are forgotten by the emulator
}

// newWorld starts brokers, Vault and the Flow Service, but no worker. env is added to the workers'
// settings.
func newWorld(ctx context.Context, t *testing.T, seed int64, brokers int, env ...string) *world {
	t.Helper()
	w := &world{t: t, seed: seed, dir: t.TempDir(), vault: vaulttest.New(vaulttest.Config{}), flow: flowtest.New(flowtest.Config{Seed: seed | 1})}
	w.flowSaw, w.vaultSaw = newMeter(w.flow), newMeter(w.vault)
	flowAt, vaultAt := httptest.NewServer(w.flowSaw), httptest.NewServer(w.vaultSaw)
	t.Cleanup(flowAt.Close)
	t.Cleanup(vaultAt.Close)
	w.flowURL = flowAt.URL
	w.addTenants()
	w.brokers = newBrokers(ctx, t, w.dir, brokers)
	var urls []string
	for _, b := range w.brokers {
		urls = append(urls, b.url())
	}
	w.env = append([]string{
		"NATS_URL=" + strings.Join(urls, ","), "VAULT_ADDR=" + vaultAt.URL, "VAULT_TOKEN=" + w.vault.Token(),
		"FLOW_URL=" + flowAt.URL, "IMS_URL=" + flowAt.URL, "WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_STATUS_ADDR=127.0.0.1:0",
		fmt.Sprintf("WORKER_REPLICAS=%d", brokers),
	}, env...)
	w.connect(strings.Join(urls, ","))
	w.fleet = newFleet(w)
	return w
}

// addTenants gives every tenant its secrets.
func (w *world) addTenants() {
	for i := range tenants {
		name := tenantName(i)
		adobe := map[string]any{"orgId": orgOf(name), "clientId": name + "-client", "clientSecret": "soak-client-secret"}
		if name == staticTenant {
			adobe = map[string]any{"orgId": orgOf(name), "accessToken": "soak-static-token", "apiKey": name + "-client"}
			w.flow.AddToken(provision.NewSensitive("soak-static-token"), "", "")
		}
		w.vault.Put("flow/tenants/"+name+"/adobe", adobe)
		w.vault.Put("flow/tenants/"+name+"/databricks/main", map[string]any{"accessToken": "dapi-soak-token"})
	}
}

// orgOf returns a tenant's organization.
func orgOf(tenant string) string { return strings.ReplaceAll(tenant, "-", "") + "@AdobeOrg" }

func (w *world) connect(url string) {
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	w.nc = nc
	if w.js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(5*time.Second)); err != nil {
		w.t.Fatal(err)
	}
}

// startWorkers starts n workers, waits until all are ready, and begins to read results.
func (w *world) startWorkers(ctx context.Context, n int) {
	w.t.Helper()
	for range n {
		if err := w.fleet.add(ctx); err != nil {
			w.fail(err)
		}
	}
	w.told = newCollector(w.js)
	reading, stop := context.WithCancel(context.WithoutCancel(ctx))
	var readers sync.WaitGroup
	readers.Go(func() { w.told.follow(reading) })
	sub, err := w.nc.Subscribe("connections.results.>", func(m *nats.Msg) { w.told.note(m.Data) })
	if err != nil {
		w.fail(err)
	}
	w.t.Cleanup(func() {
		_ = sub.Unsubscribe()
		stop()
		readers.Wait()
	})
}

// publish sends every ask, evenly spread over d, however the broker is.
func (w *world) publish(ctx context.Context, asks []*ask, d time.Duration) error {
	const publishers = 8
	began := time.Now()
	var next, sent atomic.Int64
	errs := make([]error, publishers)
	var all sync.WaitGroup
	for p := range publishers {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(asks) || errs[p] != nil {
					return
				}
				due := began.Add(d * time.Duration(i) / time.Duration(len(asks)))
				if errs[p] = wait(ctx, time.Until(due)); errs[p] == nil {
					errs[p] = w.send(ctx, asks[i])
					sent.Add(1)
				}
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%d of %d requests published: %w", sent.Load(), len(asks), err)
	}
	return nil
}

// send publishes an ask's messages until each is confirmed: one whose confirmation is lost is there
// twice then, as from any requester.
func (w *world) send(ctx context.Context, a *ask) error {
	for _, m := range a.mails {
		msg := &nats.Msg{Subject: event.RequestSubject(a.key.Tenant), Data: m.body,
			Header: nats.Header{event.HeaderContentType: {event.ContentType}, event.HeaderMsgID: {m.id}}}
		if a.vague {
			msg.Header.Del(event.HeaderContentType)
		}
		for {
			try, cancel := context.WithTimeout(ctx, 2*time.Second)
			_, err := w.js.PublishMsg(try, msg)
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return err
			}
			_ = wait(ctx, 100*time.Millisecond)
		}
	}
	return nil
}

// queued returns how many messages the requests stream holds, -1 if it can't be asked.
func (w *world) queued(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s, err := w.js.Stream(ctx, consumer.StreamRequests)
	if err != nil {
		return -1
	}
	return int(s.CachedInfo().State.Msgs)
}

// awaitEnd waits until every ask has been told its outcome and the queue is empty.
func (w *world) awaitEnd(ctx context.Context, asks []*ask) error {
	if err := w.told.await(ctx, func() bool { return len(w.told.missing(asks)) == 0 }); err != nil {
		return fmt.Errorf("%d of %d requests have no result, %d messages are queued: %w",
			len(w.told.missing(asks)), len(asks), w.queued(context.WithoutCancel(ctx)), err)
	}
	if err := poll(ctx, "the requests stream doesn't get empty", func() bool { return w.queued(ctx) == 0 }); err != nil {
		return fmt.Errorf("%w: %d messages", err, w.queued(context.WithoutCancel(ctx)))
	}
	return nil
}

// setFaults replaces the emulator's faults, but for the refusal of some names, which always is.
func (w *world) setFaults(faults ...flowtest.Fault) {
	w.struck += w.striking()
	w.flow.SetFaults(append([]flowtest.Fault{{Operation: flowtest.OpCreate, NamePrefix: refusedPrefix,
		Effect: flowtest.EffectBadCredentials, Message: "INVALID_PARAMETER_VALUE: Cluster 0601-182128-dcbte59m does not exist"}}, faults...)...)
}

// striking returns how often the present faults struck, but for the first one, which is no accident,
// and for lists that lag, which fails nothing.
func (w *world) striking() int {
	rec := httptest.NewRecorder()
	w.flow.ServeHTTP(rec, httptest.NewRequest("GET", "/_emulator/faults", nil))
	var report struct {
		Faults []struct {
			Struck int
			Fault  struct{ Effect flowtest.Effect }
		}
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &report); err != nil {
		w.t.Errorf("the emulator's faults: %v", err)
	}
	n := 0
	for _, f := range report.Faults[min(1, len(report.Faults)):] {
		if f.Fault.Effect != flowtest.EffectListLag {
			n += f.Struck
		}
	}
	return n
}

// fail ends the test with what helps to understand why.
func (w *world) fail(err error) {
	w.t.Helper()
	w.t.Errorf("seed %d: %v", w.seed, err)
	w.fleet.printTails(15)
	w.t.FailNow()
}
