package provision

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a Hub needs. Ledger, Secrets and Connections must be set; every duration must be
// positive.
type Config struct {
	Ledger      Ledger
	Secrets     Secrets
	Connections Connections

	Clock    Clock        // nil means the wall clock
	Gate     Gate         // nil means that every target may be called at any time
	Slots    Slots        // nil means that any number of POSTs may be under way
	Observer Observer     // nil means nobody watches
	Log      *slog.Logger // nil means no log
	Rand     *rand.Rand   // source of jitter and nonces for tests; nil means the process's own

	// Instance names this process in the ledger. It must be new for every start of a process.
	Instance string
	// Stopping ends when the worker is asked to stop: from then on nothing is waited for any more,
	// what would have to wait is given back. Nil means never.
	Stopping context.Context

	FlowTimeout        time.Duration // how long one POST may run; the lease of an intent
	Settle             time.Duration // how long after its end an unknown POST is looked for
	RetryInitial       time.Duration // first wait between two tries
	RetryDelayMax      time.Duration // longest wait in process
	RetryElapsed       time.Duration // longest time of waiting in one delivery
	RedeliveryDelayMax time.Duration // longest rest of a message that was given back
	RequestDeadline    time.Duration // counted from the first try; at most MaxDeadline
	SecretGrace        time.Duration // how long a secret must have been missing before that is believed; 0 means at once

	// LedgerCreated is when the ledger came to be: a message that is older may have been worked on
	// under a ledger that is lost, so it is looked up before its first POST. Zero means long ago.
	LedgerCreated time.Time
	// LookFirstUntil returns until when every new request is looked up before its first POST, because
	// the ledger has lost records, or took the place of one that knew older requests. It is asked for
	// every new request, so it must be quick. Zero means never, and so does a nil LookFirstUntil.
	LookFirstUntil func() time.Time
}

// Limits that are not settings.
const (
	// MaxDeadline bounds every deadline, whoever asked for it.
	MaxDeadline = 7 * 24 * time.Hour
	// ClockSkew is how far apart the workers' clocks are assumed to be at most: another worker's
	// lease is over for us that much later.
	ClockSkew = 10 * time.Second
)

// Slots bounds the POSTs under way and shares them among tenants. It is safe for concurrent use.
type Slots interface {
	// Acquire waits until the tenant's next POST may be announced, or until ctx ends, whose cause is its error
	// then.
	Acquire(ctx context.Context, tenant string) (Slot, error)
}

// Slot is a place for one POST. A few more are given out than POSTs may be under way, so that one is announced
// already when another ends.
type Slot interface {
	// Begin waits until the POST may be sent, or until ctx ends, whose cause is its error then.
	Begin(ctx context.Context) error
	// Release gives the slot back. It must be called once, with whether the Flow Service throttled or failed
	// the call.
	Release(strained bool)
}

// Hub works on requests, any number at a time. It is safe for concurrent use.
type Hub struct {
	Config
	inHand  sync.Map      // :: Key → struct{}, what this process is working on
	active  atomic.Int64  // number of entries of inHand
	suspect chan struct{} // holds a value while a suspect is worked on: one at a time
	randMu  sync.Mutex    // guards Config.Rand
}

// New returns a Hub, or an error that names every field that is missing.
func New(cfg Config) (*Hub, error) {
	var errs []error
	for name, missing := range map[string]bool{
		"Ledger": cfg.Ledger == nil, "Secrets": cfg.Secrets == nil, "Connections": cfg.Connections == nil,
		"Instance": cfg.Instance == "",
	} {
		if missing {
			errs = append(errs, fmt.Errorf("provision: Config.%s is not set", name))
		}
	}
	for name, d := range map[string]time.Duration{
		"FlowTimeout": cfg.FlowTimeout, "Settle": cfg.Settle, "RetryInitial": cfg.RetryInitial,
		"RetryDelayMax": cfg.RetryDelayMax, "RetryElapsed": cfg.RetryElapsed,
		"RedeliveryDelayMax": cfg.RedeliveryDelayMax, "RequestDeadline": cfg.RequestDeadline,
	} {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("provision: Config.%s is %v; it must be positive", name, d))
		}
	}
	if cfg.Clock == nil {
		cfg.Clock = wallClock{}
	}
	if cfg.Gate == nil {
		cfg.Gate = openGate{}
	}
	if cfg.Slots == nil {
		cfg.Slots = freeSlots{}
	}
	if cfg.Observer == nil {
		cfg.Observer = blindObserver{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.LookFirstUntil == nil {
		cfg.LookFirstUntil = func() time.Time { return time.Time{} }
	}
	if cfg.Stopping == nil {
		cfg.Stopping = context.Background()
	}
	if cfg.SecretGrace < 0 {
		errs = append(errs, fmt.Errorf("provision: Config.SecretGrace is %v; it must not be negative", cfg.SecretGrace))
	}
	cfg.RequestDeadline = min(cfg.RequestDeadline, MaxDeadline)
	return &Hub{Config: cfg, suspect: make(chan struct{}, 1)}, errors.Join(errs...)
}

// Handle carries one delivery as far as it can be carried without waiting for minutes, and says what
// is to become of the message. It never panics: a panic below becomes the request's ReasonInternal.
// When ctx ends, Handle returns as soon as the call under way does; a POST is never cut.
func (h *Hub) Handle(ctx context.Context, d Delivery) (out Outcome) {
	t := newTask(h, d)
	defer func() { out.Attempts = t.rec.Posts }()
	defer t.recover(ctx, &out)
	if d.Invalid != nil && d.Detached {
		if d.Direct {
			return Outcome{Silent: true}
		}
		return t.detached(d.Invalid)
	}
	if _, twice := h.inHand.LoadOrStore(d.Request.Key, struct{}{}); twice {
		return giveBack(h.jitter(h.RetryDelayMax), "another copy of it is in this worker's hands")
	}
	h.active.Add(1)
	defer func() {
		h.active.Add(-1)
		h.inHand.Delete(d.Request.Key)
	}()
	defer func() {
		if t.alone {
			<-h.suspect
		}
	}()
	return t.run(ctx)
}

// InFlight returns how many requests are being worked on.
func (h *Hub) InFlight() int { return int(h.active.Load()) }

// recover turns a panic into the request's own failure. With a POST open it must be looked up
// first, so then the message only goes back; its record stays held, which counts as a death.
func (t *task) recover(ctx context.Context, out *Outcome) {
	p := recover()
	if p == nil {
		return
	}
	id := t.hub.nonce()[:12]
	t.log(slog.LevelError, "panic while working on a request",
		slog.String("log_id", id), slog.String("panic", fmt.Sprintf("%.200v", p)), slog.String("stack", string(debug.Stack())))
	if s := t.rec.State; s == "" || s == StatePosting || s == StateUnknown || s.Final() {
		*out = giveBack(t.hub.jitter(t.hub.RetryDelayMax), "panic, log id "+id)
		return
	}
	defer func() {
		if again := recover(); again != nil {
			*out = giveBack(t.hub.jitter(t.hub.RetryDelayMax), "panic twice, log id "+id)
		}
	}()
	t.fail(Fail(ReasonInternal, "a bug in flow-worker stopped this request; see the worker's log, log_id "+id))
	*out = t.steps(ctx, t.conclude)
}

func giveBack(d time.Duration, why string) Outcome { return Outcome{Delay: d, Why: why} }

// wallClock is the process's own time.
type wallClock struct{}

// Now implements Clock.
func (wallClock) Now() time.Time { return time.Now() }

// Sleep implements Clock. Its error is the context's cause.
func (wallClock) Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// freeSlots always has one.
type freeSlots struct{}

// Acquire implements Slots.
func (s freeSlots) Acquire(context.Context, string) (Slot, error) { return s, nil }

// Begin implements Slot.
func (freeSlots) Begin(context.Context) error { return nil }

// Release implements Slot.
func (freeSlots) Release(bool) {}

// blindObserver looks away.
type blindObserver struct{}

// Retried implements Observer.
func (blindObserver) Retried(Target, Cause) {}

// Reconciled implements Observer.
func (blindObserver) Reconciled(Reconciliation) {}
