package ops

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

const (
	maxOutcomes   = 50  // remembered
	maxInFlight   = 200 // shown
	maxMessageLen = 500 // bytes of a message that is shown
)

// Status gathers what the status page shows. Set its fields before it is used; its methods are safe
// for concurrent use.
type Status struct {
	Version  string    // of the program
	Instance string    // which process this is
	Since    time.Time // when it started
	Health   *Health
	Sources  Sources

	mu       sync.Mutex
	inFlight map[*Task]bool              // :: task → true; guarded by mu, and so is the rest
	outcomes []Concluded                 // the latest, oldest first, at most maxOutcomes
	meter    meter                       // of what was concluded here, repeats left out
	calls    map[provision.Target]*calls // :: target → what it was seen to do
}

// Sources are functions that the status page asks at every look. A nil one leaves its part out.
type Sources struct {
	Queue     func(context.Context) (Queue, error)
	Breakers  func() []Breaker
	ResumesIn func() time.Duration // until a pause ends by itself; 0 if there is none
	Ledger    Ledger
}

// Queue is how the requests' queue stands.
type Queue struct {
	Pending       uint64  `json:"pending"`       // never delivered yet
	AckPending    uint64  `json:"ackPending"`    // delivered, not settled
	Redelivered   uint64  `json:"redelivered"`   // of these, delivered more than once
	OldestSeconds float64 `json:"oldestSeconds"` // age of the oldest message
}

// Breaker is how the circuit breaker of one target stands.
type Breaker struct {
	Target provision.Target `json:"target"`
	Scope  string           `json:"scope,omitempty"` // which of several, such as a host; no secret
	State  string           `json:"state"`           // "closed", "half-open" or "open"
}

// Task is one delivery in work.
type Task struct {
	status *Status
	key    provision.Key
	seq    uint64
	since  time.Time
	state  provision.State // guarded by status.mu; empty until it is known
}

// InFlight is a Task as it is shown.
type InFlight struct {
	Key     provision.Key   `json:"key"`
	Seq     uint64          `json:"seq"`
	State   provision.State `json:"state,omitempty"`
	Since   time.Time       `json:"since"`
	Seconds float64         `json:"seconds"` // in work
}

// Concluded is an outcome as it is shown.
type Concluded struct {
	Key        provision.Key    `json:"key"`
	Outcome    string           `json:"outcome"`
	Repeat     bool             `json:"repeat,omitempty"` // only told again
	Adopted    bool             `json:"adopted,omitempty"`
	Connection string           `json:"connection,omitempty"` // its id
	Reason     provision.Reason `json:"reason,omitempty"`
	Message    string           `json:"message,omitempty"` // shortened
	Attempts   int              `json:"attempts"`
	At         time.Time        `json:"at"`
}

// Started notes that a delivery is worked on now. The caller must call Task.Done when it no longer
// is, whatever became of it.
func (s *Status) Started(key provision.Key, seq uint64) *Task {
	t := &Task{status: s, key: key, seq: seq, since: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inFlight == nil {
		s.inFlight = map[*Task]bool{}
	}
	s.inFlight[t] = true
	return t
}

// Reached notes the state that the request is in.
func (t *Task) Reached(state provision.State) {
	t.status.mu.Lock()
	defer t.status.mu.Unlock()
	t.state = state
}

// Done notes that the delivery is worked on no more. A second call does nothing.
func (t *Task) Done() {
	t.status.mu.Lock()
	defer t.status.mu.Unlock()
	delete(t.status.inFlight, t)
}

// Concluded notes an outcome; repeat says that it was only told again. The latest are kept.
func (s *Status) Concluded(r provision.Result, repeat bool) {
	c := Concluded{
		Key:      provision.Key{Tenant: r.Tenant, Source: r.Request.Source, ID: r.Request.ID},
		Outcome:  r.Outcome,
		Repeat:   repeat,
		Adopted:  r.Adopted,
		Attempts: r.Attempts,
		At:       r.CompletedAt,
	}
	if r.Connection != nil {
		c.Connection = r.Connection.ID
	}
	if r.Error != nil {
		c.Reason, c.Message = r.Error.Reason, shorten(r.Error.Message, maxMessageLen)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !repeat {
		s.meter.count(time.Now(), r.Error != nil)
	}
	s.outcomes = append(s.outcomes, c)
	if over := len(s.outcomes) - maxOutcomes; over > 0 {
		s.outcomes = slices.Delete(s.outcomes, 0, over)
	}
}

// Snapshot is all that the status page shows at one moment; it is the body of /status.json.
type Snapshot struct {
	At            time.Time   `json:"at"`
	Version       string      `json:"version"`
	Instance      string      `json:"instance,omitempty"`
	Since         time.Time   `json:"since"`
	UptimeSeconds float64     `json:"uptimeSeconds"`
	Health        Report      `json:"health"`
	Queue         *Queue      `json:"queue,omitempty"`
	QueueError    string      `json:"queueError,omitempty"`
	ResumesIn     float64     `json:"resumesInSeconds,omitempty"`
	Breakers      []Breaker   `json:"breakers,omitempty"`
	Targets       []Target    `json:"targets"`
	Done          uint64      `json:"done"` // by this process, repeats left out; and so are the rest
	Failed        uint64      `json:"failed"`
	PerSecond     float64     `json:"perSecond"` // ended, over the last minute
	Bars          []Bar       `json:"bars"`      // ended in the last ten minutes, by ten seconds, the oldest first
	InFlightTotal int         `json:"inFlightTotal"`
	InFlight      []InFlight  `json:"inFlight"` // the oldest first, at most 200
	Outcomes      []Concluded `json:"outcomes"` // the latest first, at most 50
}

// Snapshot asks all sources and returns what they say. It takes no longer than Health.Report may, and
// the queue's source heeds its context.
func (s *Status) Snapshot(ctx context.Context) Snapshot {
	now := time.Now()
	snap := Snapshot{At: now, Version: s.Version, Instance: s.Instance, Since: s.Since, UptimeSeconds: now.Sub(s.Since).Seconds()}
	if s.Health != nil {
		snap.Health = s.Health.Report(ctx)
	}
	s.askQueue(ctx, &snap)
	if s.Sources.Breakers != nil {
		snap.Breakers = s.Sources.Breakers()
	}
	if s.Sources.ResumesIn != nil {
		snap.ResumesIn = s.Sources.ResumesIn().Seconds()
	}
	snap.Targets = s.targets(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	snap.Done, snap.Failed, snap.PerSecond, snap.Bars = s.meter.done, s.meter.failed, s.meter.perSecond(now, s.Since), s.meter.bars(now)
	snap.InFlightTotal = len(s.inFlight)
	snap.InFlight = s.shownInFlight(now)
	snap.Outcomes = append([]Concluded{}, s.outcomes...)
	slices.Reverse(snap.Outcomes)
	return snap
}

func (s *Status) askQueue(ctx context.Context, snap *Snapshot) {
	if s.Sources.Queue == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, DefaultCheckTimeout)
	defer cancel()
	queue, err := s.Sources.Queue(ctx)
	if err != nil {
		snap.QueueError = shorten(err.Error(), maxReasonLen)
		return
	}
	snap.Queue = &queue
}

// shownInFlight returns the oldest tasks. The caller holds s.mu.
func (s *Status) shownInFlight(now time.Time) []InFlight {
	tasks := slices.SortedFunc(maps.Keys(s.inFlight), func(a, b *Task) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.seq, b.seq))
	})
	out := make([]InFlight, min(len(tasks), maxInFlight))
	for i := range out {
		t := tasks[i]
		out[i] = InFlight{Key: t.key, Seq: t.seq, State: t.state, Since: t.since, Seconds: now.Sub(t.since).Seconds()}
	}
	return out
}
