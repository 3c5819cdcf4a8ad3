package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

const rotationLoad = 100

// rotatingVault is a Vault whose operators are at work.
type rotatingVault interface {
	Address() string
	RoleID() string
	Put(path string, fields map[string]any) // below the tenants
	NewSecretID() string                    // a further one
	DestroySecretID(id string)
	RevokeTokens() // all that the worker ever got
}

// TestRotationUnderLoad rotates everything while requests are worked on.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	checkRotationUnderLoad(t, newFakeVault(t))
}

// checkRotationUnderLoad has the Databricks token replaced and the old one refused from then on; then
// that once more with the worker's Vault token revoked; then once more with the secret id replaced, the
// old one destroyed and the Vault token revoked: all while a load is worked on. No request may fail, and
// nothing be made twice.
func checkRotationUnderLoad(t *testing.T, vault rotatingVault) {
	w := newRotationWorld(t, vault)
	results, left := w.results(), 0
	next := func() string {
		left--
		r := <-results
		if r.Error != nil {
			t.Errorf("%s failed: %+v", r.Request.ID, r.Error)
		}
		return r.Request.ID
	}
	for part, rotate := range []func(){w.rotate, func() { vault.RevokeTokens(); w.rotate() }, func() {
		id := vault.NewSecretID()
		w.writeSecretID(id)
		vault.DestroySecretID(w.secretID)
		vault.RevokeTokens()
		w.rotate()
	}, func() {}} {
		ids := w.publish(part)
		left += len(ids)
		for !slices.Contains(ids, next()) { // so each version is used, and is in the cache, before the next one comes
		}
		rotate()
	}
	for left > 0 {
		next()
	}
	w.checkSums()
	if n := w.metric(`flow_worker_vault_requests_total{operation="login",result="ok"}`); n != "3" {
		t.Errorf("%s logins, want 3: at the start, and after each revocation", n)
	}
	created := func() string { return w.metric(`flow_worker_requests_total{outcome="created"}`) }
	for created() != fmt.Sprint(rotationLoad) { // it counts what is acknowledged, which comes after the result
		if w.ctx.Err() != nil {
			t.Fatalf("%s requests were created by this process, which was not to be restarted", created())
		}
	}
}

// rotate gives the Databricks secret a new version and has the token of the old one refused.
func (w *rotationWorld) rotate() {
	w.t.Helper()
	old := w.token()
	w.version++
	w.vault.Put("acme/databricks/acme", map[string]any{"accessToken": w.token()})
	w.upstream.mu.Lock()
	defer w.upstream.mu.Unlock()
	w.upstream.bad = append(w.upstream.bad, old)
}

// token returns the Databricks token of now.
func (w *rotationWorld) token() string { return fmt.Sprintf("dapi-of-version-%d", w.version) }

// rotationWorld is a worker, and all that it needs.
type rotationWorld struct {
	t        *testing.T
	ctx      context.Context
	vault    rotatingVault
	idFile   string
	secretID string
	emulator *flowtest.Emulator
	upstream *upstream
	version  int // of the Databricks secret
	js       jetstream.JetStream
	at       app.Addresses
}

func newRotationWorld(t *testing.T, vault rotatingVault) *rotationWorld {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	w := &rotationWorld{t: t, ctx: ctx, vault: vault, idFile: filepath.Join(t.TempDir(), "secret-id"), version: 1}
	vault.Put("acme/adobe", map[string]any{"orgId": "acme@AdobeOrg", "accessToken": "t", "apiKey": "k"})
	vault.Put("acme/databricks/acme", map[string]any{"accessToken": w.token()})
	w.secretID = vault.NewSecretID()
	w.writeSecretID(w.secretID)
	w.emulator = flowtest.New(flowtest.Config{AllowAnyToken: true, Latency: 50 * time.Millisecond})
	w.upstream = newUpstream(w.emulator)
	flow := httptest.NewServer(w.upstream)
	t.Cleanup(flow.Close)
	broker := natstest.Run(t, natstest.Options{})
	w.run(broker.ClientURL(), flow.URL)
	w.js = natstest.Connect(t, broker.ClientURL())
	return w
}

func (w *rotationWorld) writeSecretID(id string) {
	w.t.Helper()
	if err := os.WriteFile(w.idFile, []byte(id+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// run runs the worker, with the usual cache, until the test ends.
func (w *rotationWorld) run(nats, flow string) {
	w.t.Helper()
	s := load(w.t, "NATS_URL="+nats, "FLOW_URL="+flow+"/data/foundation/flowservice", "IMS_URL="+flow,
		"VAULT_ADDR="+w.vault.Address(), "VAULT_TOKEN=", "VAULT_AUTH=approle", "VAULT_ROLE_ID="+w.vault.RoleID(), "VAULT_SECRET_ID_FILE="+w.idFile,
		"WORKER_CONCURRENCY=4", "WORKER_RETRY_INITIAL=50ms")
	ctx, stop := context.WithCancel(context.WithoutCancel(w.t.Context()))
	ready, ended := make(chan app.Addresses, 1), make(chan error, 1)
	go func() { ended <- app.Run(ctx, s, app.Deps{Ready: func(a app.Addresses) { ready <- a }}) }()
	w.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	select {
	case w.at = <-ready:
	case <-w.ctx.Done():
		w.t.Fatal("did not get ready")
	}
}

// publish sends the next quarter of the load and returns its ids.
func (w *rotationWorld) publish(part int) (ids []string) {
	w.t.Helper()
	for n := part * rotationLoad / 4; n < (part+1)*rotationLoad/4; n++ {
		ids = append(ids, fmt.Sprint("r", n))
		m, err := event.EncodeRequest(event.Draft{ID: fmt.Sprint("r", n), Source: "/rotation", Body: []byte(rotationRequest)})
		if err != nil {
			w.t.Fatal(err)
		}
		msg := nats.NewMsg("connections.requests.acme")
		msg.Header, msg.Data = m.Headers, m.Body
		if _, err := w.js.PublishMsg(w.ctx, msg); err != nil {
			w.t.Fatal(err)
		}
	}
	return ids
}

// results returns every result, as it comes.
func (w *rotationWorld) results() <-chan provision.Result {
	w.t.Helper()
	stream, err := w.js.Stream(w.ctx, "CONNECTION_RESULTS")
	if err != nil {
		w.t.Fatal(err)
	}
	cons, err := stream.OrderedConsumer(w.ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		w.t.Fatal(err)
	}
	messages, err := cons.Messages()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(messages.Stop)
	out := make(chan provision.Result)
	go func() {
		defer close(out)
		for {
			msg, err := messages.Next(jetstream.NextContext(w.ctx))
			if err != nil {
				if !errors.Is(err, jetstream.ErrMsgIteratorClosed) && !errors.Is(err, context.Canceled) {
					w.t.Errorf("results: %v", err)
				}
				return
			}
			r, err := event.DecodeResult(msg.Data())
			if err != nil {
				w.t.Errorf("result: %v", err)
			}
			select {
			case out <- r:
			case <-w.ctx.Done():
				return
			}
		}
	}()
	return out
}

// checkSums looks at what upstream and the ledger have, connection by connection.
func (w *rotationWorld) checkSums() {
	w.t.Helper()
	made := map[string]int{}
	for _, c := range w.emulator.Connections() {
		made[c.AccessToken.Reveal()]++
	}
	want := map[string]int{}
	for version, n := range w.versions() {
		want[fmt.Sprintf("dapi-of-version-%d", version)] = n
	}
	if diff := cmp.Diff(want, made); diff != "" || len(made) != 4 {
		w.t.Errorf("connections by the version that the ledger tells, and by the token that was sent:\n%s%v", diff, made)
	}
	for mark, ids := range w.emulator.Marks() {
		if len(ids) != 1 {
			w.t.Errorf("%s has %d connections", mark, len(ids))
		}
	}
	if n := len(w.emulator.Marks()); n != rotationLoad || len(w.emulator.Connections()) != rotationLoad {
		w.t.Errorf("%d marks on %d connections, want %d", n, len(w.emulator.Connections()), rotationLoad)
	}
	slices.Sort(w.upstream.refused)
	if got := slices.Compact(w.upstream.refused); len(got) != 3 {
		w.t.Errorf("refused were %v; want each old token, from the cache", got)
	}
}

// versions counts the records of the ledger by the version of the Databricks secret that was used.
func (w *rotationWorld) versions() map[int]int {
	w.t.Helper()
	book, err := ledger.Open(w.ctx, w.js, ledger.Config{})
	if err != nil {
		w.t.Fatal(err)
	}
	versions := map[int]int{}
	for n := range rotationLoad {
		key := provision.Key{Tenant: "acme", Source: "/rotation", ID: fmt.Sprint("r", n)}
		rec, _, err := book.Load(w.ctx, key)
		if err != nil {
			w.t.Fatal(err)
		}
		text, err := json.Marshal(rec)
		if err != nil || strings.Contains(string(text), "dapi-") {
			w.t.Errorf("a record with the secret in it, or %v", err)
		}
		versions[rec.Secrets["token"]]++
	}
	return versions
}

// metric returns a metric's value as text.
func (w *rotationWorld) metric(series string) string {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, "http://"+w.at.HTTP+"/metrics", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindSubmatch(text)
	if found == nil {
		w.t.Fatalf("no metric %s", series)
	}
	return string(found[1])
}

const rotationRequest = `{"sandbox":"prod","name":"Databricks connection","auth":{"specName":"Access Token Authentication",
 "params":{"domain":"https://adb-1234567890123456.7.azuredatabricks.net","clusterId":"0601-182128-dcbte59m",
 "accessToken":"vault:databricks/acme#accessToken","database":"acme-db"}},
 "connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}}`
