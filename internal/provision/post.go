package provision

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// post sends the POST, once there is a slot for it, and takes its answer.
func (t *task) post(ctx context.Context) step {
	conn, announced, next, err := t.send(ctx)
	switch {
	case announced:
		return t.answered(ctx, conn, err)
	case err == nil:
		return next
	case t.rec.LastFail == nil:
		t.rec.LastFail = Fail(ReasonFlowUnavailable, "the Flow Service is not being called for now, because it fails")
	}
	return t.hindered(ctx, TargetFlow, err, t.prepare)
}

// send waits for a slot, announces the POST in the ledger and sends it. The slot is held for these two alone, so
// that a lease never waits for a slot. Where nothing was announced, err says that the Flow Service is not to be
// called for now, or next where to go instead.
func (t *task) send(ctx context.Context) (conn Connection, announced bool, next step, err error) {
	slot, wait, err := t.acquire(ctx)
	if err != nil {
		return conn, false, t.giveUpWaiting, nil
	}
	strained := false
	defer func() { slot.Release(strained) }()
	switch { // getting here may have taken longer than the request had left, and the secrets may be others by now
	case !t.hub.Clock.Now().Before(t.rec.Deadline):
		return conn, false, t.lapse, nil
	case t.owesLook():
		return conn, false, t.lookFirst, nil
	case wait > staleAfter && (t.readSecrets(ctx) != nil || t.wrongDomain()):
		return conn, false, t.prepare, nil // which says what is wrong
	}
	closed := t.through(TargetFlow, func() CallEnd {
		if next, announced = t.announce(ctx); !announced {
			return CallVoid
		}
		if err = t.begin(slot); err == nil {
			conn, err = t.hub.Connections.Create(context.WithoutCancel(t.call(ctx)), t.account(), t.newConnection(), t.rec.leaseEnd())
		}
		return flowEnd(err)
	})
	if closed != nil {
		return conn, false, nil, closed
	}
	strained = announced && strains(err)
	return conn, announced, next, err
}

// begin waits for the moment to send the POST that was announced. Its lease runs meanwhile, so that may take an eighth
// of it at most.
func (t *task) begin(slot Slot) error {
	ctx, cancel := context.WithTimeout(context.Background(), t.rec.leaseEnd().Sub(t.hub.Clock.Now())-t.hub.FlowTimeout*7/8)
	defer cancel()
	if err := slot.Begin(ctx); err != nil {
		return &CallError{Verdict: VerdictNotSent, Target: TargetFlow, Cause: CauseTimeout, Err: fmt.Errorf("%w: no slot came free in time", ErrNotAsked)}
	}
	return nil
}

// giveUpWaiting goes on after no slot came free in time.
func (t *task) giveUpWaiting(ctx context.Context) step {
	if !t.hub.Clock.Now().Before(t.rec.Deadline) {
		return t.lapse
	}
	return t.handBack(ctx, 0)
}

// staleAfter is how long a request may wait for its slot before the secrets are read again.
const staleAfter = time.Second

// acquire waits for a slot, but not longer than the request may be worked on in this delivery, nor past its
// deadline, nor when the worker is asked to stop.
func (t *task) acquire(ctx context.Context) (slot Slot, wait time.Duration, err error) {
	began := t.hub.Clock.Now()
	until := t.started.Add(t.hub.RetryElapsed)
	if t.rec.Deadline.Before(until) {
		until = t.rec.Deadline
	}
	ctx, cancel := context.WithTimeout(ctx, until.Sub(began))
	defer cancel()
	defer context.AfterFunc(t.hub.Stopping, cancel)()
	slot, err = t.hub.Slots.Acquire(ctx, t.rec.Key.Tenant)
	return slot, t.hub.Clock.Now().Sub(began), err
}

// strains reports whether the answer to a POST shows that the Flow Service bears no more of the tenant's.
func strains(err error) bool {
	if err == nil || errors.Is(err, ErrNotAsked) {
		return false
	}
	v := asCallError(err).Verdict
	return v == VerdictThrottled || v == VerdictUnknown || v == VerdictNotSent
}

// announce writes the intent to POST. Where it returns false, next is where to go instead. The very write
// may have shown that the ledger lost records: then the intent is taken back, and the request looked up.
func (t *task) announce(ctx context.Context) (next step, ok bool) {
	before := t.rec
	t.intend()
	if next, ok = t.write(ctx); !ok {
		return next, false
	}
	intended := t.rec
	if t.rec = before; !t.owesLook() {
		t.rec = intended
		return nil, true
	}
	t.rec.LookFirst = true
	if next, ok = t.write(ctx); !ok {
		return next, false
	}
	return t.lookFirst, false
}

// intend turns t.rec into the intent to POST. Its time is taken before the ledger write, so the
// lease that others see is never longer than the one we keep.
func (t *task) intend() {
	now := t.hub.Clock.Now()
	t.rec.State, t.rec.PostedAt, t.rec.Lease = StatePosting, now, t.hub.FlowTimeout
	t.rec.EndedAt, t.rec.EndedBy = time.Time{}, ""
	t.rec.NotBefore, t.rec.LookFirst = time.Time{}, false
	t.rec.Posts++
	if t.rec.FirstPostAt.IsZero() {
		t.rec.FirstPostAt = now
	}
	t.useSecrets()
}

// useSecrets records which versions of the secrets were used.
func (t *task) useSecrets() {
	t.rec.Secrets = map[string]int{secretAdobe: t.creds.Version, secretToken: t.secret.Version}
}

// Keys of Record.Secrets.
const (
	secretAdobe = "adobe"
	secretToken = "token"
)

// answered takes the answer to a POST.
func (t *task) answered(ctx context.Context, conn Connection, err error) step {
	now := t.hub.Clock.Now()
	result := Attempt{At: t.rec.PostedAt, Step: stepPost, Result: OutcomeCreated, Elapsed: now.Sub(t.rec.PostedAt).Seconds()}
	if err == nil {
		t.rec.note(result)
		t.succeed(conn, false)
		return t.conclude
	}
	ce := asCallError(err)
	result.Result, result.Detail = ce.Verdict.String(), text(ce)
	t.rec.note(result)
	t.log(slog.LevelDebug, "the POST made no connection that we know of", slog.String("verdict", ce.Verdict.String()),
		slog.Int("status", ce.Status), slog.String("code", ce.Code), slog.Any("error", ce))
	t.rec.LastFail = flowFailure(ReasonFlowUnavailable, ce)
	t.survived()
	switch {
	case !ce.passes():
		t.rec.RefusedSince = time.Time{}
	case ce.RetryAfter > 0:
		t.rec.NotBefore = now.Add(ce.RetryAfter)
	}
	if ce.Verdict == VerdictUnknown {
		return t.postUnknown(ctx, ce, now)
	}
	t.rec.State = StateWaiting
	return t.definiteNo(ctx, ce)
}

// asCallError treats an error of an unknown kind as the careful verdict.
func asCallError(err error) *CallError {
	var ce *CallError
	if errors.As(err, &ce) {
		return ce
	}
	return &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Cause: CauseNetwork, Err: err}
}

// postUnknown records that the POST has ended and that nobody knows how.
func (t *task) postUnknown(ctx context.Context, ce *CallError, now time.Time) step {
	t.hub.Observer.Retried(ce.Target, orNetwork(ce.Cause))
	t.rec.State, t.rec.Doubt, t.rec.EndedAt, t.rec.EndedBy = StateUnknown, true, now, t.hub.Instance
	if ce.RetryAfter > 0 {
		t.rec.NotBefore = now.Add(ce.RetryAfter)
	}
	switch {
	case ce.Exists:
		t.rec.Taken++
	case ce.Status >= 200 && ce.Status < 300:
		t.rec.Promises++
	}
	if next, ok := t.write(ctx); !ok {
		return next
	}
	return t.lookUp
}

// definiteNo goes on after a POST that made nothing. For a refusal that can end the request, the
// next write is the one that ends it; else "waiting" is written, so that nobody waits for this POST.
func (t *task) definiteNo(ctx context.Context, ce *CallError) step {
	refused := refusal(ce)
	switch {
	case refused != nil && ce.passes():
		return t.lasting(ctx, ce.Target, refused, t.prepare)
	case refused != nil:
		t.rec.Refused = refused
		return t.reconsider
	}
	t.hub.Observer.Retried(ce.Target, orNetwork(ce.Cause))
	if next, ok := t.write(ctx); !ok {
		return next
	}
	return t.pause(ctx, ce.RetryAfter, t.prepare)
}

// refusal returns the failure that a refusal amounts to, nil for what is none.
func refusal(ce *CallError) *Failure {
	switch ce.Verdict {
	case VerdictDenied, VerdictUnauthorized:
		return flowFailure(ReasonFlowDenied, ce)
	case VerdictRejected:
		if ce.Target == TargetIMS {
			return flowFailure(ReasonFlowDenied, ce)
		}
		return flowFailure(ReasonFlowRejected, ce)
	}
	return nil
}

// lapse ends a request without an open POST at its deadline.
func (t *task) lapse(context.Context) step {
	f := t.rec.LastFail
	if f == nil {
		f = Fail(ReasonFlowUnavailable, "the deadline passed before a connection could be made")
	}
	if m := t.rec.Missing; m != nil && m.Reason == f.Reason {
		f = t.notBelieved(f)
	} else if f.Reason == ReasonFlowDenied && !t.rec.RefusedSince.IsZero() {
		f = cutShort(f)
	}
	t.fail(f)
	return t.conclude
}

func (t *task) account() Account {
	return Account{Tenant: t.rec.Key.Tenant, Sandbox: t.rec.Sandbox, Credentials: t.creds, Trace: t.errand().Trace}
}

func (t *task) newConnection() NewConnection {
	d := t.d.Request.Data
	return NewConnection{
		Name: d.Name, Description: strings.TrimLeft(d.Description+" "+t.d.Request.Key.Mark(), " "),
		SpecName: d.Auth.SpecName, Params: d.Auth.Params, AccessToken: t.secret.Value, ConnectionSpec: d.ConnectionSpec,
	}
}

// flowFailure turns upstream's refusal into the request's failure.
func flowFailure(r Reason, ce *CallError) *Failure {
	f := Fail(r, text(ce))
	f.HTTPStatus, f.Code, f.UpstreamRequestID = ce.Status, ce.Code, ce.RequestID
	return f
}

const maxText = 600

// text returns err's message, shortened for a record.
func text(err error) string {
	return shorten(err.Error(), maxText)
}

// shorten returns at most the first limit bytes of s.
func shorten(s string, limit int) string {
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
