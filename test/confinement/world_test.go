package confinement

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine says how Vault is set up. The zero value is a KV engine of version 2 at secret/.
type engine struct {
	kv            int
	mount, prefix string
	silent        bool // Vault doesn't tell the engine's version
}

// world is a tenant acme, its neighbour globex, and a worker's inside for them.
type world struct {
	judge   judge
	decoder *event.Decoder
	vault   *vaulttest.Server
	secrets *vault.Client
	hub     *provision.Hub
	flow    *flowtest.Emulator
	connect provision.Connections
	serial  atomic.Uint64 // of the latest message

	mu    sync.Mutex
	seen  []received // guarded by mu
	asked int        // how often the hub asked for a tenant's credentials; guarded by mu
}

// Credentials implements provision.Secrets with Resolve, for the hub.
func (w *world) Credentials(ctx context.Context, tenant string, fresh bool) (provision.Credentials, error) {
	w.mu.Lock()
	w.asked++
	w.mu.Unlock()
	return w.secrets.Credentials(ctx, tenant, fresh)
}

// Resolve implements provision.Secrets.
func (w *world) Resolve(ctx context.Context, tenant string, ref provision.SecretRef, fresh bool) (provision.Secret, error) {
	return w.secrets.Resolve(ctx, tenant, ref, fresh)
}

// neighbours are the tenants whose secrets are in Vault.
var neighbours = []string{"acme", "globex"}

func newWorld(t testing.TB, e engine) *world {
	t.Helper()
	w := &world{decoder: &event.Decoder{AllowedDomains: []string{"azuredatabricks.net"}}}
	kv := cmp.Or(e.kv, 2)
	w.judge = judge{mount: cmp.Or(e.mount, "secret"), prefix: cmp.Or(e.prefix, "flow/tenants"), tenant: "acme", kv: kv}
	w.decoder.Secrets = provision.Layout{Mount: w.judge.mount, Prefix: w.judge.prefix}
	w.vault = vaulttest.New(vaulttest.Config{Mount: w.judge.mount, KVVersion: kv})
	for _, tenant := range neighbours {
		own := w.judge.prefix + "/" + tenant + "/"
		w.vault.Put(own+"adobe", map[string]any{"orgId": tenant + "@AdobeOrg", "accessToken": "bearer-of-" + tenant, "apiKey": "key", "domain": "https://adb-1.azuredatabricks.net"})
		w.vault.Put(own+"databricks/"+tenant, map[string]any{"accessToken": "dapi-of-" + tenant})
		w.vault.Put(own+"databricks/shared", map[string]any{"accessToken": "dapi-shared-of-" + tenant})
	}
	token := w.vault.Token()
	if e.silent {
		w.judge.kv = 0
		w.vault.Deny("sys/internal/ui/mounts/*")
		token = w.vault.NewToken(vaulttest.Role{})
	}
	w.startVault(t, token)
	w.startHub(t)
	return w
}

// ServeHTTP implements http.Handler as Vault, and keeps what it received.
func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	var header bytes.Buffer
	for _, name := range []string{"X-Vault-Namespace", "X-Vault-Wrap-Ttl", "X-Http-Method-Override"} {
		for _, v := range r.Header[name] {
			header.WriteString(name + ": " + v + " ")
		}
	}
	w.mu.Lock()
	w.seen = append(w.seen, received{method: r.Method, uri: r.RequestURI, rawPath: r.URL.RawPath, header: header.String()})
	w.mu.Unlock()
	w.vault.ServeHTTP(rw, r)
}

// judged returns what is wrong with what Vault received since the last call, and how much of it was on
// behalf of requests.
func (w *world) judged(j judge) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = slices.DeleteFunc(w.seen, j.ofSession)
	n, err = len(w.seen), j.verdict(w.seen, w.asked)
	w.seen, w.asked = nil, 0
	return n, err
}

func (w *world) startVault(t testing.TB, token string) {
	t.Helper()
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	var err error
	w.secrets, err = vault.New(vault.Config{Address: server.URL, Token: provision.NewSensitive(token), KVMount: w.judge.mount, TenantPrefix: w.judge.prefix})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.secrets.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Vault's client: %v", err)
		}
	})
	// The login, which includes a look at the token, comes first: from then on what Vault receives is on
	// behalf of requests.
	if _, err := w.Credentials(context.Background(), "acme", false); err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.vault.Wait(waiting, "/v1/auth/token/lookup-self", 1); err != nil {
		t.Fatal(err)
	}
	_, _ = w.judged(w.judge)
}

func (w *world) startHub(t testing.TB) {
	t.Helper()
	w.flow = flowtest.New(flowtest.Config{})
	for _, tenant := range neighbours {
		w.flow.AddToken(provision.NewSensitive("bearer-of-"+tenant), tenant+"@AdobeOrg", "key")
	}
	server := httptest.NewServer(w.flow)
	t.Cleanup(server.Close)
	client, err := flow.New(flow.Config{BaseURL: server.URL + "/data/foundation/flowservice", IMSURL: server.URL, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	w.connect = client
	w.hub, err = provision.New(w.hubConfig(&book{}))
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) hubConfig(ledger provision.Ledger) provision.Config {
	return provision.Config{
		Ledger: ledger, Secrets: w, Connections: w.connect, Instance: "worker",
		FlowTimeout: time.Minute, Settle: time.Minute, RetryInitial: time.Millisecond, RetryDelayMax: time.Second,
		RetryElapsed: time.Second, RedeliveryDelayMax: time.Minute, RequestDeadline: time.Hour,
	}
}

// handle carries a message of tenant acme to its end and returns how it ended. The judge looks at what
// Vault received meanwhile.
func (w *world) handle(t testing.TB, headers map[string][]string, body []byte) provision.Outcome {
	t.Helper()
	d := w.decoder.Decode("acme", headers, body, event.Meta{Seq: w.serial.Add(1), Timestamp: time.Now(), Delivered: 1})
	out := w.hub.Handle(context.Background(), d)
	if d.Request.Key.Tenant != "acme" {
		t.Errorf("the request is of tenant %q", d.Request.Key.Tenant)
	}
	if r := out.Result; r != nil && r.Tenant != "acme" {
		t.Errorf("the result is of tenant %q", r.Tenant)
	}
	if _, err := w.judged(w.judge); err != nil {
		t.Errorf("headers %v, body %s: %v", headers, body, err)
	}
	return out
}

// reason is the outcome in one word.
func reason(out provision.Outcome) string {
	switch {
	case out.Result == nil:
		return "given back: " + out.Why
	case out.Result.Error != nil:
		return string(out.Result.Error.Reason)
	}
	return out.Result.Outcome
}

// request is a good request of acme's, with the reference and the domain in the place of its own. Both
// are JSON.
func request(ref, domain string) []byte {
	return []byte(`{"sandbox":"prod","name":"n","auth":{"specName":"Access Token Authentication","params":{"domain":` + domain +
		`,"clusterId":"c","accessToken":` + ref + `,"database":"db"}},"connectionSpec":{"id":"` + databricks + `","version":"1.0"}}`)
}

const (
	databricks = "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b"
	goodRef    = `"vault:databricks/acme#accessToken"`
	goodDomain = `"https://adb-1.azuredatabricks.net"`
)

// quoted returns s as JSON, with nothing escaped but what must be. What is no UTF-8 stays as it is.
func quoted(s string) string {
	b := []byte{'"'}
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, `\u00`+strconv.FormatUint(uint64(c)+0x100, 16)[1:]...)
		default:
			b = append(b, c)
		}
	}
	return string(append(b, '"'))
}

func TestQuoted(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", `a"b\c`, "\x00\x1f\n", "ü\u2028", "plain"} {
		var back string
		if err := json.Unmarshal([]byte(quoted(s)), &back); err != nil || back != s {
			t.Errorf("%q came back as %q, %v", s, back, err)
		}
	}
}

// book is a ledger that knows only the latest request, so that every one is new and memory is bounded.
type book struct {
	mu  sync.Mutex
	key provision.Key
	rec provision.Record
	rev uint64
}

// Load implements provision.Ledger.
func (b *book) Load(_ context.Context, key provision.Key) (provision.Record, uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if key != b.key {
		return provision.Record{}, 0, provision.ErrNoRecord
	}
	return b.rec, b.rev, nil
}

// Store implements provision.Ledger.
func (b *book) Store(_ context.Context, key provision.Key, rec provision.Record, rev uint64) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if key == b.key && rev != b.rev || key != b.key && rev != 0 {
		return 0, provision.ErrConflict
	}
	b.key, b.rec = key, rec
	b.rev++
	return b.rev, nil
}
