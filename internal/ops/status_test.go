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

func TestTargets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &Status{}
		s.Called(provision.TargetFlow, time.Hour, true) // too old, in the end
		<-time.After(callWindow)
		for i := range 100 {
			s.Called(provision.TargetFlow, time.Duration(i+1)*time.Millisecond, i < 3)
		}
		s.Erred(provision.TargetIMS, errors.New("HTTP 503\n\tsorry "+strings.Repeat("x", 1000)))
		at := time.Now()
		<-time.After(time.Second)
		got := s.targets(time.Now())
		if n := len(got[1].LastError); n > maxReasonLen+len("…") || !strings.HasPrefix(got[1].LastError, "HTTP 503 sorry xxx") {
			t.Errorf("the error is %q", got[1].LastError)
		}
		got[1].LastError = ""
		want := []Target{
			{Target: provision.TargetFlow, Calls: 100, Failed: 3, MedianMillis: 50, SlowMillis: 95},
			{Target: provision.TargetIMS, LastErrorAt: at}, {Target: provision.TargetVault}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestTargetsAreBounded(t *testing.T) {
	t.Parallel()
	s := &Status{}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range maxCalls {
				s.Called(provision.TargetVault, time.Duration(i), true)
				s.Erred(provision.TargetVault, fmt.Errorf("error %d", i))
				s.targets(time.Now())
			}
		})
	}
	all.Wait()
	if got := s.targets(time.Now())[2]; got.Calls != maxCalls || got.Failed != maxCalls || len(s.calls[provision.TargetVault].list) > maxCalls {
		t.Errorf("got %+v", got)
	}
}

// What a target does is told in words, and loudly where its circuit is open.
func TestTargetsInWords(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		target      Target
		breaker     string
		words, tone string
	}{
		"idle": {Target{}, "closed", "not asked lately", ""}, "idle and unknown": {Target{}, "", "not asked lately", ""},
		"well": {Target{Calls: 3}, "closed", "answers", "good"}, "shaky": {Target{Calls: 3, Failed: 1}, "closed", "answers, not always", "odd"},
		"down": {Target{Calls: 3, Failed: 3}, "closed", "fails", "bad"}, "open": {Target{Calls: 3}, "open", "circuit open: left alone", "bad"},
		"probed": {Target{}, "half-open", "circuit half-open: left alone", "bad"},
	} {
		if words, tone := targetState(c.target, Breaker{State: c.breaker}); words != c.words || tone != c.tone {
			t.Errorf("%s: %q, %q, want %q, %q", name, words, tone, c.words, c.tone)
		}
	}
	s := &Status{Sources: Sources{Breakers: func() []Breaker { return []Breaker{{Target: provision.TargetIMS, State: "open"}} }}}
	s.Called(provision.TargetVault, 1500*time.Microsecond, false)
	rows := targetRows(s.Snapshot(context.Background()))
	if len(rows) != 3 || rows[1].Name != "Adobe IMS" || rows[1].Tone != "bad" || rows[2].Median != "1 ms" || rows[2].Calls != "1" || rows[0].Median != "" {
		t.Errorf("got %+v", rows)
	}
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestMeter(t *testing.T) {
	t.Parallel()
	var m meter
	for s := range 120 { // one a second, every fourth failed
		m.count(noon.Add(time.Duration(s)*time.Second), s%4 == 0)
	}
	now := noon.Add(119 * time.Second)
	if m.done != 90 || m.failed != 30 {
		t.Errorf("got %d done and %d failed", m.done, m.failed)
	}
	if got := m.perSecond(now, noon); got != 1 {
		t.Errorf("got %v per second, want 1", got)
	}
	if got := m.perSecond(now.Add(30*time.Second), noon); got != 0.5 {
		t.Errorf("half a minute later: got %v per second, want 0.5", got)
	}
	bars := m.bars(now)
	if len(bars) != 60 || bars[59] != (Bar{8, 2}) && bars[59] != (Bar{7, 3}) || bars[47] != (Bar{}) {
		t.Errorf("got %v", bars)
	}
	sum := Bar{}
	for _, b := range bars {
		sum.Done, sum.Failed = sum.Done+b.Done, sum.Failed+b.Failed
	}
	if sum != (Bar{90, 30}) {
		t.Errorf("the bars hold %v", sum)
	}
}

// What was counted long ago counts no more, though its place is not used again.
func TestMeterForgets(t *testing.T) {
	t.Parallel()
	var m meter
	m.count(noon, false)
	for _, later := range []time.Duration{span * time.Second, time.Hour, 24 * time.Hour} {
		now := noon.Add(later)
		for i, b := range m.bars(now) {
			if b != (Bar{}) {
				t.Errorf("%v later: bar %d is %v", later, i, b)
			}
		}
		if got := m.perSecond(now, noon); got != 0 {
			t.Errorf("%v later: %v per second", later, got)
		}
	}
	m.count(noon.Add(span*time.Second), true) // the same place
	if done, failed := m.between(noon.Unix(), noon.Unix()+1); done != 0 || failed != 0 {
		t.Errorf("the first second holds %d and %d", done, failed)
	}
	if m.done != 1 || m.failed != 1 {
		t.Errorf("got %d and %d in all", m.done, m.failed)
	}
}

// A worker that has just begun is not made to look idle.
func TestMeterAtTheStart(t *testing.T) {
	t.Parallel()
	var m meter
	for range 10 {
		m.count(noon, false)
	}
	for up, want := range map[time.Duration]float64{0: 10, 500 * time.Millisecond: 10, 5 * time.Second: 2, 20 * time.Second: 0.5} {
		var fresh meter
		for range 10 {
			fresh.count(noon.Add(up), false)
		}
		if got := fresh.perSecond(noon.Add(up), noon); got != want {
			t.Errorf("after %v: %v per second, want %v", up, got, want)
		}
	}
}
