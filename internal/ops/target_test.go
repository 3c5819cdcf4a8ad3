package ops

import (
	"context"
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
		if words, tone := doing(c.target, Breaker{State: c.breaker}); words != c.words || tone != c.tone {
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
