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
	Repeat     bool             `json:"repeat,omitempty"` // only published again
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

// Done notes that the delivery is no longer worked on. A second call does nothing.
func (t *Task) Done() {
	t.status.mu.Lock()
	defer t.status.mu.Unlock()
	delete(t.status.inFlight, t)
}

// Concluded notes an outcome; repeat says that it was only published again. The latest are kept.
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
	if s.Sources.Queue != nil {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		if queue, err := s.Sources.Queue(ctx); err != nil {
			snap.QueueError = shorten(err.Error(), maxReasonLen)
		} else {
			snap.Queue = &queue
		}
	}
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

// What is remembered of the calls of a target.
const (
	maxCalls   = 256             // the latest
	callWindow = 5 * time.Minute // older ones don't count
)

// calls are the calls of one target.
type calls struct {
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
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.callsOf(t)
	c.list = append(c.list, call{time.Now(), took, failed})
	if over := len(c.list) - maxCalls; over > 0 {
		c.list = slices.Delete(c.list, 0, over)
	}
}

// Erred notes the error of a target, which must hold no secret. The last one is shown.
func (s *Status) Erred(t provision.Target, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.callsOf(t)
	c.error, c.errAt = shorten(err.Error(), maxReasonLen), time.Now()
}

// callsOf returns the calls of a target. The caller holds s.mu.
func (s *Status) callsOf(t provision.Target) *calls {
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
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Target
	for _, t := range []provision.Target{provision.TargetFlow, provision.TargetIMS, provision.TargetVault} {
		list = append(list, s.callsOf(t).summary(t, now))
	}
	return list
}

func (c *calls) summary(t provision.Target, now time.Time) Target {
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

// span is how far back a meter remembers, in seconds.
const span = 600

// meter counts, second by second, how requests ended. The zero value has counted nothing. It is not safe
// for concurrent use.
type meter struct {
	done, failed uint64 // since the start
	seconds      [span]ends
}

// ends is what one second saw.
type ends struct {
	second       int64 // since 1970: a slot is used again after span seconds
	done, failed int
}

func (m *meter) count(now time.Time, failed bool) {
	second := now.Unix()
	slot := &m.seconds[second%span]
	if slot.second != second {
		*slot = ends{second: second}
	}
	if failed {
		m.failed++
		slot.failed++
		return
	}
	m.done++
	slot.done++
}

// between returns the sums of the seconds [from, to).
func (m *meter) between(from, to int64) (done, failed int) {
	for second := max(from, to-span, 0); second < to; second++ {
		if slot := m.seconds[second%span]; slot.second == second {
			done, failed = done+slot.done, failed+slot.failed
		}
	}
	return done, failed
}

// perSecond returns how many requests ended per second, over the last whole minute or since the start.
func (m *meter) perSecond(now, since time.Time) float64 {
	window := min(max(now.Sub(since).Seconds(), 1), 60)
	done, failed := m.between(now.Unix()-int64(window)+1, now.Unix()+1)
	return float64(done+failed) / window
}

// barSeconds is how long each bar of the page's chart covers.
const barSeconds = 10

// Bar is one bar of the chart of ended requests.
type Bar struct {
	Done   int `json:"done"`
	Failed int `json:"failed"`
}

// bars returns the chart, oldest first; the last bar is not over yet. Bars begin at full ten seconds, so
// that what is counted once stays in its bar.
func (m *meter) bars(now time.Time) []Bar {
	end := now.Unix()/barSeconds*barSeconds + barSeconds
	list := make([]Bar, span/barSeconds)
	for i := range list {
		from := end - span + int64(i)*barSeconds
		list[i].Done, list[i].Failed = m.between(from, from+barSeconds)
	}
	return list
}
