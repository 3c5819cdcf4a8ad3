package limit

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Object is what the worker writes to at the broker.
type Object string

// The objects.
const (
	ObjectLedger      Object = "ledger"
	ObjectResults     Object = "results"
	ObjectDeadLetters Object = "deadletters"
	ObjectAcks        Object = "acks" // acknowledgements of requests
)

// Objects are all of them.
var Objects = []Object{ObjectLedger, ObjectResults, ObjectDeadLetters, ObjectAcks}

// Probe finds out whether an object takes writes.
type Probe struct {
	// Call returns nil where nothing speaks against it, ErrUnprobed where it could not find out.
	Call func(context.Context) error
	// Proves says that Call wrote, so that its success is that of a write. Otherwise a request has to
	// write before the object counts as healthy again.
	Proves bool
}

// ErrUnprobed means that a probe found nothing out, such as because NATS is not connected.
var ErrUnprobed = errors.New("not probed")

// WritesConfig says when an object counts as one that takes no writes. The zero value is usable.
type WritesConfig struct {
	// Failures is how many writes must have failed in a row. 0 means 3. A probe that writes counts as one, and
	// begins with the first failure.
	Failures int
	// Span is how long after the first of them the last one must have failed. 0 means 5 s.
	Span time.Duration
	// Every is the time between two probes of an object whose last write failed. 0 means 2 s.
	Every time.Duration
	// Idle is how long after its last write an object is probed all the same, where the probe writes:
	// a worker without requests has to notice, too. 0 means a minute.
	Idle time.Duration
	// Quiet is after how long without another failure the earlier ones don't count any more. That makes an
	// object healthy whose probe doesn't write, where no request comes by. 0 means 70 s: what could not be
	// published is published again after half of that.
	Quiet time.Duration

	Registerer prometheus.Registerer // nil means no metrics
	Log        *slog.Logger          // nil means no log
}

// ProbeTimeout is how long a probe may take.
const ProbeTimeout = 2 * time.Second

// trialEvery is the time between two requests that are taken as a trial.
const trialEvery = 10 * time.Second

// Writes notices which objects of the broker take no writes, although they can be read. While there is
// one, the intake stops. It is safe for concurrent use.
//
// An object becomes healthy again by a write that is confirmed. While no requests are taken in, that is the
// probe's, or, where the probe can't write, that of a single request, which is taken once the probe finds
// nothing wrong.
type Writes struct {
	cfg     WritesConfig
	changed func()        // wakes who waits for Permits
	soon    chan struct{} // holds one value where a probe is due

	mu     sync.Mutex
	health map[Object]*writeHealth
	gauge  *prometheus.GaugeVec
}

// writeHealth is guarded by Writes.mu.
type writeHealth struct {
	failures int       // in a row
	first    time.Time // of these
	last     time.Time
	err      error     // of the last
	failing  bool      // it takes no writes
	trial    bool      // it is failing, but its probe finds nothing wrong
	granted  time.Time // when a request was last taken as a trial
	written  time.Time // when it last took a write; zero if it never did
}

// Failing is an object that takes no writes.
type Failing struct {
	Object Object
	Since  time.Time // of the first write that failed
	Err    error     // of the last one
}

// NewWrites returns a Writes to which all objects are healthy.
func NewWrites(cfg WritesConfig) *Writes {
	cfg.Failures, cfg.Span = cmp.Or(cfg.Failures, 3), cmp.Or(cfg.Span, 5*time.Second)
	cfg.Every, cfg.Idle = cmp.Or(cfg.Every, 2*time.Second), cmp.Or(cfg.Idle, time.Minute)
	cfg.Quiet = cmp.Or(cfg.Quiet, 70*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	w := &Writes{cfg: cfg, health: map[Object]*writeHealth{}, changed: func() {}, soon: make(chan struct{}, 1)}
	w.gauge = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "flow_worker_writes_failing",
		Help: "1 while the object takes no writes: the ledger, the stream of results or of dead letters, or the consumer (acks). The intake is stopped then.",
	}, []string{"object"})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(w.gauge)
	}
	for _, o := range Objects {
		w.health[o] = &writeHealth{}
		w.gauge.WithLabelValues(string(o)).Set(0)
	}
	return w
}

// Wrote notes how a write to the object, or a probe that writes, ended. It is not for what says nothing of the
// object, such as a lost compare-and-set, or a connection that is down.
func (w *Writes) Wrote(o Object, err error) {
	w.mu.Lock()
	h := w.health[o]
	before := *h
	if err == nil {
		*h = writeHealth{written: time.Now()}
	} else {
		h.failed(time.Now(), err, w.cfg)
	}
	after := *h
	if after.failing != before.failing { // whoever sees the one sees the other
		w.gauge.WithLabelValues(string(o)).Set(map[bool]float64{true: 1}[after.failing])
	}
	w.mu.Unlock()
	switch {
	case after.failing && !before.failing:
		w.cfg.Log.Warn("no requests are taken in, because the broker takes no writes", "object", o, "since", after.first, "error", err)
	case before.failing && !after.failing:
		w.cfg.Log.Warn("the broker takes writes again", "object", o)
	}
	if before.failing != after.failing || before.trial != after.trial {
		w.changed()
	}
	if err != nil {
		select {
		case w.soon <- struct{}{}:
		default:
		}
	}
}

// failed notes a failure. It ends a trial.
func (h *writeHealth) failed(now time.Time, err error, cfg WritesConfig) {
	if !h.failing && now.Sub(h.last) > cfg.Quiet {
		h.failures = 0 // that was another trouble
	}
	if h.failures == 0 {
		h.first = now
	}
	h.failures++
	h.last, h.err, h.trial = now, err, false
	h.failing = h.failing || h.failures >= cfg.Failures && now.Sub(h.first) >= cfg.Span
}

// Failing returns the objects that take no writes.
func (w *Writes) Failing() []Failing {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []Failing
	for _, o := range Objects {
		if h := w.health[o]; h.failing {
			list = append(list, Failing{o, h.first, h.err})
		}
	}
	return list
}

// permits says how many of free requests the intake may take: none while an object takes no writes, one
// every trialEvery as a trial once its probe finds nothing wrong. again is when to ask again, 0 when
// something changes.
func (w *Writes) permits(free int) (n int, again time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	trial := false
	for _, h := range w.health {
		switch {
		case h.failing && !h.trial:
			return 0, 0
		case h.failing && now.Sub(h.granted) < trialEvery:
			return 0, trialEvery - now.Sub(h.granted)
		}
		trial = trial || h.failing
	}
	if !trial || free < 1 {
		return free, 0
	}
	for _, h := range w.health {
		h.granted = now
	}
	return 1, 0
}

// Run probes the objects that may take no writes, until ctx ends.
func (w *Writes) Run(ctx context.Context, probes map[Object]Probe) {
	for {
		w.probeDue(ctx, probes)
		wait := time.Duration((0.75 + rand.Float64()/2) * float64(w.cfg.Every)) // spreads a fleet's probes
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		if w.healthy() {
			select {
			case <-time.After(w.cfg.Idle / 4):
			case <-w.soon:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (w *Writes) healthy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !slices.ContainsFunc(Objects, func(o Object) bool { return w.health[o].failures > 0 })
}

// probeDue probes, side by side, each object that takes no writes, and by a probe that writes each whose last write
// failed, and each that is idle.
func (w *Writes) probeDue(ctx context.Context, probes map[Object]Probe) {
	var all sync.WaitGroup
	defer all.Wait()
	for o, p := range probes {
		if !w.due(o, p) {
			continue
		}
		all.Go(func() {
			within, cancel := context.WithTimeout(ctx, ProbeTimeout)
			defer cancel()
			err := p.Call(within)
			switch {
			case errors.Is(err, ErrUnprobed) || ctx.Err() != nil:
			case err != nil || p.Proves:
				w.Wrote(o, err)
			default:
				w.foundNothing(o)
			}
		})
	}
}

func (w *Writes) due(o Object, p Probe) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.health[o]
	return h.failing || p.Proves && (h.failures > 0 || time.Since(h.written) >= w.cfg.Idle)
}

// Proved reports whether the object ever took a write.
func (w *Writes) Proved(o Object) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.health[o].written.IsZero()
}

// foundNothing follows a probe that didn't write and found nothing wrong.
func (w *Writes) foundNothing(o Object) {
	w.mu.Lock()
	h := w.health[o]
	quiet := time.Since(h.last) >= w.cfg.Quiet
	begins := h.failing && !h.trial
	h.trial = h.failing
	w.mu.Unlock()
	if quiet { // nobody has anything to write, and nothing speaks against it
		w.Wrote(o, nil)
	} else if begins {
		w.changed()
	}
}
