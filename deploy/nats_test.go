package deploy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/jsread"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

const (
	natsConf    = "nats/server.conf"
	natsAccount = "nats/accounts.conf"
)

// natsUsers are the users of accounts.conf and where their passwords come from.
var natsUsers = map[string]string{ // :: user → variable
	"worker": "NATS_WORKER_PASSWORD", "operator": "NATS_OPERATOR_PASSWORD", "init": "NATS_INIT_PASSWORD",
	"acme": "NATS_ACME_PASSWORD", "sys": "NATS_SYS_PASSWORD",
}

// broker is a server that runs with the very files of this folder.
type broker struct {
	t   *testing.T
	url string
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	if err := checkNATSFile(t, natsConf); err != nil {
		t.Fatal(err)
	}
	return &broker{t: t, url: natstest.Run(t, natstest.Options{ConfigFile: natsConf}).ClientURL()}
}

// newEditedBroker runs a server with the files of this folder, but for what was done to accounts.conf.
func newEditedBroker(t *testing.T, edits ...func(string) string) *broker {
	t.Helper()
	dir := t.TempDir()
	copyFile(t, natsConf, filepath.Join(dir, "server.conf"), nil)
	copyFile(t, natsAccount, filepath.Join(dir, "accounts.conf"), func(s string) string {
		for _, edit := range edits {
			s = edit(s)
		}
		return s
	})
	file := filepath.Join(dir, "server.conf")
	if err := checkNATSFile(t, file); err != nil {
		t.Fatal(err)
	}
	return &broker{t: t, url: natstest.Run(t, natstest.Options{ConfigFile: file}).ClientURL()}
}

// withGlobex adds a second tenant, as the comment in the file says.
func withGlobex(accounts string) string {
	begin := strings.Index(accounts, "  acme {")
	end := strings.Index(accounts, "  SYS {")
	block := strings.NewReplacer("acme", "globex", "$NATS_ACME_PASSWORD", "pw-globex").Replace(accounts[begin:end])
	return accounts[:end] + block + accounts[end:]
}

// withAdmin adds a user of the workers' account who may do everything, for what tests have to see.
func withAdmin(accounts string) string {
	return strings.Replace(accounts, "users: [\n", "users: [\n{ user: admin, password: pw-admin }\n", 1)
}

// withDeletions takes out what keeps everybody from deleting objects, as the comment in the file says.
func withDeletions(accounts string) string {
	begin := strings.Index(accounts, "    mappings: {")
	end := begin + strings.Index(accounts[begin:], "    }\n")
	return accounts[:begin] + accounts[end+len("    }\n"):]
}

// TestMain sets the passwords that the server's files take from the environment.
func TestMain(m *testing.M) {
	for user, variable := range natsUsers {
		if err := os.Setenv(variable, "pw-"+user); err != nil {
			panic(err)
		}
	}
	m.Run()
}

// checkNATSFile reads a server's file as the server does. It fails with the server's own words.
func checkNATSFile(t *testing.T, file string) error {
	t.Helper()
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		return err
	}
	if !opts.JetStream || opts.StoreDir == "" || !opts.SyncAlways {
		t.Errorf("%s: want JetStream on disk, synced always", file)
	}
	return nil
}

func (b *broker) connect(user string) (*nats.Conn, jetstream.JetStream) {
	b.t.Helper()
	js := natstest.Connect(b.t, b.url, natstest.As(user, "pw-"+user), consumer.OwnInbox())
	return js.Conn(), js
}

// denied reports whether the server refused what nc did before. The refusal comes ahead of the answer
// that Flush waits for.
func (b *broker) denied(nc *nats.Conn) bool {
	b.t.Helper()
	if err := nc.Flush(); err != nil {
		b.t.Fatal(err)
	}
	return errors.Is(nc.LastError(), nats.ErrPermissionViolation)
}

// createObjects makes the NATS objects with the worker's rights and the worker's code, twice: once to
// create them, once to look whether they need an upgrade.
func (b *broker) createObjects(ctx context.Context, js jetstream.JetStream) {
	b.t.Helper()
	for range 2 {
		if _, err := consumer.EnsureObjects(ctx, js, objects(js)); err != nil {
			b.t.Fatal(err)
		}
	}
}

func objects(js jetstream.JetStream) consumer.ObjectsConfig {
	return consumer.ObjectsConfig{Manage: true, Ledger: func(ctx context.Context) error {
		_, err := ledger.Open(ctx, js, ledger.Config{Manage: true})
		return err
	}}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// runConsumer runs the worker's consumer, with its rights, until the test ends. Every request fails.
func (b *broker) runConsumer(js jetstream.JetStream) {
	b.t.Helper()
	con, err := consumer.New(consumer.Config{
		JS: js, Codec: &event.Decoder{}, Objects: objects(js),
		PullExpires: time.Second, PollInterval: 10 * time.Millisecond, Sweep: consumer.SweepConfig{Interval: 10 * time.Millisecond},
		Handle: func(_ context.Context, d provision.Delivery) provision.Outcome {
			key := d.Request.Key
			return provision.Outcome{Result: &provision.Result{
				EventID: key.EventID(0, provision.OutcomeFailed), Outcome: provision.OutcomeFailed, Error: d.Invalid,
				Request: provision.RequestID{ID: key.ID, Source: key.Source}, Tenant: key.Tenant,
			}}
		},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- con.Run(ctx) }()
	b.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
}

func TestNATSWorkerAndTenantCanDoTheirWork(t *testing.T) {
	ctx := testContext(t)
	b := newBroker(t)
	wnc, wjs := b.connect("worker")
	b.createObjects(ctx, wjs)
	b.runConsumer(wjs)

	tnc, tjs := b.connect("acme")
	results, err := tnc.SubscribeSync("connections.results.acme.*")
	if err != nil || b.denied(tnc) {
		t.Fatalf("acme may not read its results: %v", err)
	}
	ack, err := tjs.Publish(ctx, "connections.requests.acme", []byte(`{}`), jetstream.WithMsgID("r-1"))
	if err != nil || ack.Stream != consumer.StreamRequests {
		t.Fatalf("acme publishes a request: ack %+v, error %v", ack, err)
	}
	msg, err := results.NextMsgWithContext(ctx)
	if err != nil {
		t.Fatal(err)
	}
	result, err := event.DecodeResult(msg.Data)
	if err != nil || msg.Subject != "connections.results.acme.failed" || result.Request.ID != "r-1" || result.Error.Reason != provision.ReasonInvalidRequest {
		t.Errorf("acme got %s on %s, error %v", msg.Data, msg.Subject, err)
	}
	useLedger(ctx, t, wjs, true)
	if letters, err := mustStream(ctx, t, wjs, consumer.StreamDeadLetters).Info(ctx); err != nil || letters.State.Msgs != 1 {
		t.Errorf("dead letters: %+v, error %v; want one", letters, err)
	}
	if b.denied(wnc) || b.denied(tnc) {
		t.Errorf("something was refused on the way: worker %v, acme %v", wnc.LastError(), tnc.LastError())
	}
}

// useLedger does all that a ledger can do, under a key that needs escapes.
func useLedger(ctx context.Context, t *testing.T, js jetstream.JetStream, manage bool) {
	t.Helper()
	led, err := ledger.Open(ctx, js, ledger.Config{Manage: manage})
	if err != nil {
		t.Fatal(err)
	}
	rec := provision.Record{Key: provision.Key{Tenant: "acme", Source: "/portal x", ID: "*.>"}, State: provision.StateClaimed, Nonce: "1"}
	rev, err := led.Store(ctx, rec.Key, rec, 0)
	if err == nil {
		_, err = led.Store(ctx, rec.Key, rec, rev)
	}
	if err != nil {
		t.Fatalf("ledger write: %v", err)
	}
	if _, err := led.Store(ctx, rec.Key, rec, rev); !errors.Is(err, provision.ErrConflict) {
		t.Errorf("ledger: a write with an old revision: %v, want a conflict", err)
	}
	if got, _, err := led.Load(ctx, rec.Key); err != nil || got.Key != rec.Key {
		t.Errorf("ledger read: %v, %v", got.Key, err)
	}
	listed := 0
	for _, err := range led.List(ctx, ledger.Filter{}) {
		if listed++; err != nil {
			t.Errorf("ledger list: %v", err)
		}
	}
	if err := led.Refresh(ctx); err != nil || listed != 1 {
		t.Errorf("ledger has %d records, refresh %v", listed, err)
	}
}

func TestNATSOperatorCanPauseAndLook(t *testing.T) {
	ctx := testContext(t)
	b := newBroker(t)
	_, ijs := b.connect("init")
	b.createObjects(ctx, ijs)
	nc, js := b.connect("operator")
	if p, err := consumer.Pause(ctx, js, time.Time{}); err != nil || !p.Paused {
		t.Errorf("Pause() = %+v, %v", p, err)
	}
	if p, err := consumer.Resume(ctx, js); err != nil || p.Paused {
		t.Errorf("Resume() = %+v, %v", p, err)
	}
	led, err := ledger.Open(ctx, js, ledger.Config{ByMessage: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range led.List(ctx, ledger.Filter{}) {
		t.Errorf("ledger list: %v", err)
	}
	watched := provision.Key{Tenant: "acme", Source: "s", ID: "1"}
	for _, err := range led.Watch(ctx, watched) {
		if !errors.Is(err, provision.ErrNoRecord) {
			t.Errorf("ledger watch: %v", err)
		}
		break
	}
	if _, err := js.Publish(ctx, "connections.requests.acme", []byte(`{}`)); err != nil {
		t.Errorf("request: %v", err)
	}
	for name, subject := range map[string]string{consumer.StreamResults: "connections.results.*.*", consumer.StreamDeadLetters: "connections.deadletters.*"} {
		stream, err := jsread.Open(ctx, js, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range jsread.Messages(ctx, stream, subject, 0) {
			t.Errorf("read %s: %v", name, err)
		}
		if _, err := nc.SubscribeSync(subject); err != nil {
			t.Errorf("listen to %s: %v", subject, err)
		}
	}
	if b.denied(nc) {
		t.Errorf("something was refused on the way: %v", nc.LastError())
	}
}
