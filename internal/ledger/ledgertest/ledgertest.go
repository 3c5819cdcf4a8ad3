// Package ledgertest is the conformance suite of provision.Ledger: what every implementation, real or
// double, has to do alike. It knows none of them.
package ledgertest

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Run runs the suite. It calls fresh for every subtest and expects a ledger without records, which
// may be in use elsewhere as long as the suite's keys are its own.
func Run(t *testing.T, fresh func(t *testing.T) provision.Ledger) {
	t.Helper()
	for name, check := range map[string]func(*testing.T, provision.Ledger){
		"no record":                   testNoRecord,
		"record comes back whole":     testRoundTrip,
		"create once":                 testCreateOnce,
		"store needs the revision":    testStaleRevision,
		"revisions grow":              testRevisionsGrow,
		"keys are apart":              testKeysApart,
		"one winner per revision":     testOneWinner,
		"an ended context":            testEndedContext,
		"a stored record is a copy":   testCopies,
		"the longest key is possible": testLongestKey,
	} {
		t.Run(name, func(t *testing.T) { check(t, fresh(t)) })
	}
}

func key(id string) provision.Key {
	return provision.Key{Tenant: "acme", Source: "/portal/a b", ID: id}
}

func record(k provision.Key, nonce string) provision.Record {
	return provision.Record{Key: k, State: provision.StateClaimed, Nonce: nonce}
}

func store(t *testing.T, l provision.Ledger, rec provision.Record, rev uint64) uint64 {
	t.Helper()
	got, err := l.Store(t.Context(), rec.Key, rec, rev)
	if err != nil {
		t.Fatalf("Store(%s, revision %d): %v", rec.Nonce, rev, err)
	}
	return got
}

func wantRecord(t *testing.T, l provision.Ledger, k provision.Key, nonce string, rev uint64) {
	t.Helper()
	rec, got, err := l.Load(t.Context(), k)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	if rec.Nonce != nonce || got != rev {
		t.Errorf("Load: nonce %q at revision %d, want %q at %d", rec.Nonce, got, nonce, rev)
	}
}

func testNoRecord(t *testing.T, l provision.Ledger) {
	if _, _, err := l.Load(t.Context(), key("none")); !errors.Is(err, provision.ErrNoRecord) {
		t.Errorf("Load of nothing: %v, want ErrNoRecord", err)
	}
}

func testRoundTrip(t *testing.T, l provision.Ledger) {
	want := fullRecord(key("full"))
	rev := store(t, l, want, 0)
	got, gotRev, err := l.Load(t.Context(), want.Key)
	if err != nil {
		t.Fatal(err)
	}
	if gotRev != rev {
		t.Errorf("revision %d, want %d", gotRev, rev)
	}
	// Result.EventID and its like are kept in FinalResult: a Result's own form leaves them out.
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the record changed on its way (-want +got):\n%s", diff)
	}
}

func fullRecord(k provision.Key) provision.Record {
	at := time.Date(2026, 11, 22, 3, 0, 0, 123456789, time.UTC)
	fail := provision.Fail(provision.ReasonFlowRejected, "a \"quoted\" <text> with ünïcode\u2028")
	spec := provision.ConnectionSpec{ID: "spec", Version: "1.0"}
	return provision.Record{
		Key: k, State: provision.StateFailed, Retry: 2, Fingerprint: "f", Nonce: "n",
		Owner: "w1", Held: true, HeldSeq: 1 << 60, HeldUntil: at, Alone: true, Deaths: 2,
		FirstPostAt: at, PostedAt: at, Lease: 75 * time.Second, EndedAt: at, LookFirst: true, Posts: 3,
		Reread: true, Sandbox: "prod", Name: "name", ConnectionSpec: spec,
		Trace: provision.Trace{Parent: "00-1-2-01", State: "a=b"}, RequestedAt: at, StartedAt: at,
		Deadline: at, NotBefore: at, Handbacks: 4, UpdatedAt: at,
		Secrets:  map[string]int{"token": 3, "adobe": 1},
		Attempts: []provision.Attempt{{At: at, Retry: 2, Owner: "w1", Step: "post", Result: "unknown", Detail: "d", Elapsed: 1.5}},
		LastFail: fail,
		Final: &provision.FinalResult{EventID: "e", Outcome: provision.OutcomeFailed, Result: provision.Result{
			Request: provision.RequestID{ID: k.ID, Source: k.Source}, Tenant: k.Tenant, ConnectionSpec: &spec,
			Attempts: 3, RequestedAt: at, StartedAt: at, CompletedAt: at, Error: fail}},
	}
}

func testCreateOnce(t *testing.T, l provision.Ledger) {
	k := key("once")
	rev := store(t, l, record(k, "first"), 0)
	if _, err := l.Store(t.Context(), k, record(k, "second"), 0); !errors.Is(err, provision.ErrConflict) {
		t.Errorf("second create: %v, want ErrConflict", err)
	}
	wantRecord(t, l, k, "first", rev)
}

func testStaleRevision(t *testing.T, l provision.Ledger) {
	k := key("stale")
	first := store(t, l, record(k, "1"), 0)
	second := store(t, l, record(k, "2"), first)
	for _, rev := range []uint64{first, second + 1000} {
		if _, err := l.Store(t.Context(), k, record(k, "x"), rev); !errors.Is(err, provision.ErrConflict) {
			t.Errorf("Store at revision %d of %d: %v, want ErrConflict", rev, second, err)
		}
	}
	wantRecord(t, l, k, "2", second)
	missing := key("never stored")
	if _, err := l.Store(t.Context(), missing, record(missing, "x"), second); !errors.Is(err, provision.ErrConflict) {
		t.Errorf("Store at a revision of a record that is not there: %v, want ErrConflict", err)
	}
}

func testRevisionsGrow(t *testing.T, l provision.Ledger) {
	k := key("grow")
	var rev uint64
	for i := range 5 {
		next := store(t, l, record(k, strconv.Itoa(i)), rev)
		if next <= rev {
			t.Fatalf("revision %d after %d", next, rev)
		}
		rev = next
	}
}

func testKeysApart(t *testing.T, l provision.Ledger) {
	keys := []provision.Key{
		{Tenant: "a", Source: "b.c", ID: "d"}, {Tenant: "a", Source: "b", ID: "c.d"},
		{Tenant: "a", Source: "*", ID: ">"}, {Tenant: "a", Source: ">", ID: "*"},
		{Tenant: "a", Source: "ü", ID: "\x00 \n"}, {Tenant: "a", Source: "=2E", ID: "."},
	}
	revs := make([]uint64, len(keys))
	for i, k := range keys {
		revs[i] = store(t, l, record(k, strconv.Itoa(i)), 0)
	}
	for i, k := range keys {
		wantRecord(t, l, k, strconv.Itoa(i), revs[i])
	}
}

// testOneWinner lets eight writers fight over the same record, round after round.
func testOneWinner(t *testing.T, l provision.Ledger) {
	const writers, rounds = 8, 10
	k := key("fight")
	var rev uint64
	for range rounds {
		var won atomic.Int64
		var next atomic.Uint64
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				got, err := l.Store(t.Context(), k, record(k, strconv.Itoa(w)), rev)
				switch {
				case err == nil:
					won.Add(1)
					next.Store(got)
				case !errors.Is(err, provision.ErrConflict):
					t.Errorf("a loser got %v, want ErrConflict", err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d of %d writers won revision %d", won.Load(), writers, rev)
		}
		rev = next.Load()
	}
}

func testEndedContext(t *testing.T, l provision.Ledger) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	k := key("ended")
	if _, _, err := l.Load(ctx, k); !errors.Is(err, context.Canceled) {
		t.Errorf("Load with an ended context: %v, want context.Canceled", err)
	}
	if _, err := l.Store(ctx, k, record(k, "x"), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("Store with an ended context: %v, want context.Canceled", err)
	}
}

func testCopies(t *testing.T, l provision.Ledger) {
	k := key("copy")
	rec := fullRecord(k)
	store(t, l, rec, 0)
	rec.Secrets["token"] = 99
	rec.Attempts[0].Result = "tampered"
	rec.LastFail.Message = "tampered"
	got, _, err := l.Load(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fullRecord(k), got); diff != "" {
		t.Errorf("changing the caller's record changed the stored one (-want +got):\n%s", diff)
	}
}

func testLongestKey(t *testing.T, l provision.Ledger) {
	k := provision.Key{Tenant: strings.Repeat("t", 63), Source: strings.Repeat("/", 256), ID: strings.Repeat(".", 256)}
	rev := store(t, l, record(k, "long"), 0)
	wantRecord(t, l, k, "long", rev)
}
