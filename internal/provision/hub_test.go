package provision

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The tests here run a Hub on its own, without the simulation's scheduler, in bubbles whose time is
// testing/synctest's.

type plainSecrets struct{}

func (plainSecrets) Credentials(context.Context, string, bool) (Credentials, error) {
	return Credentials{Version: 1}, nil
}

func (plainSecrets) Resolve(context.Context, string, SecretRef, bool) (Secret, error) {
	return Secret{Value: NewSensitive("t"), Version: 1}, nil
}

// scriptedFlow answers by functions; a nil one succeeds.
type scriptedFlow struct {
	create func(context.Context, time.Time) error
	find   func() ([]Found, error)
}

func (scriptedFlow) Authorize(context.Context, Account) error { return nil }

func (f scriptedFlow) Create(ctx context.Context, _ Account, _ NewConnection, notAfter time.Time) (Connection, error) {
	if f.create != nil {
		if err := f.create(ctx, notAfter); err != nil {
			return Connection{}, err
		}
	}
	return Connection{ID: "c1"}, nil
}

func (f scriptedFlow) Find(context.Context, Account, Query) ([]Found, error) {
	if f.find != nil {
		return f.find()
	}
	return nil, nil
}

func (scriptedFlow) Get(_ context.Context, _ Account, id string) (Found, error) {
	return Found{Connection: Connection{ID: id}}, nil
}

func newTestHub(t testing.TB, change func(*Config)) *Hub {
	t.Helper()
	cfg := Config{
		Ledger: newMemLedger(), Secrets: plainSecrets{}, Connections: scriptedFlow{}, Instance: "w",
		FlowTimeout: simLease, Settle: simSettle, RetryInitial: time.Second, RetryDelayMax: 30 * time.Second,
		RetryElapsed: 2 * time.Minute, RedeliveryDelayMax: 15 * time.Minute, RequestDeadline: time.Hour,
	}
	if change != nil {
		change(&cfg)
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func delivery() Delivery {
	return Delivery{Request: testRequest(), Seq: 1, Delivered: 1, EnteredAt: time.Now()}
}

func TestNewNamesEverythingThatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := New(Config{})
	for _, name := range []string{"Ledger", "Secrets", "Connections", "Instance", "FlowTimeout", "Settle", "RequestDeadline"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s isn't named: %v", name, err)
		}
	}
}

func TestPanicIsTheRequestsOwnFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newTestHub(t, func(c *Config) { c.Secrets = explosive{} })
		out := h.Handle(t.Context(), delivery())
		if out.Result == nil {
			t.Fatalf("no outcome: %+v", out)
		}
		checkFailed(t, *out.Result, ReasonInternal)
		if h.InFlight() != 0 {
			t.Error("still in flight")
		}
	})
}

type explosive struct{ plainSecrets }

func (explosive) Credentials(context.Context, string, bool) (Credentials, error) { panic("boom") }

// TestPanicWithAnOpenPostIsLookedUpFirst: a panic after the POST was announced must not become a
// failure while a connection may exist.
func TestPanicWithAnOpenPostIsLookedUpFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newMemLedger()
		h := newTestHub(t, func(c *Config) {
			c.Ledger = l
			c.Connections = scriptedFlow{
				create: func(context.Context, time.Time) error { panic("boom") },
				find: func() ([]Found, error) {
					return []Found{{Connection: Connection{ID: "c1"}, Description: testRequest().Key.Mark()}}, nil
				},
			}
		})
		if out := h.Handle(t.Context(), delivery()); out.Result != nil {
			t.Fatalf("concluded: %+v", out.Result)
		}
		<-time.After(simLease + 2*ClockSkew)
		d := delivery()
		d.Delivered = 2
		out := h.Handle(t.Context(), d)
		if out.Result == nil {
			t.Fatalf("not concluded: %+v", out)
		}
		checkCreated(t, *out.Result, true, 1)
	})
}

func TestSecondCopyInOneProcessIsPutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		entered, proceed := make(chan struct{}), make(chan struct{})
		h := newTestHub(t, func(c *Config) {
			c.Connections = scriptedFlow{create: func(context.Context, time.Time) error {
				close(entered)
				<-proceed
				return nil
			}}
		})
		done := make(chan Outcome)
		go func() { done <- h.Handle(t.Context(), delivery()) }()
		<-entered
		d := delivery()
		d.Seq = 2
		if out := h.Handle(t.Context(), d); out.Result != nil || out.Delay <= 0 {
			t.Errorf("the copy was worked on: %+v", out)
		}
		close(proceed)
		if out := <-done; out.Result == nil || out.Result.Outcome != OutcomeCreated {
			t.Errorf("%+v", out)
		}
	})
}

// TestStoppingEndsWaitsButNoPost: when the worker stops, what waits is given back at once and what
// posts is finished.
func TestStoppingEndsWaitsButNoPost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stopping, stop := context.WithCancel(context.Background())
		defer stop()
		l := newMemLedger()
		h := newTestHub(t, func(c *Config) {
			c.Stopping, c.Ledger = stopping, l
			c.Connections = scriptedFlow{create: func(ctx context.Context, _ time.Time) error {
				stop()
				if ctx.Err() != nil {
					t.Error("the POST was cut")
				}
				return &CallError{Verdict: VerdictThrottled, Target: TargetFlow, Cause: CauseThrottled}
			}}
		})
		began := time.Now()
		out := h.Handle(t.Context(), delivery())
		if out.Result != nil || time.Since(began) > 0 {
			t.Errorf("waited %v, %+v", time.Since(began), out)
		}
		if l.record(testRequest().Key).Held || l.record(testRequest().Key).State != StateWaiting {
			t.Errorf("record is %s, held=%v", l.record(testRequest().Key).State, l.record(testRequest().Key).Held)
		}
	})
}

func TestHardEndDoesNotCutAPost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		h := newTestHub(t, func(c *Config) {
			c.Connections = scriptedFlow{create: func(ctx context.Context, _ time.Time) error {
				end()
				return ctx.Err()
			}}
		})
		if out := h.Handle(ctx, delivery()); out.Result == nil || out.Result.Outcome != OutcomeCreated {
			t.Errorf("%+v", out)
		}
	})
}

func TestClosedGateCostsNoChance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newMemLedger()
		posts := 0
		h := newTestHub(t, func(c *Config) {
			c.Ledger, c.Gate = l, shutGate{}
			c.Connections = scriptedFlow{create: func(context.Context, time.Time) error { posts++; return nil }}
		})
		out := h.Handle(t.Context(), delivery())
		if out.Result != nil || out.Delay < time.Minute || posts != 0 || l.record(testRequest().Key).Posts != 0 {
			t.Errorf("%+v after %d POSTs, %d recorded", out, posts, l.record(testRequest().Key).Posts)
		}
	})
}

type shutGate struct{}

func (shutGate) Allow(t Target, _ string) (func(CallEnd), time.Duration) {
	if t == TargetFlow {
		return nil, 2 * time.Minute
	}
	return func(CallEnd) {}, 0
}

// TestClosedIMSIsNotWaitedForInASlot: only this tenant needs a token just now; others may pass.
func TestClosedIMSIsNotWaitedForInASlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newMemLedger()
		h := newTestHub(t, func(c *Config) { c.Ledger, c.Connections = l, noToken{} })
		began := time.Now()
		out := h.Handle(t.Context(), delivery())
		if out.Result != nil || out.Delay < 5*time.Second || time.Since(began) > 0 {
			t.Errorf("%+v after %v", out, time.Since(began))
		}
		if rec := l.record(testRequest().Key); rec.Posts != 0 || rec.Held {
			t.Errorf("%d POSTs, held=%v", rec.Posts, rec.Held)
		}
	})
}

type noToken struct{ scriptedFlow }

func (noToken) Authorize(context.Context, Account) error {
	return closedError(TargetIMS, 5*time.Second)
}

// TestAttemptsNameTheirOwner: who looks at the ledger wants to know which worker did what.
func TestAttemptsNameTheirOwner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newMemLedger()
		k := testRequest().Key
		l.put(Record{Key: k, State: StateClaimed, Fingerprint: "f1", Held: true, HeldSeq: 1, Owner: "dead", Deadline: time.Now().Add(time.Hour)})
		d := delivery()
		d.Delivered = 2
		newTestHub(t, func(c *Config) { c.Ledger = l }).Handle(t.Context(), d)
		for _, a := range l.record(k).Attempts {
			if a.Owner != "w" {
				t.Errorf("%s %s by %q", a.Step, a.Result, a.Owner)
			}
		}
	})
}

// TestMessageOutcomeIsTheSameWhenToldAgain: an outcome that isn't in the ledger is made anew for every
// delivery, so nothing in it may depend on when that is.
func TestMessageOutcomeIsTheSameWhenToldAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newTestHub(t, nil)
		d := delivery()
		d.Invalid, d.Detached, d.EventSalt = Fail(ReasonInvalidRequest, "a bad header"), true, "x"
		first := h.Handle(t.Context(), d)
		<-time.After(time.Minute)
		d.Delivered = 2
		if again := h.Handle(t.Context(), d); !reflect.DeepEqual(first.Result, again.Result) {
			t.Errorf("%+v\n%+v", first.Result, again.Result)
		}
	})
}

// TestNoSlotIsNoLostRecord: a message that no slot came free for is recorded, and so isn't taken for one whose
// record was lost when it comes back.
func TestNoSlotIsNoLostRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, finds, few := newMemLedger(), 0, &fewSlots{}
		h := newTestHub(t, func(c *Config) {
			c.Ledger, c.Slots = l, few
			c.Connections = scriptedFlow{find: func() ([]Found, error) { finds++; return nil, nil }}
		})
		out := h.Handle(t.Context(), delivery())
		rec := l.record(testRequest().Key)
		if out.Result != nil || out.Delay <= 0 || rec.Held || rec.HeldSeq != delivery().Seq {
			t.Fatalf("%+v, held=%v by message %d", out, rec.Held, rec.HeldSeq)
		}
		few.free = true
		d := delivery()
		d.Delivered = 2
		if out := h.Handle(t.Context(), d); out.Result == nil || finds != 0 {
			t.Errorf("%+v after %d look-ups", out, finds)
		}
		if few.out != 0 {
			t.Errorf("%d slots were not given back", few.out)
		}
	})
}

// TestSlotIsHeldForTheCallAlone: neither what comes before the POST nor what comes after holds it.
func TestSlotIsHeldForTheCallAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		few := &fewSlots{free: true}
		held := map[string]int{}
		note := func(what string) { held[what] = max(held[what], few.out) }
		h := newTestHub(t, func(c *Config) {
			c.Slots = few
			c.Secrets = secretsFunc(func(string) { note("secrets") })
			c.Ledger = watchedLedger{newMemLedger(), func(r Record) { note(string(r.State)) }}
			c.Connections = scriptedFlow{create: func(context.Context, time.Time) error { note("create"); return nil }}
		})
		for _, repeat := range []bool{false, true} {
			if out := h.Handle(t.Context(), delivery()); out.Result == nil || out.Repeat != repeat {
				t.Errorf("%+v, want repeat=%v", out, repeat)
			}
		}
		want := map[string]int{"secrets": 0, "create": 1, string(StatePosting): 1, string(StateCreated): 0}
		if diff := cmp.Diff(want, held); diff != "" || few.out != 0 {
			t.Errorf("slots held: %s\n%d not given back", diff, few.out)
		}
	})
}

type watchedLedger struct {
	*memLedger
	stored func(Record)
}

func (l watchedLedger) Store(ctx context.Context, key Key, rec Record, rev uint64) (uint64, error) {
	l.stored(rec)
	return l.memLedger.Store(ctx, key, rec, rev)
}

// fewSlots has some, or none before the context ends.
type fewSlots struct {
	free bool
	out  int
}

func (f *fewSlots) Acquire(ctx context.Context, _ string) (Slot, error) {
	if !f.free {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	f.out++
	return f, nil
}

func (*fewSlots) Begin(context.Context) error { return nil }

func (f *fewSlots) Release(bool) { f.out-- }

// TestOneSuspectAtATime: of the requests that killed two workers each, one is worked on at a time, beside all
// others, so that the next death tells which.
func TestOneSuspectAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newMemLedger()
		request := func(tenant string) Delivery {
			d := delivery()
			d.Request.Key.Tenant, d.Delivered = tenant, 2
			return d
		}
		for _, tenant := range []string{"one", "two"} {
			l.put(Record{Key: request(tenant).Request.Key, State: StateClaimed, Fingerprint: "f1", Held: true, HeldSeq: 1, Deaths: 1, Owner: "dead",
				HeldUntil: time.Now().Add(time.Hour), Deadline: time.Now().Add(time.Hour)})
		}
		let := make(chan struct{})
		h := newTestHub(t, func(c *Config) {
			c.Ledger = l
			c.Secrets = secretsFunc(func(tenant string) {
				if tenant == "one" {
					<-let
				}
			})
		})
		first := make(chan Outcome)
		go func() { first <- h.Handle(t.Context(), request("one")) }()
		synctest.Wait()
		if out := h.Handle(t.Context(), request("two")); out.Result != nil || out.Delay <= 0 || out.Delay > firstWriteWait {
			t.Errorf("a second suspect: %+v, want it back soon", out)
		}
		if out := h.Handle(t.Context(), delivery()); out.Result == nil {
			t.Errorf("another request: %+v, want it worked on", out)
		}
		close(let)
		if out := <-first; out.Result == nil || !l.record(request("one").Request.Key).Alone {
			t.Errorf("%+v, alone=%v", out, l.record(request("one").Request.Key).Alone)
		}
		if out := h.Handle(t.Context(), request("two")); out.Result == nil {
			t.Errorf("the second suspect after the first: %+v", out)
		}
	})
}

type secretsFunc func(tenant string)

func (f secretsFunc) Credentials(_ context.Context, tenant string, _ bool) (Credentials, error) {
	f(tenant)
	return Credentials{}, nil
}

func (secretsFunc) Resolve(context.Context, string, SecretRef, bool) (Secret, error) {
	return Secret{}, nil
}

func TestLedgerDownGivesTheMessageBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		posts := 0
		h := newTestHub(t, func(c *Config) {
			c.Ledger = brokenLedger{}
			c.Connections = scriptedFlow{create: func(context.Context, time.Time) error { posts++; return nil }}
		})
		if out := h.Handle(t.Context(), delivery()); out.Result != nil || out.Delay <= 0 || posts != 0 {
			t.Errorf("%+v after %d POSTs", out, posts)
		}
	})
}

type brokenLedger struct{}

func (brokenLedger) Load(context.Context, Key) (Record, uint64, error) {
	return Record{}, 0, errors.New("timeout")
}

func (brokenLedger) Store(context.Context, Key, Record, uint64) (uint64, error) {
	return 0, errors.New("timeout")
}
