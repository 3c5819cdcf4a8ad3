package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/ledger/ledgertest"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// newServer is JetStream on a server of its own.
func newServer(t *testing.T) jetstream.JetStream {
	t.Helper()
	return natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL())
}

func open(t *testing.T, js jetstream.JetStream, cfg ledger.Config) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(testContext(t), js, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// newLedger opens a managed ledger on a server of its own.
func newLedger(t *testing.T) (*ledger.Ledger, jetstream.JetStream) {
	t.Helper()
	js := newServer(t)
	return open(t, js, ledger.Config{Manage: true}), js
}

func record(id, nonce string) provision.Record {
	return provision.Record{
		Key:   provision.Key{Tenant: "acme", Source: "/portal", ID: id},
		State: provision.StateClaimed, Nonce: nonce,
	}
}

func store(t *testing.T, l *ledger.Ledger, rec provision.Record, rev uint64) uint64 {
	t.Helper()
	got, err := l.Store(t.Context(), rec.Key, rec, rev)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestConformance(t *testing.T) {
	t.Parallel()
	js := newServer(t)
	ledgertest.Run(t, func(t *testing.T) provision.Ledger {
		return open(t, js, ledger.Config{Manage: true, Bucket: bucketName(t)})
	})
}

// TestConformanceReplicated matters because replicated streams report conflicts by another code.
func TestConformanceReplicated(t *testing.T) {
	t.Parallel()
	cluster := natstest.RunCluster(t, 3, natstest.Options{})
	l := open(t, natstest.Connect(t, cluster[1].ClientURL()), ledger.Config{Manage: true, Replicas: 3})
	fresh := make(map[string]bool)
	ledgertest.Run(t, func(t *testing.T) provision.Ledger {
		if fresh[t.Name()] {
			t.Fatal("the suite runs a check twice")
		}
		fresh[t.Name()] = true
		return l
	})
}

func bucketName(t *testing.T) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, t.Name())
}

func TestDeletedAndPurgedRecordsCountAsNone(t *testing.T) {
	t.Parallel()
	l, js := newLedger(t)
	allowRollUps(t, js)
	kv, err := js.KeyValue(t.Context(), ledger.DefaultBucket)
	if err != nil {
		t.Fatal(err)
	}
	for name, remove := range map[string]func(context.Context, string, ...jetstream.KVDeleteOpt) error{
		"deleted": kv.Delete, "purged": kv.Purge,
	} {
		rec := record(name, "before")
		old := store(t, l, rec, 0)
		if err := remove(t.Context(), rec.Key.String()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Load(t.Context(), rec.Key); !errors.Is(err, provision.ErrNoRecord) {
			t.Errorf("Load of a %s record: %v, want ErrNoRecord", name, err)
		}
		if _, err := l.Store(t.Context(), rec.Key, rec, old); !errors.Is(err, provision.ErrConflict) {
			t.Errorf("Store at the revision of a %s record: %v, want ErrConflict", name, err)
		}
		rec.Nonce = "after"
		rev := store(t, l, rec, 0)
		if got, gotRev, err := l.Load(t.Context(), rec.Key); err != nil || got.Nonce != "after" || gotRev != rev {
			t.Errorf("Load after a %s record was made anew: %q, %d, %v", name, got.Nonce, gotRev, err)
		}
	}
}

func TestExpiredRecordCountsAsNone(t *testing.T) {
	t.Parallel()
	js := newServer(t)
	l := open(t, js, ledger.Config{Manage: true, TTL: 100 * time.Millisecond})
	rec := record("short-lived", "n")
	first := store(t, l, rec, 0)
	// The server may create the record only when the old one is gone: its refusals are the clock.
	ctx := testContext(t)
	for ctx.Err() == nil {
		rev, err := l.Store(ctx, rec.Key, rec, 0)
		if err == nil {
			if rev <= first {
				t.Errorf("revision %d after %d", rev, first)
			}
			return
		}
		if !errors.Is(err, provision.ErrConflict) {
			t.Fatal(err)
		}
	}
	t.Error("the record never expired")
}

func TestUndecodableRecordIsKept(t *testing.T) {
	t.Parallel()
	l, js := newLedger(t)
	kv, err := js.KeyValue(t.Context(), ledger.DefaultBucket)
	if err != nil {
		t.Fatal(err)
	}
	key := record("odd", "").Key
	for _, value := range []string{
		"", "{", "null", "[]", `"x"`, `{"key":{"tenant":"other","source":"/portal","id":"odd"},"state":"claimed"}`,
		`{"key":{"tenant":"acme","source":"/portal","id":"odd"},"state":"dancing"}`,
		`{"key":{"tenant":"acme","source":"/portal","id":"odd"},"state":"claimed","fromTheFuture":1}`,
		`{"key":{"tenant":"acme","source":"/portal","id":"odd"},"state":"claimed"} {}`,
		`{"key":{"tenant":"acme","source":"/portal","id":"odd"},"state":"claimed","heldUntil":"yesterday"}`,
	} {
		if _, err := kv.PutString(t.Context(), key.String(), value); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Load(t.Context(), key); !errors.Is(err, ledger.ErrUndecodable) {
			t.Errorf("Load of %q: %v, want ErrUndecodable", value, err)
		}
		if _, err := l.Store(t.Context(), key, record("odd", "n"), 0); !errors.Is(err, provision.ErrConflict) {
			t.Errorf("Store over %q: %v, want ErrConflict", value, err)
		}
		if got, err := kv.Get(t.Context(), key.String()); err != nil || string(got.Value()) != value {
			t.Errorf("%q was overwritten: %v, %v", value, got, err)
		}
	}
}

func TestStoreRefuses(t *testing.T) {
	t.Parallel()
	l, _ := newLedger(t)
	large := record("large", "n")
	large.Attempts = []provision.Attempt{{Detail: strings.Repeat("x", ledger.MaxRecordSize)}}
	if _, err := l.Store(t.Context(), large.Key, large, 0); !errors.Is(err, ledger.ErrTooLarge) {
		t.Errorf("a large record: %v, want ErrTooLarge", err)
	}
	if _, err := l.Store(t.Context(), record("other", "").Key, record("mine", "n"), 0); err == nil {
		t.Error("a record was stored under another's key")
	}
	for _, id := range []string{"large", "other", "mine"} {
		if _, _, err := l.Load(t.Context(), record(id, "").Key); !errors.Is(err, provision.ErrNoRecord) {
			t.Errorf("Load of %q: %v, want ErrNoRecord", id, err)
		}
	}
}

// TestLostAnswer stores a record while every answer of the server is lost: the error of Store hides a
// write that took place, which the next read shows.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t, natstest.Options{})
	sound := open(t, natstest.Connect(t, s.ClientURL()), ledger.Config{Manage: true})
	deaf := &deafDialer{}
	l := open(t, natstest.Connect(t, s.ClientURL(), nats.SetCustomDialer(deaf), nats.NoReconnect()), ledger.Config{})
	key := record("lost", "").Key
	watchCtx, stop := context.WithCancel(testContext(t))
	defer stop()
	storeCtx, giveUp := context.WithCancel(testContext(t))
	defer giveUp()
	storeErr := make(chan error, 1)
	for e, err := range sound.Watch(watchCtx, key) {
		switch {
		case errors.Is(err, provision.ErrNoRecord):
			deaf.stopHearing()
			go func() {
				_, err := l.Store(storeCtx, key, record("lost", "mine"), 0)
				storeErr <- err
			}()
			continue
		case err != nil:
			t.Fatal(err)
		case e.Record.Nonce != "mine":
			t.Errorf("nonce %q was stored", e.Record.Nonce)
		}
		break
	}
	giveUp()
	if err := <-storeErr; !errors.Is(err, context.Canceled) {
		t.Errorf("Store without an answer: %v, want context.Canceled", err)
	}
	if rec, _, err := sound.Load(t.Context(), key); err != nil || rec.Nonce != "mine" {
		t.Errorf("Load after the lost answer: %q, %v", rec.Nonce, err)
	}
}

// deafDialer makes connections that can be made to hear nothing any more; what they say still arrives.
type deafDialer struct {
	mu   sync.Mutex
	deaf chan struct{}
}

func (d *deafDialer) Dial(network, address string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	conn, err := net.Dial(network, address)
	d.deaf = make(chan struct{})
	return &deafConn{Conn: conn, deaf: d.deaf, closed: make(chan struct{})}, err
}

func (d *deafDialer) stopHearing() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.deaf)
}

type deafConn struct {
	net.Conn
	deaf   chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (c *deafConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	select {
	case <-c.deaf:
		<-c.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (c *deafConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func TestBucketGone(t *testing.T) {
	t.Parallel()
	l, js := newLedger(t)
	rec := record("x", "n")
	store(t, l, rec, 0)
	if err := js.DeleteKeyValue(t.Context(), ledger.DefaultBucket); err != nil {
		t.Fatal(err)
	}
	_, _, loadErr := l.Load(t.Context(), rec.Key)
	_, storeErr := l.Store(t.Context(), rec.Key, rec, 0)
	for name, err := range map[string]error{"Load": loadErr, "Store": storeErr, "Refresh": l.Refresh(t.Context())} {
		if err == nil || errors.Is(err, provision.ErrNoRecord) || errors.Is(err, provision.ErrConflict) {
			t.Errorf("%s without a bucket: %v, want an error of neither kind", name, err)
		} else if !strings.Contains(err.Error(), "worker init") {
			t.Errorf("%s without a bucket does not name the remedy: %v", name, err)
		}
	}
	before := l.Created()
	open(t, js, ledger.Config{Manage: true})
	if err := l.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !l.Created().After(before) {
		t.Errorf("Created is %v after the bucket was made anew, was %v", l.Created(), before)
	}
	store(t, l, rec, 0)
}

// frail returns JetStream over a connection that is not made anew: what a server closes stays closed.
// Its bucket is managed, or one with direct reads, whose subject has the key in it.
func frail(t *testing.T, direct bool) (*ledger.Ledger, *nats.Conn) {
	t.Helper()
	js := natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL(), nats.NoReconnect())
	if !direct {
		return open(t, js, ledger.Config{Manage: true}), js.Conn()
	}
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KV_" + ledger.DefaultBucket, Subjects: []string{"$KV." + ledger.DefaultBucket + ".>"},
		MaxMsgsPerSubject: 1, AllowDirect: true, Discard: jetstream.DiscardNew})
	if err != nil {
		t.Fatal(err)
	}
	return open(t, js, ledger.Config{}), js.Conn()
}

// alive fails the test unless the server still answers: it has seen all that was sent before.
func alive(t *testing.T, nc *nats.Conn, after string) {
	t.Helper()
	if err := nc.FlushWithContext(testContext(t)); err != nil {
		t.Fatalf("after %s: %v", after, err)
	}
}

// first returns the first entry that is yielded, with its error; errNothing where there is none.
func first(t *testing.T, list func(func(ledger.Entry, error) bool)) (ledger.Entry, error) {
	t.Helper()
	for e, err := range list {
		return e, err
	}
	return ledger.Entry{}, errNothing
}

var errNothing = errors.New("nothing is listed")

// texts are what somebody may take for an id, by how many bytes they have.
func texts(n int) []string {
	return []string{strings.Repeat("a", n), strings.Repeat("/", n), strings.Repeat("é", n/2) + strings.Repeat("x", n%2), strings.Repeat("接", n/3) + "abc"[:n%3]}
}

// TestLongestKeysOnTheWire: what a request may be named fits into every subject, whatever has to be escaped.
func TestLongestKeysOnTheWire(t *testing.T) {
	t.Parallel()
	for _, direct := range []bool{false, true} {
		l, nc := frail(t, direct)
		for i, id := range texts(provision.MaxKeyPart) {
			k := provision.Key{Tenant: strings.Repeat("t", 63), Source: strings.Repeat("/", provision.MaxKeyPart), ID: id}
			if len(id) != provision.MaxKeyPart {
				t.Fatalf("%d: %d bytes", i, len(id))
			}
			rev := store(t, l, provision.Record{Key: k, State: provision.StateClaimed, Nonce: "n"}, 0)
			if _, got, err := l.Load(testContext(t), k); err != nil || got != rev {
				t.Errorf("Load: revision %d, %v; want %d", got, err, rev)
			}
			if e, err := first(t, l.List(testContext(t), ledger.Filter{Tenant: k.Tenant, Source: k.Source, ID: id})); err != nil || e.Revision != rev {
				t.Errorf("List: %+v, %v; want revision %d", e, err, rev)
			}
			if e, err := first(t, l.Watch(testContext(t), k)); err != nil || e.Revision != rev {
				t.Errorf("Watch: %+v, %v; want revision %d", e, err, rev)
			}
			alive(t, nc, fmt.Sprintf("text %d, direct reads %t", i, direct))
		}
	}
}

// TestImpossibleKeysAreNoSubjects: a server closes the connection of a client whose subject is too long for
// it. Whoever searches must not be able to end a worker.
func TestImpossibleKeysAreNoSubjects(t *testing.T) {
	t.Parallel()
	for _, direct := range []bool{false, true} {
		l, nc := frail(t, direct)
		keys := []provision.Key{{}, {Tenant: "acme", Source: "s"}, {Tenant: "acme", ID: "1"}, {Tenant: "a.b", Source: "s", ID: "1"}, {Tenant: strings.Repeat("t", 10_000), Source: "s", ID: "1"}}
		for _, n := range []int{257, 10_000} {
			for _, text := range texts(n) {
				keys = append(keys, provision.Key{Tenant: "acme", Source: "s", ID: text}, provision.Key{Tenant: "acme", Source: text, ID: "1"})
			}
		}
		for i, k := range keys {
			testImpossible(t, l, k)
			alive(t, nc, fmt.Sprintf("key %d, direct reads %t", i, direct))
		}
		if got := listed(t, l, ledger.Filter{}); got != nil {
			t.Errorf("stored: %.200q", got)
		}
	}
}

func testImpossible(t *testing.T, l *ledger.Ledger, k provision.Key) {
	t.Helper()
	ctx := testContext(t)
	if _, _, err := l.Load(ctx, k); !errors.Is(err, provision.ErrNoRecord) {
		t.Errorf("Load: %.200v, want ErrNoRecord", err)
	}
	_, storeErr := l.Store(ctx, k, provision.Record{Key: k, State: provision.StateClaimed, Nonce: "n"}, 0)
	_, updateErr := l.Store(ctx, k, provision.Record{Key: k, State: provision.StateClaimed, Nonce: "n"}, 1)
	_, watchErr := first(t, l.Watch(ctx, k))
	errs := map[string]error{"Store": storeErr, "Store at a revision": updateErr, "Watch": watchErr}
	for part, f := range map[string]ledger.Filter{k.Tenant: {Tenant: k.Tenant}, k.Source: {Source: k.Source}, k.ID: {ID: k.ID}} {
		if len(part) > provision.MaxKeyPart { // an empty one means all
			_, errs["List"] = first(t, l.List(ctx, f))
		}
	}
	want := "no tenant"
	if provision.ValidTenant(k.Tenant) {
		want = "a request's has 1 to 256"
	}
	for name, err := range errs {
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 200 || errors.Is(err, provision.ErrNoRecord) {
			t.Errorf("%s: %.300v, want %q", name, err, want)
		}
	}
}
