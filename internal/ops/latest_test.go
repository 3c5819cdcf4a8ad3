package ops

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// memLedger is a Ledger in memory.
type memLedger struct {
	mu    sync.Mutex
	all   []Written // in the order of their revisions
	err   error     // of every call
	calls []string  // what was asked for
}

func (s *memLedger) note(format string, args ...any) error {
	s.calls = append(s.calls, fmt.Sprintf(format, args...))
	return s.err
}

// put writes a record; its revision is the next.
func (s *memLedger) put(rec provision.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := uint64(1)
	if n := len(s.all); n > 0 {
		next = s.all[n-1].Revision + 1
	}
	s.all = slices.DeleteFunc(s.all, func(w Written) bool { return w.Record.Key == rec.Key })
	s.all = append(s.all, Written{rec, next})
}

func (s *memLedger) Newest(context.Context) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.note("newest")
	if len(s.all) == 0 {
		return 0, err
	}
	return s.all[len(s.all)-1].Revision, err
}

func (s *memLedger) Since(_ context.Context, revision uint64) iter.Seq2[Written, error] {
	return func(yield func(Written, error) bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.note("since %d", revision); err != nil {
			yield(Written{}, err)
			return
		}
		for _, w := range s.all {
			if w.Revision >= revision && !yield(w, nil) {
				return
			}
		}
	}
}

func (s *memLedger) ByID(_ context.Context, id string) iter.Seq2[provision.Record, error] {
	return func(yield func(provision.Record, error) bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.note("by id %s", id); err != nil {
			yield(provision.Record{}, err)
			return
		}
		for _, w := range s.all {
			if w.Record.Key.ID == id && !yield(w.Record, nil) {
				return
			}
		}
	}
}

func (s *memLedger) Record(_ context.Context, key provision.Key) (provision.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.note("record %s", key); err != nil {
		return provision.Record{}, err
	}
	for _, w := range s.all {
		if w.Record.Key == key {
			return w.Record, nil
		}
	}
	return provision.Record{}, provision.ErrNoRecord
}

func (s *memLedger) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.calls = nil }()
	return s.calls
}

func record(id string, state provision.State) provision.Record {
	return provision.Record{Key: key(id), State: state, Name: "name of " + id, RequestedAt: noon, UpdatedAt: noon.Add(time.Second)}
}

func idsOf(requests []Request) (ids []string) {
	for _, r := range requests {
		ids = append(ids, r.Key.ID)
	}
	return ids
}

// A look reads only what is new, at most once a second, and only when somebody asks.
func TestLatest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ledger := &memLedger{}
		l := newLatest(ledger)
		look := func(wantIDs, wantCalls []string) {
			t.Helper()
			got, trouble := l.list(t.Context())
			if !slices.Equal(idsOf(got), wantIDs) || trouble != "" {
				t.Errorf("got %v, want %v; %s", idsOf(got), wantIDs, trouble)
			}
			if calls := ledger.asked(); !slices.Equal(calls, wantCalls) {
				t.Errorf("it asked for %q, want %q", calls, wantCalls)
			}
		}
		look(nil, []string{"newest"})
		<-time.After(lookEvery)
		ledger.put(record("a", provision.StateClaimed))
		ledger.put(record("b", provision.StateFailed))
		look([]string{"b", "a"}, []string{"newest", "since 1"})
		ledger.put(record("c", provision.StateClaimed))
		look([]string{"b", "a"}, nil) // too soon
		<-time.After(lookEvery)
		ledger.put(record("a", provision.StateCreated))
		look([]string{"a", "c", "b"}, []string{"newest", "since 3"})
		<-time.After(lookEvery)
		look([]string{"a", "c", "b"}, []string{"newest"}) // nothing new
		<-time.After(lookEvery)
		ledger.mu.Lock()
		ledger.all = nil // made anew
		ledger.mu.Unlock()
		ledger.put(record("z", provision.StateClaimed))
		look([]string{"z"}, []string{"newest", "since 1"})
	})
}

// However large the ledger, a look is short, and few of each state are remembered.
func TestLatestIsBounded(t *testing.T) {
	t.Parallel()
	ledger := &memLedger{}
	for i := range 3 * maxBehind {
		state := provision.StateCreated
		if i%100 == 0 {
			state = provision.StateFailed
		}
		ledger.all = append(ledger.all, Written{record(fmt.Sprint(i), state), uint64(i + 1)})
	}
	l := newLatest(ledger)
	got, trouble := l.list(t.Context())
	if trouble != "" || !slices.Equal(ledger.asked(), []string{"newest", fmt.Sprintf("since %d", 2*maxBehind+1)}) {
		t.Errorf("%s", trouble)
	}
	count := map[provision.State]int{}
	for _, r := range got {
		count[r.State]++
	}
	if count[provision.StateCreated] != maxPerState || count[provision.StateFailed] != maxBehind/100 {
		t.Errorf("got %v", count)
	}
	if got[0].Key.ID != fmt.Sprint(3*maxBehind-1) {
		t.Errorf("the first is %s", got[0].Key.ID)
	}
}

// What can't be read is told, and what was known is shown on.
func TestLatestInTrouble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ledger := &memLedger{}
		ledger.put(record("a", provision.StateClaimed))
		l := newLatest(ledger)
		l.list(t.Context())
		<-time.After(lookEvery)
		ledger.err = errors.New("no responders")
		for range 2 { // the second is not asked for again
			if got, trouble := l.list(t.Context()); len(got) != 1 || trouble != "no responders" {
				t.Errorf("got %v, %q", got, trouble)
			}
		}
		<-time.After(lookEvery)
		ledger.err = nil
		if got, trouble := l.list(t.Context()); len(got) != 1 || trouble != "" {
			t.Errorf("got %v, %q", got, trouble)
		}
	})
}

// slowLedger takes its time for every look.
type slowLedger struct {
	memLedger
	began chan struct{}
}

func (s *slowLedger) Newest(ctx context.Context) (uint64, error) {
	s.began <- struct{}{}
	<-ctx.Done()
	return 0, ctx.Err()
}

// Any number of people who look at once are one look, and none waits for longer than it may take.
func TestLatestIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ledger := &slowLedger{began: make(chan struct{}, 100)}
		l := newLatest(ledger)
		var all sync.WaitGroup
		start := time.Now()
		for range 50 {
			all.Go(func() {
				if _, trouble := l.list(t.Context()); trouble == "" {
					t.Error("no word of the trouble")
				}
			})
		}
		all.Wait()
		if took := time.Since(start); took != lookTimeout || len(ledger.began) != 1 {
			t.Errorf("%d looks, in %v", len(ledger.began), took)
		}
		synctest.Wait()
	})
}

func TestRequestOf(t *testing.T) {
	t.Parallel()
	rec := record("a", provision.StateWaiting)
	rec.LastFail = provision.Fail(provision.ReasonFlowUnavailable, "HTTP\n503")
	if got := requestOf(Written{rec, 7}); got.Hindrance != "HTTP 503" || got.Reason != "" || got.revision != 7 {
		t.Errorf("waiting: %+v", got)
	}
	rec.Final = &provision.FinalResult{Result: provision.Result{Adopted: true, Connection: &provision.Connection{ID: "c-1"}}}
	if got := requestOf(Written{Record: rec}); got.Hindrance != "" || got.Connection != "c-1" || !got.Adopted {
		t.Errorf("adopted: %+v", got)
	}
	rec.Final.Result = provision.Result{Error: provision.Fail(provision.ReasonFlowDenied, "no")}
	if got := requestOf(Written{Record: rec}); got.Hindrance != "no" || got.Reason != provision.ReasonFlowDenied || got.Connection != "" {
		t.Errorf("failed: %+v", got)
	}
}
