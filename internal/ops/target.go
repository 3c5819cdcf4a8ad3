package ops

import (
	"slices"
	"sync"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// What is remembered of the calls of a target.
const (
	maxCalls   = 256             // the latest
	callWindow = 5 * time.Minute // older ones don't count
)

// calls is what a target was seen to do. Its methods are safe for concurrent use.
type calls struct {
	mu    sync.Mutex
	list  []call // the latest, oldest first, at most maxCalls
	error string // the last one's, shortened
	errAt time.Time
}

type call struct {
	at     time.Time
	took   time.Duration
	failed bool
}

// Target is how one of the services stands that the worker calls, as this worker saw it.
type Target struct {
	Target       provision.Target `json:"target"`
	Calls        int              `json:"calls"`  // of the last five minutes, at most the latest 256
	Failed       int              `json:"failed"` // of these
	MedianMillis float64          `json:"medianMs"`
	SlowMillis   float64          `json:"p95Ms"` // 95 % took at most so long
	LastError    string           `json:"lastError,omitempty"`
	LastErrorAt  time.Time        `json:"lastErrorAt,omitzero"`
}

// Called notes a call of a target that took so long. What was not asked of it is not to be noted.
func (s *Status) Called(t provision.Target, took time.Duration, failed bool) {
	c := s.callsOf(t)
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, call{now, took, failed})
	if over := len(c.list) - maxCalls; over > 0 {
		c.list = slices.Delete(c.list, 0, over)
	}
}

// Erred notes the error of a target, which must hold no secret. The last one is shown.
func (s *Status) Erred(t provision.Target, err error) {
	c := s.callsOf(t)
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.error, c.errAt = shorten(err.Error(), maxReasonLen), now
}

func (s *Status) callsOf(t provision.Target) *calls {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil {
		s.calls = map[provision.Target]*calls{}
	}
	if s.calls[t] == nil {
		s.calls[t] = &calls{}
	}
	return s.calls[t]
}

// targets returns how all targets stand.
func (s *Status) targets(now time.Time) []Target {
	var list []Target
	for _, t := range []provision.Target{provision.TargetFlow, provision.TargetIMS, provision.TargetVault} {
		list = append(list, s.callsOf(t).summary(t, now))
	}
	return list
}

func (c *calls) summary(t provision.Target, now time.Time) Target {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := Target{Target: t, LastError: c.error, LastErrorAt: c.errAt}
	var took []time.Duration
	for _, each := range c.list {
		if now.Sub(each.at) > callWindow {
			continue
		}
		sum.Calls++
		if each.failed {
			sum.Failed++
		}
		took = append(took, each.took)
	}
	if slices.Sort(took); len(took) > 0 {
		sum.MedianMillis = millis(took[(len(took)-1)/2])
		sum.SlowMillis = millis(took[(len(took)-1)*95/100])
	}
	return sum
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
