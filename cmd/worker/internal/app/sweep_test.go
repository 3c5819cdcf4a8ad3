package app

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestTheSweepSeesTheLedgerThatIsOpen(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := &worker{}
	for _, err := range w.recordsFrom(ctx, 0) {
		if !errors.Is(err, errNoLedger) {
			t.Errorf("no ledger: %v", err)
		}
	}
	if _, _, err := w.record(ctx, provision.Key{}); !errors.Is(err, errNoLedger) {
		t.Errorf("no ledger: %v", err)
	}
	js := openLedgerFor(ctx, t, w)
	var revs []uint64
	for _, id := range []string{"a", "b"} {
		rec := provision.Record{Key: provision.Key{Tenant: "acme", Source: "s", ID: id}, State: provision.StateClaimed}
		rev, err := w.book.Load().Store(ctx, rec.Key, rec, 0)
		if err != nil {
			t.Fatal(err)
		}
		revs = append(revs, rev)
	}
	kv, err := js.KeyValue(ctx, ledger.DefaultBucket)
	if err == nil {
		_, err = kv.PutString(ctx, "acme.s.newer", `{"of":"tomorrow"}`)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := ids(ctx, t, w, 0); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q", got)
	}
	if got := ids(ctx, t, w, revs[1]); !slices.Equal(got, []string{"b"}) {
		t.Errorf("from the second on: got %q", got)
	}
	if _, rev, err := w.record(ctx, provision.Key{Tenant: "acme", Source: "s", ID: "a"}); err != nil || rev != revs[0] {
		t.Errorf("record: revision %d, %v", rev, err)
	}
}

func openLedgerFor(ctx context.Context, t *testing.T, w *worker) jetstream.JetStream {
	t.Helper()
	js := natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL())
	book, err := ledger.Open(ctx, js, ledger.Config{Manage: true})
	if err != nil {
		t.Fatal(err)
	}
	w.book.Store(book)
	return js
}

func ids(ctx context.Context, t *testing.T, w *worker, from uint64) (got []string) {
	t.Helper()
	for e, err := range w.recordsFrom(ctx, from) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Record.Key.ID)
	}
	return got
}
