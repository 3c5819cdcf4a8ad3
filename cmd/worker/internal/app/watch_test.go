package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/ops"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// The status page reads the ledger that is open, and what another version wrote as far as it goes.
func TestTheStatusPageReadsTheLedger(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := &worker{}
	s := records{w}
	for _, err := range s.ByID(ctx, "a") {
		if !errors.Is(err, errNoLedger) {
			t.Errorf("no ledger: %v", err)
		}
	}
	w.js = openLedgerFor(ctx, t, w)
	if newest, err := s.Newest(ctx); err != nil || newest != 0 {
		t.Errorf("of an empty one: %d, %v", newest, err)
	}
	key := func(tenant, id string) provision.Key { return provision.Key{Tenant: tenant, Source: "s", ID: id} }
	var last uint64
	for _, k := range []provision.Key{key("acme", "a"), key("acme", "b"), key("globex", "a")} {
		rev, err := w.ledger.Load().Store(ctx, k, provision.Record{Key: k, State: provision.StateClaimed, Name: "n"}, 0)
		check(t, err)
		last = rev
	}
	kv, err := w.js.KeyValue(ctx, ledger.DefaultBucket)
	check(t, err)
	put(ctx, t, kv, "acme.s.newer", `{"key":{"tenant":"acme","source":"s","id":"newer"},"state":"claimed","name":"of tomorrow","colour":"red"}`)
	put(ctx, t, kv, "acme.s.odd", `{"of":"tomorrow"}`)
	if newest, err := s.Newest(ctx); err != nil || newest != last+2 {
		t.Errorf("the newest is %d, want %d; %v", newest, last+2, err)
	}
	var since []string
	for e, err := range s.Since(ctx, last) {
		check(t, err)
		since = append(since, e.Record.Key.String())
	}
	if want := []string{"globex.s.a", "acme.s.newer"}; !slices.Equal(since, want) {
		t.Errorf("since the last: %v, want %v", since, want)
	}
	var found []string
	for rec, err := range s.ByID(ctx, "a") {
		check(t, err)
		found = append(found, rec.Key.Tenant)
	}
	if slices.Sort(found); !slices.Equal(found, []string{"acme", "globex"}) {
		t.Errorf("by id: %v", found)
	}
	if rec, err := s.Record(ctx, key("acme", "newer")); err != nil || rec.Name != "of tomorrow" {
		t.Errorf("a newer one: %+v, %v", rec, err)
	}
	if _, err := s.Record(ctx, key("acme", "odd")); !errors.Is(err, ledger.ErrUndecodable) {
		t.Errorf("an odd one: %v", err)
	}
	if _, err := s.Record(ctx, key("acme", "none")); !errors.Is(err, provision.ErrNoRecord) {
		t.Errorf("none: %v", err)
	}
	check(t, w.js.DeleteKeyValue(ctx, ledger.DefaultBucket))
	if _, err := s.Newest(ctx); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("of one that is gone: %v", err)
	}
}

func put(ctx context.Context, t *testing.T, kv jetstream.KeyValue, key, value string) {
	t.Helper()
	_, err := kv.PutString(ctx, key, value)
	check(t, err)
}

// gate lets calls through, but for Vault's.
type gate struct{ ends []provision.CallEnd }

func (g *gate) Allow(t provision.Target, _ string) (func(provision.CallEnd), time.Duration) {
	if t == provision.TargetVault {
		return nil, time.Minute
	}
	return func(end provision.CallEnd) { g.ends = append(g.ends, end) }, 0
}

// What was asked of a target counts, with its time; what was not asked doesn't.
func TestCallsAreTimed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		inner, status := &gate{}, &ops.Status{}
		g := &watch{gate: inner, status: status}
		ends := []provision.CallEnd{provision.CallServed, provision.CallFailed, provision.CallVoid, provision.CallSpared}
		for i, end := range ends {
			done, _ := g.Allow(provision.TargetFlow, "acme")
			<-time.After(time.Duration(i+1) * time.Second)
			done(end)
		}
		if done, wait := g.Allow(provision.TargetVault, "acme"); done != nil || wait != time.Minute {
			t.Error("a closed gate is open")
		}
		got := status.Snapshot(t.Context()).Targets
		if got[0].Calls != 2 || got[0].Failed != 1 || got[0].MedianMillis != 1000 || got[2].Calls != 0 {
			t.Errorf("got %+v", got)
		}
		if !slices.Equal(inner.ends, ends) {
			t.Errorf("the breaker heard %v", inner.ends)
		}
	})
}

// sick fails every call as it is told to.
type sick struct{ err error }

func (s sick) Authorize(context.Context, provision.Account) error { return s.err }

func (s sick) Create(context.Context, provision.Account, provision.NewConnection, time.Time) (provision.Connection, error) {
	return provision.Connection{}, s.err
}

func (s sick) Find(context.Context, provision.Account, provision.Query) ([]provision.Found, error) {
	return nil, s.err
}

func (s sick) Get(context.Context, provision.Account, string) (provision.Found, error) {
	return provision.Found{}, s.err
}

func (s sick) Credentials(context.Context, string, bool) (provision.Credentials, error) {
	return provision.Credentials{}, s.err
}

func (s sick) Resolve(context.Context, string, provision.SecretRef, bool) (provision.Secret, error) {
	return provision.Secret{}, s.err
}

// A target's own errors are shown as its last; what tenants got wrong is not its error.
func TestErrorsOfTargets(t *testing.T) {
	t.Parallel()
	call := func(v provision.Verdict, err error) error {
		return &provision.CallError{Verdict: v, Target: provision.TargetIMS, Status: 503, Message: "down", Err: err}
	}
	secret := func(p provision.SecretProblem, cached bool) error {
		return fmt.Errorf("read: %w", &provision.SecretError{Problem: p, Cached: cached, Err: errors.New("down")})
	}
	for name, c := range map[string]struct {
		err    error
		target int // whose error it is, of those of the snapshot; -1 for nobody's
	}{
		"none": {nil, -1}, "unknown": {call(provision.VerdictUnknown, nil), 1}, "not sent": {call(provision.VerdictNotSent, nil), 1},
		"throttled": {call(provision.VerdictThrottled, nil), 1}, "rejected": {call(provision.VerdictRejected, nil), -1}, "denied": {call(provision.VerdictDenied, nil), -1},
		"circuit": {call(provision.VerdictNotSent, provision.ErrCircuitOpen), -1}, "not asked": {call(provision.VerdictNotSent, provision.ErrNotAsked), -1},
		"stopped": {call(provision.VerdictUnknown, context.Canceled), -1}, "other": {errors.New("down"), -1},
		"sealed": {secret(provision.SecretUnavailable, false), 2}, "vault denies": {secret(provision.SecretDenied, false), 2},
		"missing": {secret(provision.SecretMissing, false), -1}, "remembered": {secret(provision.SecretDenied, true), -1},
	} {
		as, ctx := provision.Account{Tenant: "acme"}, t.Context()
		for i := range 5 {
			status := &ops.Status{}
			w := &watch{secrets: sick{c.err}, connections: sick{c.err}, status: status}
			var err error
			switch i {
			case 0:
				err = w.Authorize(ctx, as)
			case 1:
				_, err = w.Create(ctx, as, provision.NewConnection{}, time.Time{})
			case 2:
				_, err = w.Find(ctx, as, provision.Query{})
			case 3:
				_, err = w.Credentials(ctx, "acme", false)
			case 4:
				_, err = w.Resolve(ctx, "acme", provision.SecretRef{}, false)
			}
			if !errors.Is(err, c.err) {
				t.Errorf("%s: call %d returns %v", name, i, err)
			}
			for j, target := range status.Snapshot(ctx).Targets {
				want := j == c.target && (i < 3) == (j < 2)
				if got := strings.HasPrefix(target.LastError, "for acme: ") && strings.Contains(target.LastError, "down"); got != want {
					t.Errorf("%s: call %d: %s's error is %q", name, i, target.Target, target.LastError)
				}
			}
		}
	}
}

// anyLedger takes every write, or none.
type anyLedger struct{ err error }

func (l anyLedger) Load(context.Context, provision.Key) (provision.Record, uint64, error) {
	return provision.Record{}, 0, l.err
}

func (l anyLedger) Store(context.Context, provision.Key, provision.Record, uint64) (uint64, error) {
	return 1, l.err
}

// The status page shows the state that was written for the very delivery, and of its calls' failures the
// consumer is told.
func TestStatesOfWhatIsInHand(t *testing.T) {
	t.Parallel()
	key, status := provision.Key{Tenant: "acme", Source: "s", ID: "a"}, &ops.Status{}
	var failed, wrote []error
	well := &watch{ledger: anyLedger{}, status: status, wrote: func(_ string, err error) { wrote = append(wrote, err) }, failed: func(err error) { failed = append(failed, err) }}
	sick := *well
	sick.ledger = anyLedger{provision.ErrConflict}
	_ = status.Started(key, 1)
	second := context.WithValue(t.Context(), taskKey{}, status.Started(key, 2))
	_, err := well.Store(second, key, provision.Record{Key: key, State: provision.StatePosting}, 0)
	check(t, err)
	if _, err := sick.Store(second, key, provision.Record{Key: key, State: provision.StateCreated}, 0); !errors.Is(err, provision.ErrConflict) {
		t.Error(err)
	}
	if _, _, err := sick.Load(second, key); !errors.Is(err, provision.ErrConflict) {
		t.Error(err)
	}
	_, err = well.Store(t.Context(), key, provision.Record{Key: key, State: provision.StateCreated}, 0) // of no delivery
	check(t, err)
	shown := status.Snapshot(t.Context()).InFlight
	if len(shown) != 2 || shown[0].State != "" || shown[1].State != provision.StatePosting {
		t.Errorf("in flight: %+v", shown)
	}
	if len(failed) != 2 || !slices.Equal(wrote, []error{nil, provision.ErrConflict, nil}) {
		t.Errorf("failed %v, wrote %v", failed, wrote)
	}
}
