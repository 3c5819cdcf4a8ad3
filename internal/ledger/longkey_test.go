package ledger_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

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
