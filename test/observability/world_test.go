//go:build prometheus

package observability

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

const (
	trace = "4bf92f3577b34da6a3ce929d0e0e4736" // of every request here
	token = "vault:databricks#accessToken"
)

// world is two workers and all that they need.
type world struct {
	t       *testing.T
	binary  string
	env     []string
	js      jetstream.JetStream
	flow    *flowtest.Emulator
	vault   *vaulttest.Server
	targets []string // where the workers show their metrics
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, binary: worker(t), vault: vaulttest.New(vaulttest.Config{}), flow: flowtest.New(flowtest.Config{})}
	broker := natstest.Run(t, natstest.Options{})
	w.js = natstest.Connect(t, broker.ClientURL())
	for _, tenant := range []string{"acme", "globex"} {
		w.vault.Put("flow/tenants/"+tenant+"/adobe", map[string]any{"orgId": tenant + "@AdobeOrg", "clientId": "id", "clientSecret": "secret"})
		w.vault.Put("flow/tenants/"+tenant+"/databricks", map[string]any{"accessToken": "dapi-of-" + tenant})
	}
	vaultAt, flowAt := httptest.NewServer(w.vault), httptest.NewServer(w.flow)
	t.Cleanup(vaultAt.Close)
	t.Cleanup(flowAt.Close)
	w.env = []string{
		"NATS_URL=" + broker.ClientURL(), "VAULT_ADDR=" + vaultAt.URL, "VAULT_TOKEN=" + w.vault.NewToken(vaulttest.Role{TTL: time.Hour}), "VAULT_CACHE_TTL=0s",
		"FLOW_URL=" + flowAt.URL, "IMS_URL=" + flowAt.URL, "WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_STATUS_ADDR=127.0.0.1:0",
		"WORKER_RETRY_INITIAL=50ms", "WORKER_RETRY_DELAY_MAX=500ms", "WORKER_RETRY_ELAPSED=3s", "WORKER_REDELIVERY_DELAY_MAX=1s", "WORKER_SETTLE=1s", "FLOW_TIMEOUT=5s",
		"WORKER_SHUTDOWN_TIMEOUT=10s", "WORKER_SECRET_GRACE=1s",
	}
	for _, name := range []string{"worker-1", "worker-2"} {
		w.startWorker(name)
	}
	return w
}

func (w *world) startWorker(name string) {
	w.t.Helper()
	p := start(w.t, name, w.env, w.binary, "run")
	var started struct{ HTTP string }
	if err := json.Unmarshal([]byte(p.await(w.t, "worker started")), &started); err != nil {
		w.t.Fatal(err)
	}
	p.await(w.t, "worker is ready")
	w.targets = append(w.targets, started.HTTP)
}

// send publishes a request of a tenant, and more attributes of its event.
func (w *world) send(tenant, id, secret string, more map[string]any) {
	w.t.Helper()
	sandbox := "prod"
	if id == "unknown" {
		sandbox = "unlistable" // the look-up that decides asks for no name
	}
	e := map[string]any{
		"specversion": "1.0", "id": id, "source": "/load", "type": event.TypeCreate, "datacontenttype": "application/json",
		"data": map[string]any{
			"sandbox": sandbox, "name": id, "connectionSpec": map[string]any{"id": "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", "version": "1.0"},
			"auth": map[string]any{"specName": "Access Token Authentication", "params": map[string]any{
				"domain": "https://adb-1.7.azuredatabricks.net", "clusterId": "c", "database": "d", "accessToken": secret}},
		},
	}
	for name, value := range more {
		e[name] = value
	}
	body, err := json.Marshal(e)
	if err != nil {
		w.t.Fatal(err)
	}
	w.publish(tenant, body)
}

func (w *world) publish(tenant string, body []byte) {
	w.t.Helper()
	m := nats.NewMsg("connections.requests." + tenant)
	m.Data = body
	m.Header.Set("Content-Type", event.ContentType)
	m.Header.Set("traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	if _, err := w.js.PublishMsg(w.t.Context(), m); err != nil {
		w.t.Fatal(err)
	}
}

// fault has the Flow Service misbehave for the connections of a name.
func (w *world) fault(f flowtest.Fault) { w.flow.AddFault(f) }

// load is everything that a worker's day has, in half a minute.
func (w *world) load() {
	w.t.Helper()
	for _, id := range []string{"good-1", "good-2", "good-3"} {
		w.send("acme", id, token, nil)
		w.send("globex", id, token, nil)
	}
	w.fault(flowtest.Fault{Operation: flowtest.OpCreate, Name: "throttled", Times: 2, Effect: flowtest.EffectStatus, Status: http.StatusTooManyRequests})
	w.send("acme", "throttled", token, nil)
	w.fault(flowtest.Fault{Operation: flowtest.OpCreate, Name: "retried", Times: 2, Effect: flowtest.EffectStatus, Status: http.StatusServiceUnavailable})
	w.send("acme", "retried", token, nil)
	w.fault(flowtest.Fault{Operation: flowtest.OpCreate, Name: "lost", Times: 1, Effect: flowtest.EffectReset, When: flowtest.StageAfter})
	w.send("acme", "lost", token, nil)
	w.fault(flowtest.Fault{Operation: flowtest.OpCreate, Name: "refused", Effect: flowtest.EffectBadCredentials})
	w.send("acme", "refused", token, nil)
	w.fault(flowtest.Fault{Operation: flowtest.OpCreate, Name: "unknown", Effect: flowtest.EffectReset, When: flowtest.StageAfter})
	w.fault(flowtest.Fault{Operation: flowtest.OpList, Sandbox: "unlistable", Effect: flowtest.EffectStatus, Status: http.StatusInternalServerError})
	w.send("globex", "unknown", token, map[string]any{"expirytime": time.Now().Add(10 * time.Second).Format(time.RFC3339)})
	w.send("acme", "plaintext", "dapi-plain", nil)
	w.send("acme", "missing", "vault:nothing#accessToken", nil)
	w.send("nobody", "unknown tenant", token, nil)
	w.send("acme", "expired", token, map[string]any{"expirytime": "2020-01-01T00:00:00Z"})
	w.publish("acme", []byte(`{"broken"`))
	w.publish("Nobody", []byte(`{}`))
	w.drained()
	w.send("acme", "good-1", token, nil) // a duplicate
	w.vault.SetOutage(vaulttest.Outage{Status: http.StatusInternalServerError, Path: "/v1/secret/", Times: 2})
	w.send("acme", "vault", token, nil)
	w.drained()
}

// outage has the Flow Service refuse everything until seen is true.
func (w *world) outage(seen func() bool) {
	w.t.Helper()
	end := w.flow.AddFault(flowtest.Fault{Operation: flowtest.OpAny, Effect: flowtest.EffectStatus, Status: http.StatusServiceUnavailable})
	for i := range 8 {
		w.send("acme", fmt.Sprint("outage-", i), token, nil)
		w.send("globex", fmt.Sprint("outage-", i), token, nil)
	}
	until(w.t, "the outage is seen", seen)
	end()
	w.drained()
}

// pause pauses the intake while two requests come, until seen is true.
func (w *world) pause(seen func() bool) {
	w.t.Helper()
	run(w.t, w.env, w.binary, "pause")
	w.send("acme", "waited-1", token, nil)
	w.send("globex", "waited-2", token, nil)
	until(w.t, "the pause and what waits are seen", seen)
	run(w.t, w.env, w.binary, "resume")
	w.drained()
}

// drained waits until no request is left.
func (w *world) drained() {
	w.t.Helper()
	until(w.t, "no request is left", func() bool {
		s, err := w.js.Stream(w.t.Context(), consumer.StreamRequests)
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
}
