package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func key(id string) provision.Key { return provision.Key{Tenant: "acme", Source: "/portal", ID: id} }

func failed(id, message string) provision.Result {
	return provision.Result{Outcome: provision.OutcomeFailed, Tenant: "acme", Request: provision.RequestID{ID: id, Source: "/portal"},
		Attempts: 2, CompletedAt: time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC), Error: provision.Fail(provision.ReasonFlowRejected, message)}
}

func created(id string) provision.Result {
	return provision.Result{Outcome: provision.OutcomeCreated, Tenant: "acme", Request: provision.RequestID{ID: id, Source: "/portal"},
		Attempts: 1, Adopted: true, Connection: &provision.Connection{ID: "c-" + id}}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		health := &Health{Paused: func() bool { return true }}
		health.Add("nats", fine)
		s := &Status{Version: "1.2.3", Since: start, Health: health, Sources: Sources{
			Queue:    func(context.Context) (Queue, error) { return Queue{Pending: 3, OldestSeconds: 1.5}, nil },
			Breakers: func() []Breaker { return []Breaker{{Target: provision.TargetFlow, State: "open"}} },
		}}
		first := s.Started(key("a"), 7)
		<-time.After(time.Minute) // of the bubble's own time
		twin := s.Started(key("a"), 8)
		first.Reached(provision.StatePosting)
		s.Concluded(failed("b", "no"), false)
		s.Concluded(created("c"), true)
		want := Snapshot{
			At: start.Add(time.Minute), Version: "1.2.3", Since: start, UptimeSeconds: 60, Failed: 1, PerSecond: 1.0 / 60,
			Targets:  []Target{{Target: provision.TargetFlow}, {Target: provision.TargetIMS}, {Target: provision.TargetVault}},
			Bars:     make([]Bar, 60),
			Health:   Report{Ready: true, Paused: true, Note: pausedNote, Checks: []CheckResult{{Name: "nats", OK: true}}},
			Queue:    &Queue{Pending: 3, OldestSeconds: 1.5},
			Breakers: []Breaker{{Target: provision.TargetFlow, State: "open"}}, InFlightTotal: 2,
			InFlight: []InFlight{
				{Key: key("a"), Seq: 7, State: provision.StatePosting, Since: start, Seconds: 60},
				{Key: key("a"), Seq: 8, Since: start.Add(time.Minute)}},
			Outcomes: []Concluded{
				{Key: key("c"), Outcome: "created", Repeat: true, Adopted: true, Connection: "c-c", Attempts: 1},
				{Key: key("b"), Outcome: "failed", Reason: provision.ReasonFlowRejected, Message: "no", Attempts: 2, At: failed("", "").CompletedAt}},
		}
		want.Bars[59].Failed = 1
		if diff := cmp.Diff(want, s.Snapshot(t.Context())); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		first.Done()
		first.Done()
		if got := s.Snapshot(t.Context()); got.InFlightTotal != 1 || got.InFlight[0].Seq != 8 {
			t.Errorf("after the first is done: %+v", got.InFlight)
		}
		twin.Done()
		if got := s.Snapshot(t.Context()); got.InFlightTotal != 0 || got.InFlight == nil {
			t.Errorf("after both are done: %+v", got.InFlight)
		}
	})
}

func TestStatusIsBounded(t *testing.T) {
	t.Parallel()
	var s Status
	for i := range maxInFlight + 10 {
		s.Started(key(fmt.Sprint(i)), uint64(i))
		s.Concluded(failed(fmt.Sprint(i), strings.Repeat("long ", 1000)), false)
	}
	got := s.Snapshot(t.Context())
	if got.InFlightTotal != maxInFlight+10 || len(got.InFlight) != maxInFlight || got.InFlight[0].Key.ID != "0" {
		t.Errorf("in flight: %d of %d, first %v", len(got.InFlight), got.InFlightTotal, got.InFlight[0])
	}
	if len(got.Outcomes) != maxOutcomes || got.Outcomes[0].Key.ID != "209" || got.Outcomes[maxOutcomes-1].Key.ID != "160" {
		t.Errorf("outcomes: %d, from %v", len(got.Outcomes), got.Outcomes[0].Key)
	}
	if n := len(got.Outcomes[0].Message); n > maxMessageLen+len("…") {
		t.Errorf("message of %d bytes", n)
	}
}

func TestQueueTrouble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &Status{Sources: Sources{Queue: func(ctx context.Context) (Queue, error) {
			<-ctx.Done()
			return Queue{}, errors.New("no responders")
		}}}
		got := s.Snapshot(t.Context())
		if got.Queue != nil || got.QueueError != "no responders" {
			t.Errorf("got %+v", got)
		}
		if body := ask(NewStatusHandler(s, StatusOptions{}), "GET", "/").Body.String(); !strings.Contains(body, "no responders") {
			t.Error("the page does not tell")
		}
	})
}

func TestStatusConcurrently(t *testing.T) {
	t.Parallel()
	var s Status
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 50 {
				task := s.Started(key("x"), uint64(i*50+j))
				task.Reached(provision.StateClaimed)
				s.Concluded(created("x"), false)
				s.Snapshot(t.Context())
				task.Done()
			}
		})
	}
	all.Wait()
	if got := s.Snapshot(t.Context()); got.InFlightTotal != 0 || len(got.Outcomes) != maxOutcomes {
		t.Errorf("%d in flight, %d outcomes", got.InFlightTotal, len(got.Outcomes))
	}
}

func TestStatusJSON(t *testing.T) {
	t.Parallel()
	var s Status
	s.Started(key("a"), 1)
	s.Concluded(failed("b", "<no>"), false)
	w := ask(NewStatusHandler(&s, StatusOptions{}), "GET", "/status.json")
	var got Snapshot
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
		t.Fatalf("%d %v", w.Code, err)
	}
	if got.InFlight[0].Key != key("a") || got.Outcomes[0].Message != "<no>" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("got %+v", got)
	}
}
