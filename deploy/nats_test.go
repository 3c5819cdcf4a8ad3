package deploy

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	natsConf    = "nats/server.conf"
	natsAccount = "nats/accounts.conf"
)

// natsUsers are the users of accounts.conf and where their passwords come from.
var natsUsers = map[string]string{ // :: user → variable
	"worker": "NATS_WORKER_PASSWORD", "operator": "NATS_OPERATOR_PASSWORD",
	"acme": "NATS_ACME_PASSWORD", "sys": "NATS_SYS_PASSWORD",
}

// broker is a server that runs with the very files of this folder.
type broker struct {
	t   *testing.T
	url string
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	opts, err := natsOptions(t, natsConf)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(30 * time.Second) {
		t.Fatal("nats-server did not get ready")
	}
	return &broker{t: t, url: srv.ClientURL()}
}

// natsOptions reads a server's file and changes only where it listens and stores.
func natsOptions(t *testing.T, file string) (*server.Options, error) {
	t.Helper()
	for user, variable := range natsUsers {
		t.Setenv(variable, "pw-"+user)
	}
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		return nil, err
	}
	if !opts.JetStream || opts.StoreDir == "" || !opts.SyncAlways {
		t.Errorf("%s: want JetStream on disk, synced always", file)
	}
	opts.Host, opts.Port, opts.HTTPPort, opts.StoreDir = "127.0.0.1", server.RANDOM_PORT, 0, t.TempDir()
	opts.NoSigs, opts.NoLog = true, true
	return opts, nil
}

func (b *broker) connect(user string) *nats.Conn {
	b.t.Helper()
	nc, err := nats.Connect(b.url, nats.UserInfo(user, "pw-"+user), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		b.t.Fatalf("%s: %v", user, err)
	}
	b.t.Cleanup(nc.Close)
	return nc
}

func (b *broker) jetStream(user string) (*nats.Conn, jetstream.JetStream) {
	b.t.Helper()
	nc := b.connect(user)
	js, err := jetstream.New(nc)
	if err != nil {
		b.t.Fatal(err)
	}
	return nc, js
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

// createObjects makes the objects of the contract as the worker would, with the worker's rights.
func (b *broker) createObjects(ctx context.Context, js jetstream.JetStream) (jetstream.Consumer, jetstream.KeyValue) {
	b.t.Helper()
	for _, cfg := range []jetstream.StreamConfig{
		{Name: "CONNECTION_REQUESTS", Subjects: []string{"connections.requests.*"}, Retention: jetstream.WorkQueuePolicy, Duplicates: 100 * time.Millisecond},
		{Name: "CONNECTION_RESULTS", Subjects: []string{"connections.results.*.*"}, MaxAge: 30 * 24 * time.Hour, Duplicates: 10 * time.Minute},
		{Name: "CONNECTION_DEADLETTERS", Subjects: []string{"connections.deadletters.*"}, MaxAge: 30 * 24 * time.Hour},
	} {
		for range 2 { // once to create it, once to upgrade it
			if _, err := js.CreateOrUpdateStream(ctx, cfg); err != nil {
				b.t.Fatalf("stream %s: %v", cfg.Name, err)
			}
		}
	}
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "connection-ledger", History: 1, TTL: 30 * 24 * time.Hour})
	if err != nil {
		b.t.Fatalf("ledger: %v", err)
	}
	con, err := js.CreateOrUpdateConsumer(ctx, "CONNECTION_REQUESTS", jetstream.ConsumerConfig{
		Durable: "flow-worker", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, MaxAckPending: -1})
	if err != nil {
		b.t.Fatalf("consumer: %v", err)
	}
	return con, kv
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestNATSWorkerAndTenantCanDoTheirWork(t *testing.T) {
	ctx := testContext(t)
	b := newBroker(t)
	wnc, wjs := b.jetStream("worker")
	con, kv := b.createObjects(ctx, wjs)

	tnc, tjs := b.jetStream("acme")
	results, err := tnc.SubscribeSync("connections.results.acme.*")
	if err != nil || b.denied(tnc) {
		t.Fatalf("acme may not read its results: %v", err)
	}
	ack, err := tjs.Publish(ctx, "connections.requests.acme", []byte(`{}`), jetstream.WithMsgID("r-1"))
	if err != nil || ack.Stream != "CONNECTION_REQUESTS" {
		t.Fatalf("acme publishes a request: ack %+v, error %v", ack, err)
	}

	msg, err := con.Next(jetstream.FetchMaxWait(20 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if got := msg.Headers().Get(jetstream.MsgIDHeader); msg.Subject() != "connections.requests.acme" || got != "r-1" {
		t.Errorf("worker got subject %q, message id %q", msg.Subject(), got)
	}
	useLedger(ctx, t, kv)
	for _, subject := range []string{"connections.deadletters.acme", "connections.results.acme.failed"} {
		if _, err := wjs.Publish(ctx, subject, []byte(`{}`)); err != nil {
			t.Errorf("worker publishes %s: %v", subject, err)
		}
	}
	if err := errors.Join(msg.InProgress(), msg.DoubleAck(ctx)); err != nil {
		t.Errorf("worker acknowledges: %v", err)
	}
	if got, err := results.NextMsgWithContext(ctx); err != nil || got.Subject != "connections.results.acme.failed" {
		t.Errorf("acme got result %+v, error %v", got, err)
	}
	if b.denied(wnc) || b.denied(tnc) {
		t.Errorf("something was refused on the way: worker %v, acme %v", wnc.LastError(), tnc.LastError())
	}
}

// useLedger does what the worker does with its ledger, under a key that escapes use all of.
func useLedger(ctx context.Context, t *testing.T, kv jetstream.KeyValue) {
	t.Helper()
	const key = "acme.=2Fportal.r-1"
	rev, err := kv.Create(ctx, key, []byte("claimed"))
	if err == nil {
		_, err = kv.Update(ctx, key, []byte("posting"), rev)
	}
	if err != nil {
		t.Fatalf("ledger write: %v", err)
	}
	if _, err := kv.Update(ctx, key, []byte("late"), rev); err == nil {
		t.Error("ledger: a write with an old revision went through")
	}
	if e, err := kv.Get(ctx, key); err != nil || string(e.Value()) != "posting" {
		t.Errorf("ledger read: %v, %v", e, err)
	}
	keys, err := kv.Keys(ctx)
	if err != nil || len(keys) != 1 || keys[0] != key {
		t.Errorf("ledger keys: %q, %v", keys, err)
	}
	if _, err := kv.Status(ctx); err != nil {
		t.Errorf("ledger status: %v", err)
	}
}
