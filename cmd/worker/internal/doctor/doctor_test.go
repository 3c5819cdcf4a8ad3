package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestClock(t *testing.T) {
	t.Parallel()
	before := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	after := before.Add(time.Second)
	for _, tc := range []struct {
		theirs time.Time
		grain  time.Duration
		want   string
	}{
		{before, 0, "agree"}, {after, 0, "agree"}, {after.Add(5 * time.Second), 0, "agree"}, {before.Add(-5 * time.Second), 0, "agree"},
		{after.Add(6 * time.Second), 0, "6s ahead of"}, {before.Add(-time.Hour), 0, "1h0m0s behind"},
		{before.Add(-6 * time.Second), time.Second, "agree"}, {before.Add(-7 * time.Second), time.Second, "6s behind"},
	} {
		got := found(func(x *examination) { x.clock("them", tc.theirs, before, after, tc.grain) })
		if len(got) != 1 || !strings.Contains(got[0].What, tc.want) || (got[0].Status == OK) != (tc.want == "agree") {
			t.Errorf("%v: %+v, want %q", tc.theirs.Sub(before), got, tc.want)
		}
	}
}

func TestVaultTokens(t *testing.T) {
	t.Parallel()
	vault := vaulttest.New(vaulttest.Config{})
	srv := httptest.NewServer(vault)
	t.Cleanup(srv.Close)
	for _, tc := range []struct {
		role   vaulttest.Role
		status Status
		text   string
	}{
		{vaulttest.Role{TTL: time.Minute}, Warn, "left"},
		{vaulttest.Role{TTL: time.Hour}, OK, "left"},
	} {
		got := found(func(x *examination) {
			x.Settings = load(t, "VAULT_ADDR="+srv.URL, "VAULT_TOKEN="+vault.NewToken(tc.role), "FLOW_URL="+srv.URL, "IMS_URL="+srv.URL)
			x.ok("ledger", "0 requests")
			x.upstream(testContext(t))
		})
		if !has(got, "vault login", tc.status, tc.text) || !has(got, "tenants", OK, "none has sent a request yet") {
			t.Errorf("%v: %+v", tc.role.TTL, got)
		}
	}
}

// Where no tenant is known, a read shows what no login does: whether the mount is there and the token any good.
func TestVaultIsReadWithoutTenants(t *testing.T) {
	t.Parallel()
	vault := vaulttest.New(vaulttest.Config{})
	srv := httptest.NewServer(vault)
	t.Cleanup(srv.Close)
	for name, tc := range map[string]struct {
		environ []string
		status  Status
		text    string
	}{
		"as it should be":          {[]string{"VAULT_TOKEN=" + vault.Token()}, OK, "below secret/flow/tenants/"},
		"no such mount":            {[]string{"VAULT_TOKEN=" + vault.Token(), "VAULT_KV_MOUNT=kv"}, Fail, "kv"},
		"no such mount, no rights": {[]string{"VAULT_TOKEN=" + vault.NewToken(vaulttest.Role{Allow: []string{"secret/*"}}), "VAULT_KV_MOUNT=kv"}, Fail, "kv"},
		"an agent without a token": {[]string{"VAULT_TOKEN=", "VAULT_AUTH=none"}, Fail, "403"},
	} {
		got := found(func(x *examination) {
			x.Settings = load(t, append([]string{"VAULT_ADDR=" + srv.URL, "FLOW_URL=" + srv.URL, "IMS_URL=" + srv.URL}, tc.environ...)...)
			x.ok("ledger", "0 requests")
			x.upstream(testContext(t))
		})
		if !has(got, "vault rights", tc.status, tc.text) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// Nobody is told that there are no tenants by whom the ledger was not read.
func TestTenantsOfALedgerThatWasNotRead(t *testing.T) {
	t.Parallel()
	vault := vaulttest.New(vaulttest.Config{})
	srv := httptest.NewServer(vault)
	t.Cleanup(srv.Close)
	for name, ledger := range map[string]func(*examination){
		"not reached":          func(*examination) {},
		"failed":               func(x *examination) { x.fail("ledger", "gone", "") },
		"read in part":         func(x *examination) { x.warn("ledger", "only 3", "") },
		"with records unread":  func(x *examination) { x.warn("ledger", "1 can't be read", ""); x.ok("ledger", "0 requests") },
		"failed after reading": func(x *examination) { x.ok("ledger", "0 requests"); x.fail("ledger", "gone", "") },
	} {
		got := found(func(x *examination) {
			x.Settings = load(t, "VAULT_ADDR="+srv.URL, "VAULT_TOKEN="+vault.Token(), "FLOW_URL="+srv.URL, "IMS_URL="+srv.URL)
			ledger(x)
			x.upstream(testContext(t))
		})
		if !has(got, "tenants", Warn, "not looked at") || has(got, "tenants", OK, "") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func has(all []Finding, check string, status Status, text string) bool {
	for _, f := range all {
		if f.Check == check && f.Status == status && strings.Contains(f.What, text) {
			return true
		}
	}
	return false
}

func load(t *testing.T, environ ...string) settings.Settings {
	t.Helper()
	set, err := settings.Load(settings.Source{Environ: append([]string{"VAULT_TOKEN=t"}, environ...)}, settings.All...)
	if err != nil {
		t.Fatal(err)
	}
	return set.Settings
}

func TestManyTenantsTakeOneLine(t *testing.T) {
	t.Parallel()
	vault := vaulttest.New(vaulttest.Config{})
	srv := httptest.NewServer(vault)
	t.Cleanup(srv.Close)
	x := &examination{}
	for i := range 12 {
		name := fmt.Sprintf("t%02d", i)
		x.tenants = append(x.tenants, name)
		vault.Put("flow/tenants/"+name+"/adobe", map[string]any{"orgId": "a@AdobeOrg", "apiKey": "k", "accessToken": "static"})
	}
	x.tenants = append(x.tenants, "without")
	var all []Finding
	x.Report = func(f Finding) { all = append(all, f) }
	x.Settings = load(t, "VAULT_ADDR="+srv.URL, "VAULT_TOKEN="+vault.Token(), "FLOW_URL="+srv.URL, "IMS_URL="+srv.URL)
	x.upstream(testContext(t))
	if !has(all, "tenants", OK, "t09 and 2 more") || !has(all, "tenant without", Fail, "vault kv put") {
		t.Errorf("got %+v", all)
	}
	vault.Seal()
	all = nil
	x.upstream(testContext(t))
	if !has(all, "vault", Fail, "sealed") || has(all, "vault login", OK, "") {
		t.Errorf("sealed: got %+v", all)
	}
}

func TestRiskySettingsAreTold(t *testing.T) {
	t.Parallel()
	js := startBroker(t)
	ctx := testContext(t)
	s := load(t)
	if _, err := app.EnsureObjects(ctx, js, s); err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, consumer.StreamRequests)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.MaxAge, cfg.Duplicates = time.Hour, time.Minute
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	s.Replicas = 1
	all := found(func(x *examination) { x.Settings = s; x.objects(ctx, js) })
	if !has(all, "nats objects", Warn, "requests that wait longer are lost") || !has(all, "nats objects", Warn, "swallow") {
		t.Errorf("got %+v", all)
	}
	x := func(x *examination) {
		x.Settings = s
		x.Connect = func() (*nats.Conn, error) { return nil, errors.New("no way") }
		x.nats(ctx)
	}
	if got := found(x); len(got) != 1 || !has(got, "nats", Fail, "no way") {
		t.Errorf("without NATS: %+v", got)
	}
}

func TestTheLedgerIsReadOnce(t *testing.T) {
	t.Parallel()
	js := startBroker(t)
	ctx := testContext(t)
	if _, err := app.EnsureObjects(ctx, js, load(t)); err != nil {
		t.Fatal(err)
	}
	book, err := ledger.Open(ctx, js, ledger.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for i, tenant := range []string{"globex", "acme", "acme"} {
		rec := provision.Record{Key: provision.Key{Tenant: tenant, Source: "s", ID: fmt.Sprint(i)}, State: provision.StateWaiting, UpdatedAt: time.Now()}
		if _, err := book.Store(ctx, rec.Key, rec, 0); err != nil {
			t.Fatal(err)
		}
	}
	kv, err := js.KeyValue(ctx, ledger.DefaultBucket)
	if err == nil {
		_, err = kv.PutString(ctx, "acme.s.newer", `{"of":"tomorrow"}`)
	}
	if err != nil {
		t.Fatal(err)
	}
	var tenants []string
	got := found(func(x *examination) { x.ledger(ctx, js); tenants = x.tenants })
	if fmt.Sprint(tenants) != "[acme globex]" || !has(got, "ledger", OK, "3 requests, 3 of them under way, none stuck") || !has(got, "ledger", Warn, "1 records can't be read") {
		t.Errorf("tenants %v, %+v", tenants, got)
	}
	ended, end := context.WithCancel(ctx)
	end()
	if got := found(func(x *examination) { x.ledger(ended, js) }); len(got) != 1 || got[0].Status == OK {
		t.Errorf("without time: %+v", got)
	}
}

func startBroker(t *testing.T) jetstream.JetStream {
	t.Helper()
	return natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL())
}

func TestMetric(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "c"}, []string{"a", "b"})
	reg.MustRegister(c)
	c.WithLabelValues("x", "1").Add(2)
	c.WithLabelValues("x", "2").Add(3)
	c.WithLabelValues("y", "1").Add(4)
	for label, want := range map[string]float64{"": 9, "x": 5, "1": 6, "z": 0} {
		if got := metric(reg, "c", label); got != want {
			t.Errorf("%q: %v, want %v", label, got, want)
		}
	}
	if got := metric(reg, "d", ""); got != 0 {
		t.Errorf("none: %v", got)
	}
}
