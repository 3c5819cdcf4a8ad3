package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// both returns a ledger, and the same one as those open it who may make no consumers.
func both(t *testing.T, l *ledger.Ledger, js jetstream.JetStream) map[string]*ledger.Ledger {
	t.Helper()
	return map[string]*ledger.Ledger{"by a consumer": l, "by message": open(t, js, ledger.Config{ByMessage: true})}
}

// listed returns the keys that the list yields, sorted.
func listed(t *testing.T, l *ledger.Ledger, f ledger.Filter) []string {
	t.Helper()
	var got []string
	for e, err := range l.List(testContext(t), f) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Revision == 0 || e.StoredAt.IsZero() {
			t.Errorf("%s: revision %d, stored at %v", e.Record.Key, e.Revision, e.StoredAt)
		}
		got = append(got, e.Record.Key.String())
	}
	slices.Sort(got)
	return got
}

func TestList(t *testing.T) {
	t.Parallel()
	l, js := newLedger(t)
	if got := listed(t, l, ledger.Filter{}); got != nil {
		t.Errorf("list of an empty ledger: %q", got)
	}
	for _, r := range []struct {
		key   provision.Key
		state provision.State
	}{
		{provision.Key{Tenant: "acme", Source: "s", ID: "1"}, provision.StateCreated},
		{provision.Key{Tenant: "acme", Source: "s", ID: "2.2"}, provision.StateFailed},
		{provision.Key{Tenant: "acme", Source: "t", ID: "1"}, provision.StateFailed},
		{provision.Key{Tenant: "beta", Source: "s", ID: "1"}, provision.StateWaiting},
		{provision.Key{Tenant: "beta", Source: "*", ID: "gone"}, provision.StateFailed},
	} {
		store(t, l, provision.Record{Key: r.key, State: r.state}, 0)
	}
	kv, err := js.KeyValue(t.Context(), ledger.DefaultBucket)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(t.Context(), "beta.=2A.gone"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		filter ledger.Filter
		want   []string
	}{
		{ledger.Filter{}, []string{"acme.s.1", "acme.s.2=2E2", "acme.t.1", "beta.s.1"}},
		{ledger.Filter{Tenant: "acme"}, []string{"acme.s.1", "acme.s.2=2E2", "acme.t.1"}},
		{ledger.Filter{ID: "1"}, []string{"acme.s.1", "acme.t.1", "beta.s.1"}},
		{ledger.Filter{Source: "s", ID: "2.2"}, []string{"acme.s.2=2E2"}},
		{ledger.Filter{Tenant: "nobody"}, nil},
		{ledger.Filter{Source: "*"}, nil},
		{ledger.Filter{States: []provision.State{provision.StateFailed, provision.StateWaiting}}, []string{"acme.s.2=2E2", "acme.t.1", "beta.s.1"}},
	} {
		for how, l := range both(t, l, js) {
			if diff := cmp.Diff(c.want, listed(t, l, c.filter)); diff != "" {
				t.Errorf("%+v %s (-want +got):\n%s", c.filter, how, diff)
			}
		}
	}
}

func TestListTenantIsNoPattern(t *testing.T) {
	t.Parallel()
	l, js := newLedger(t)
	for _, l := range both(t, l, js) {
		for _, tenant := range []string{"*", ">", "a.b", " "} {
			for e, err := range l.List(testContext(t), ledger.Filter{Tenant: tenant}) {
				if err == nil {
					t.Errorf("tenant %q listed %v", tenant, e)
				}
			}
		}
	}
}

func TestListGoesOnAfterAnOddRecord(t *testing.T) {
	t.Parallel()
	l, js := newLedger(t)
	kv, err := js.KeyValue(t.Context(), ledger.DefaultBucket)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"acme.s.odd":   "{",
		"acme.s.newer": `{"key":{"tenant":"acme","source":"s","id":"newer"},"state":"claimed","fromTheFuture":1}`,
		"acme.s.=2e":   "{}",
	} {
		if _, err := kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	store(t, l, record("fine", "n"), 0)
	for _, l := range both(t, l, js) {
		var fine, odd []string
		for e, err := range l.List(testContext(t), ledger.Filter{}) {
			switch {
			case err == nil:
				fine = append(fine, e.Record.Key.ID)
			case errors.Is(err, ledger.ErrUndecodable):
				odd = append(odd, e.Record.Key.ID)
			default:
				t.Fatal(err)
			}
		}
		slices.Sort(fine)
		slices.Sort(odd)
		if diff := cmp.Diff([][]string{{"fine", "newer"}, {"", "odd"}}, [][]string{fine, odd}); diff != "" {
			t.Error(diff)
		}
	}
}

// TestListCanBeLeft breaks out of a list that is longer than any buffer on its way; goleak sees what
// stays behind.
func TestListCanBeLeft(t *testing.T) {
	t.Parallel()
	l, js := newLedger(t)
	for i := range 600 {
		store(t, l, record(fmt.Sprint(i), "n"), 0)
	}
	for how, l := range both(t, l, js) {
		for _, err := range l.List(testContext(t), ledger.Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if got := len(listed(t, l, ledger.Filter{})); got != 600 {
			t.Errorf("%d records listed %s, want 600", got, how)
		}
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	l, js := newLedger(t)
	for how, watched := range both(t, l, js) {
		t.Run(how, func(t *testing.T) { watch(t, l, js, watched) })
	}
}

// watch watches a record of the name of the test.
func watch(t *testing.T, l *ledger.Ledger, js jetstream.JetStream, watched *ledger.Ledger) {
	t.Helper()
	kv, err := js.KeyValue(t.Context(), ledger.DefaultBucket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	rec := record(t.Name(), "1")
	var rev uint64
	steps := []func(){ // what is done after each thing that is seen
		func() { rev = store(t, l, rec, 0) },
		func() { rec.Nonce = "2"; rev = store(t, l, rec, rev) },
		func() { _ = kv.Delete(ctx, rec.Key.String()) },
		cancel,
	}
	var seen []string
	for e, err := range watched.Watch(ctx, rec.Key) {
		switch {
		case errors.Is(err, provision.ErrNoRecord):
			seen = append(seen, "none")
		case errors.Is(err, context.Canceled):
			seen = append(seen, "end")
		case err != nil:
			t.Fatal(err)
		default:
			seen = append(seen, e.Record.Nonce)
		}
		if len(seen) <= len(steps) {
			steps[len(seen)-1]()
		}
	}
	if diff := cmp.Diff([]string{"none", "1", "2", "none", "end"}, seen); diff != "" {
		t.Error(diff)
	}
}

// Whoever has seen a revision can go on after it, and meets what was written anew since.
func TestListFromARevision(t *testing.T) {
	t.Parallel()
	l, js := newLedger(t)
	revs := map[string]uint64{}
	for _, id := range []string{"1", "2", "3"} {
		revs[id] = store(t, l, provision.Record{Key: provision.Key{Tenant: "acme", Source: "s", ID: id}, State: provision.StateClaimed}, 0)
	}
	again := store(t, l, provision.Record{Key: provision.Key{Tenant: "acme", Source: "s", ID: "1"}, State: provision.StateCreated}, revs["1"])
	for from, want := range map[uint64][]string{
		1: {"acme.s.1", "acme.s.2", "acme.s.3"}, revs["3"]: {"acme.s.1", "acme.s.3"}, again: {"acme.s.1"}, again + 1: nil, again + 100: nil,
	} {
		for how, l := range both(t, l, js) {
			if got := listed(t, l, ledger.Filter{From: from}); !slices.Equal(got, want) {
				t.Errorf("from %d %s: %q, want %q", from, how, got, want)
			}
		}
	}
}
