package provision

import (
	"context"
	crand "crypto/rand"
	"encoding/hex"
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

// Hub works on requests, any number at a time. It is safe for concurrent use.
type Hub struct {
	Config
	decide  decider
	working sync.Map      // :: Key → struct{}, what this process is working on
	active  atomic.Int64  // number of entries of working
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
	return &Hub{Config: cfg, decide: decide, suspect: make(chan struct{}, 1)}, errors.Join(errs...)
}

// Handle carries one delivery as far as it can be carried without waiting for minutes, and says what
// is to become of the message. It never panics: a panic below becomes the request's ReasonInternal.
// When ctx ends, Handle returns as soon as the call under way does; a POST is never cut.
func (h *Hub) Handle(ctx context.Context, d Delivery) (out Outcome) {
	t := &task{hub: h, situation: situation{cfg: &h.Config, d: &d, started: h.Clock.Now(), phase: phaseStart}}
	defer func() { out.Attempts = t.rec.Posts }()
	defer t.recover(ctx, &out)
	if d.Invalid == nil || !d.Detached {
		if _, twice := h.working.LoadOrStore(d.Request.Key, struct{}{}); twice {
			return giveBack(h.jitter(h.RetryDelayMax), "another copy of it is being worked on in this process")
		}
		h.active.Add(1)
		defer func() {
			h.active.Add(-1)
			h.working.Delete(d.Request.Key)
		}()
	}
	defer t.letGo()
	return t.run(ctx, event{kind: evBegun})
}

// InFlight returns how many requests are being worked on.
func (h *Hub) InFlight() int { return int(h.active.Load()) }

// task carries out what decide wants done for one delivery. It belongs to one goroutine.
type task struct {
	situation
	hub  *Hub
	slot Slot          // nil unless the task has one
	done func(CallEnd) // of the call that the Gate allowed; nil unless it is yet to be told how that ended
}

// run decides, acts, and decides by what came of it, until there is an outcome.
func (t *task) run(ctx context.Context, ev event) Outcome {
	for {
		next := t.hub.decide(&t.situation, ev, t.hub.moment())
		t.report()
		if !t.phase.holdsSlot() {
			t.release(false)
		}
		if next.write {
			if err := t.store(ctx); err != nil {
				ev = event{kind: evUnwritten, err: err}
				if errors.Is(err, errLost) {
					ev = event{kind: evLost}
				}
				continue
			}
		}
		if next.do == doEnd {
			if t.d.Direct && next.out.Result != nil {
				next.out.Published = t.published
			}
			return next.out
		}
		ev = t.act(ctx, next)
	}
}

// moment returns what decide needs to know of the world.
func (h *Hub) moment() moment {
	return moment{now: h.Clock.Now(), chance: h.chance(), stopping: h.Stopping.Err() != nil, sole: h.active.Load() == 1, lookFirstUntil: h.LookFirstUntil()}
}

// report passes on what decide noticed.
func (t *task) report() {
	for _, n := range t.notices {
		switch {
		case n.reconciled != "":
			t.hub.Observer.Reconciled(n.reconciled)
		case n.target != "":
			t.hub.Observer.Retried(n.target, n.cause)
		default:
			t.log(n.level, n.msg, n.attrs...)
		}
	}
}

// log writes a line about the request.
func (t *task) log(level slog.Level, msg string, attrs ...slog.Attr) {
	ctx := context.Background()
	if t.hub.Log.Enabled(ctx, level) {
		//nolint:sloglint // the callers' are constants
		t.hub.Log.LogAttrs(ctx, level, msg, append(t.d.Purpose(t.rec.Posts).Attrs(), attrs...)...)
	}
}

// letGo gives back all that the task has, however it ended.
func (t *task) letGo() {
	t.release(false)
	if t.alone {
		<-t.hub.suspect
		t.alone = false
	}
}

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
	*out = t.run(ctx, event{kind: evPanicked, logID: id})
}

func giveBack(d time.Duration, why string) Outcome { return Outcome{Delay: d, Why: why} }

// chance returns a random number in (0, 1].
func (h *Hub) chance() float64 {
	if h.Rand == nil {
		return 1 - rand.Float64()
	}
	h.randMu.Lock()
	defer h.randMu.Unlock()
	return 1 - h.Rand.Float64()
}

// jitter spreads d evenly over (0, d].
func (h *Hub) jitter(d time.Duration) time.Duration { return time.Duration(float64(d) * h.chance()) }

// nonce returns 32 fresh hex digits.
func (h *Hub) nonce() string {
	b := make([]byte, 16)
	if h.Rand == nil {
		_, _ = crand.Read(b) // never fails: crypto/rand ends the program instead
		return hex.EncodeToString(b)
	}
	h.randMu.Lock()
	defer h.randMu.Unlock()
	for i := range b {
		b[i] = byte(h.Rand.UintN(256))
	}
	return hex.EncodeToString(b)
}

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

// openGate lets every call through.
type openGate struct{}

// Allow implements Gate.
func (openGate) Allow(Target, string) (func(CallEnd), time.Duration) { return func(CallEnd) {}, 0 }

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
