package provision

import "fmt"

// newRound begins the retry that the message asks for, if it may.
func (t *task) newRound() step {
	if t.rec.State != StateFailed || t.d.Request.Retry != t.rec.Retry+1 {
		return t.end(t.detached(Fail(ReasonInvalidRequest, retryRefusal(t.rec, t.d.Request.Retry))))
	}
	old, r := t.rec, t.d.Request.Resolution
	if t.d.Invalid != nil && (old.Doubt || r != nil) { // it doesn't say where to look, which the record does
		return t.end(t.detached(t.d.Invalid))
	}
	if f := unresolvable(old); r != nil && f != nil {
		return t.end(t.detached(f))
	}
	t.rec = t.firstRecord()
	t.rec.Attempts, t.rec.FirstPostAt = old.Attempts, old.FirstPostAt
	t.rec.PostedAt, t.rec.Lease, t.rec.EndedAt, t.rec.EndedBy = old.PostedAt, old.Lease, old.EndedAt, old.EndedBy
	t.rec.Doubt, t.rec.LookFirst = old.Doubt, !old.FirstPostAt.IsZero()
	if old.Doubt || r != nil {
		t.rec.State = StateUnknown
	}
	if r != nil { // the record's counts from now on, whatever other messages of this retry say
		t.rec.Resolution = r
		t.rec.note(r.attempt(t.hub.Clock.Now()))
	}
	return t.claim
}

// firstRecord returns the record of a round that begins now.
func (t *task) firstRecord() Record {
	r, now := t.d.Request, t.hub.Clock.Now()
	rec := Record{
		Key: r.Key, State: StateClaimed, Retry: r.Retry, Fingerprint: r.Fingerprint, Trace: r.Trace,
		Sandbox: r.Data.Sandbox, Name: r.Data.Name, ConnectionSpec: r.Data.ConnectionSpec,
		RequestedAt: t.d.EnteredAt, StartedAt: now, Deadline: now.Add(t.hub.RequestDeadline),
		LookFirst: t.d.Delivered > 1 || r.Retry > 0 || t.d.EnteredAt.Before(t.hub.LedgerCreated) || now.Before(t.hub.LookFirstUntil()),
	}
	if !r.Expiry.IsZero() && r.Retry == 0 {
		rec.Deadline = r.Expiry
		if latest := now.Add(MaxDeadline); rec.Deadline.After(latest) {
			rec.Deadline = latest
		}
	}
	return rec
}

func retryRefusal(rec Record, n int) string {
	if rec.State == StateFailed {
		return fmt.Sprintf("Flow-Worker-Retry is %d, but the last retry of this request was %d: send %d", n, rec.Retry, rec.Retry+1)
	}
	return fmt.Sprintf("Flow-Worker-Retry is %d, but retry %d of this request has not ended yet: wait for its result", n, rec.Retry)
}
