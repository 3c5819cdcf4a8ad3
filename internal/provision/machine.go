package provision

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// The life of a request. Each box is a step below; every arrow into a state is a confirmed ledger
// write, and nothing is sent before the state that announces it.
//
//	admit ─ examine ── final ────────────────────────────────────▶ tell
//	  │        ├── somebody has it ─────────────────────────────▶ (back to the stream)
//	  │        └── other data ── id_reused
//	  ▼
//	claim ── invalid, expired, crash_loop ───────────────┐
//	  │                                                  ▼
//	  ├─ unknown ──▶ lookUp ── found ────────────────▶ conclude ─▶ tell
//	  │               ▲  │ └─ can't be settled ─────────▲
//	  │               │  │ └─ settled by a person ──────┤
//	  │               │  └─ absent after Settle ─┐      │
//	  ├─ claimed ─▶ lookFirst ── found, exists ──│──────┤
//	  │               │                          │      │
//	  └─ waiting ──▶ prepare ◀───────────────────┘      │
//	                  ▼                                 │
//	                 post ── posting ── POST ── made ───┤
//	                  │  ├─ definite no ── waiting ─ prepare
//	                  │  └─ refused ── reconsider ── same secrets
//	                  └─ nobody knows ── unknown ─ lookUp

// step is one box of the picture; it returns the next one, or nil when t.out is set.
type step func(context.Context) step

// task is one delivery being worked on. It belongs to one goroutine.
type task struct {
	hub     *Hub
	d       Delivery
	started time.Time        // of this delivery
	rec     Record           // as last written, plus what the step under way has changed
	rev     uint64           // of rec in the ledger; 0 if it isn't there
	waits   *waits           // use tryWaits
	alone   bool             // it is the suspect that hub.suspect stands for
	fresh   bool             // read secrets past the cache next time
	looked  bool             // this delivery looked for connections before the first POST
	read    map[string]Found // connections that this delivery has read by their id
	creds   Credentials
	secret  Secret

	readAt    time.Time // when the last read of a secret began
	pastCache bool      // and whether it was one past the cache

	out Outcome
}

func newTask(h *Hub, d Delivery) *task {
	return &task{hub: h, d: d, started: h.Clock.Now()}
}

// log writes a line about the request.
func (t *task) log(level slog.Level, msg string, attrs ...slog.Attr) {
	ctx := context.Background()
	if t.hub.Log.Enabled(ctx, level) {
		//nolint:sloglint // the callers' are constants
		t.hub.Log.LogAttrs(ctx, level, msg, append(t.d.Errand(t.rec.Posts).Attrs(), attrs...)...)
	}
}

// errand is what calls are made for just now.
func (t *task) errand() *Errand {
	e := t.d.Errand(t.rec.Posts)
	if t.d.Work.Parent == "" && t.rec.Trace.Parent != "" {
		e.Trace = t.rec.Trace // of the message that was recorded first
	}
	return e
}

// call returns the context of a call to a service.
func (t *task) call(ctx context.Context) context.Context { return t.errand().Into(ctx) }

func (t *task) run(ctx context.Context) Outcome { return t.steps(ctx, t.admit) }

func (t *task) steps(ctx context.Context, next step) Outcome {
	for next != nil {
		next = next(ctx)
	}
	return t.out
}

// admit takes a message's first delivery for a new request: nearly all are, and if there is a record
// all the same, then the first write finds it. Anything else is looked up in the ledger.
func (t *task) admit(context.Context) step {
	if t.d.Delivered > 1 || t.d.Request.Retry > 0 {
		return t.examine
	}
	t.rec = t.firstRecord()
	return t.claim
}

// examine reads the ledger and decides whether there is anything to do.
func (t *task) examine(ctx context.Context) step {
	rec, rev, err := t.load(ctx)
	switch {
	case errors.Is(err, ErrNoRecord) && t.d.Request.Resolution != nil:
		return t.end(t.detached(Fail(ReasonInvalidRequest, "the ledger does not know this request (any more), so there is nothing to resolve; retry it")))
	case errors.Is(err, ErrNoRecord):
		t.rec = t.firstRecord()
		if t.d.Delivered > 1 { // whoever had it before vanished without a word, as far as we know
			t.rec.Deaths, t.rec.AloneDeaths = 1, 1
		}
		return t.claim
	case err != nil:
		t.log(slog.LevelWarn, "the ledger cannot be read", slog.Any("error", err))
		return t.back(t.hub.jitter(t.hub.RetryDelayMax), "the ledger cannot be read")
	}
	t.rec, t.rev = rec, rev
	if t.d.Direct && !t.free() {
		return t.end(Outcome{Silent: true})
	}
	switch {
	case rec.Fingerprint != t.d.Request.Fingerprint:
		return t.end(t.detached(Fail(ReasonIDReused,
			"this id was used before by this source for a request with other data; give every request an id of its own")))
	case t.d.Request.Retry > rec.Retry && rec.State != StateCreated:
		return t.newRound()
	case rec.State.Final():
		return t.repeat
	case t.d.Request.Resolution != nil && rec.Resolution == nil && t.hub.Clock.Now().Before(rec.Deadline):
		// A plain retry of the same number was first. It may POST, but not by this message, which tells its end.
		return t.back(t.hub.jitter(t.hub.RetryDelayMax), "a retry of this number that may POST is under way")
	}
	if wait, why := t.elsewhere(); wait > 0 {
		return t.back(wait, why)
	}
	return t.takeOver
}

// free reports whether a message that was read directly may be worked on although there is a record. Whatever
// is to be said of its message alone, its delivery says.
func (t *task) free() bool {
	r, rec := t.d.Request, t.rec
	switch {
	case rec.Fingerprint != r.Fingerprint:
		return false
	case rec.State.Final():
		return rec.State == StateFailed && r.Retry == rec.Retry+1 || t.untold()
	}
	wait, _ := t.elsewhere()
	return wait == 0 && r.Retry == rec.Retry && r.Resolution == nil && !t.hub.Clock.Now().Before(rec.RestUntil)
}

// untold reports whether the outcome of a message that was read directly should have been told by now: whoever came
// to it may have been unable to, or have died.
func (t *task) untold() bool {
	rec := t.rec
	return rec.Direct && !rec.Told && rec.HeldSeq == t.d.Seq && t.hub.Clock.Now().Sub(rec.UpdatedAt) > tellWithin
}

// tellWithin is how long after it was recorded an outcome may take to be published.
const tellWithin = time.Minute

// elsewhere returns how long to leave the request alone because somebody may be working on it.
func (t *task) elsewhere() (time.Duration, string) {
	now := t.hub.Clock.Now()
	over := t.rec.leaseEnd().Add(ClockSkew)
	switch {
	case t.rec.State == StatePosting && now.Before(over):
		return over.Sub(now), "a POST for it may be under way"
	case !t.rec.Held || t.rec.Owner == t.hub.Instance || !now.Before(t.rec.HeldUntil):
		return 0, ""
	case !t.rec.Direct && t.d.Seq == t.rec.HeldSeq && t.d.Delivered > t.rec.HeldDelivered:
		return 0, "" // the broker took it from the one who had it
	}
	return min(t.rec.HeldUntil.Sub(now), t.hub.RetryDelayMax), "another worker has it"
}

// takeOver continues what another worker, or an earlier delivery, left behind.
func (t *task) takeOver(context.Context) step {
	if t.rec.Held && t.rec.Owner != t.hub.Instance { // what this one wrote and could not confirm is no death
		t.rec.Deaths++
		if t.rec.Alone {
			t.rec.AloneDeaths++
		}
		t.log(slog.LevelWarn, "its last worker vanished",
			slog.Int("deaths", t.rec.Deaths), slog.Int("alone_deaths", t.rec.AloneDeaths), slog.String("owner", t.rec.Owner))
	}
	if t.rec.State == StatePosting {
		t.rec.State, t.rec.Doubt = StateUnknown, true
		t.rec.EndedAt, t.rec.EndedBy = t.rec.leaseEnd().Add(ClockSkew), t.hub.Instance
		t.rec.RefusedSince = time.Time{} // for all we know, this one was not refused
	}
	if t.rec.Deaths >= deathsBeforeAlone {
		select {
		case t.hub.suspect <- struct{}{}:
			t.alone = true
		default:
			return t.back(t.hub.jitter(firstWriteWait), "another request that may have killed its workers is being worked on")
		}
	}
	return t.claim
}

// survived forgets the deaths of earlier workers: this one got further than a step on the way to the
// POST, or past it. To look up what an earlier one did is not enough; the killer may be yet to come.
func (t *task) survived() { t.rec.Deaths, t.rec.AloneDeaths = 0, 0 }

// claim records that this worker has the request, then goes where its state leads. The claim of a
// first delivery goes into the ledger with the next write.
func (t *task) claim(ctx context.Context) step {
	t.rec.Owner = t.hub.Instance
	if t.d.Invalid != nil && t.rec.State == StateClaimed && t.rec.FirstPostAt.IsZero() {
		t.fail(t.d.Invalid)
		return t.conclude
	}
	if t.rev == 0 && !t.hub.Clock.Now().Before(t.rec.Deadline) {
		t.fail(Fail(ReasonExpired, "its expirytime had passed when it was first seen; send it again with a later one"))
		return t.conclude
	}
	t.rec.Held, t.rec.HeldSeq, t.rec.HeldDelivered, t.rec.Direct = true, t.d.Seq, t.d.Delivered, t.d.Direct
	t.rec.RestUntil = time.Time{}
	t.rec.Alone = t.alone || t.hub.active.Load() == 1
	t.rec.note(Attempt{At: t.hub.Clock.Now(), Step: "claim", Result: string(t.rec.State)})
	if t.rev == 0 && t.d.Delivered == 1 {
		return t.proceed() // the intent to POST, or the first wait, writes it
	}
	if next, ok := t.write(ctx); !ok {
		return next
	}
	return t.proceed()
}

// proceed picks the step that the record's state calls for.
func (t *task) proceed() step {
	t.fresh = t.fresh || !t.rec.RefusedSince.IsZero()
	switch {
	case t.rec.State == StateUnknown:
		return t.lookUp
	case t.rec.AloneDeaths >= deathsBeforeFailure:
		t.fail(Fail(ReasonCrashLoop, "five workers died while it was their only request; see the worker's log before you retry it"))
		return t.conclude
	case t.d.Invalid != nil:
		t.fail(t.d.Invalid)
		return t.conclude
	case t.rec.Refused != nil:
		return t.reconsider
	case t.lookFirstDue():
		return t.lookFirst
	}
	return t.prepare
}

// Deaths of workers that a request may cause before it is worked on alone, and then before it fails.
const (
	deathsBeforeAlone   = 2
	deathsBeforeFailure = 5
)
