package provision

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
)

// succeed makes t.rec the record of a created request. Conclude writes it.
func (t *task) succeed(conn Connection, adopted bool) {
	res := t.result(OutcomeCreated)
	res.Connection, res.Adopted = &conn, adopted
	t.finish(StateCreated, res)
}

// fail makes t.rec the record of a failed request. Conclude writes it.
func (t *task) fail(f *Failure) {
	res := t.result(OutcomeFailed)
	res.Error = f
	t.finish(StateFailed, res)
}

func (t *task) finish(s State, res Result) {
	t.rec.State, t.rec.Held, t.rec.Refused, t.rec.Missing = s, false, nil, nil
	t.rec.HeldSeq, t.rec.HeldDelivered = t.d.Seq, t.d.Delivered // tells its message from repeats of it
	why := ""
	if res.Error != nil {
		why = string(res.Error.Reason)
	}
	t.rec.note(Attempt{At: res.CompletedAt, Step: stepFinal, Result: res.Outcome, Detail: why})
	t.rec.Final = &FinalResult{EventID: res.EventID, Outcome: res.Outcome, Trace: res.Trace, Result: res}
}

// result returns the frame of a result that is concluded now.
func (t *task) result(outcome string) Result {
	r := t.rec
	res := Result{
		EventID: r.Key.EventID(r.Retry, outcome), Outcome: outcome, Trace: t.errand().Trace,
		Request: RequestID{ID: r.Key.ID, Source: r.Key.Source}, Tenant: r.Key.Tenant,
		Sandbox: r.Sandbox, Name: r.Name, Attempts: r.Posts,
		RequestedAt: r.RequestedAt.UTC(), StartedAt: r.StartedAt.UTC(), CompletedAt: t.hub.Clock.Now().UTC(),
	}
	if r.ConnectionSpec != (ConnectionSpec{}) {
		spec := r.ConnectionSpec
		res.ConnectionSpec = &spec
	}
	return res
}

// conclude confirms the final record in the ledger: before that, nobody is told anything.
func (t *task) conclude(ctx context.Context) step {
	if next, ok := t.write(ctx); !ok {
		return next
	}
	return t.tell
}

// repeat tells the outcome that an earlier delivery came to.
func (t *task) repeat(context.Context) step {
	t.out.Repeat, t.out.Resumed = true, t.rec.HeldSeq == t.d.Seq
	if t.out.Resumed && t.rec.Told {
		t.out.Silent = true
		return nil
	}
	return t.tell
}

// tell hands out the outcome as the ledger has it.
func (t *task) tell(context.Context) step {
	f := t.rec.Final
	if f == nil {
		return t.back(t.hub.jitter(t.hub.RetryDelayMax), "the ledger's record has a final state but no outcome")
	}
	res := f.Result
	res.EventID, res.Outcome, res.Trace = f.EventID, f.Outcome, f.Trace
	t.out.Result = &res
	if t.d.Direct {
		t.out.Told = t.told
	}
	return nil
}

// told records that the result is published. Should it fail, the message's delivery publishes it again, under
// the same id.
func (t *task) told(ctx context.Context) {
	rec := t.rec
	rec.Told, rec.Nonce, rec.UpdatedAt = true, t.hub.nonce(), t.hub.Clock.Now()
	if _, err := t.hub.Ledger.Store(ctx, rec.Key, rec, t.rev); err != nil {
		t.log(slog.LevelDebug, "it is not recorded that the result is published", slog.Any("error", err))
	}
}

// detached concludes a message that may not speak for the request it names: the ledger is left
// alone, and the event's id covers what makes this message another one.
func (t *task) detached(f *Failure) Outcome {
	r := t.d.Request
	t.rec = t.firstRecord()
	res := t.result(OutcomeFailed)
	res.Trace = r.Trace // as the message has it: told again, it is the same to the byte
	res.EventID = digest(r.Key.String(), r.Fingerprint, strconv.Itoa(r.Retry), t.d.EventSalt, string(f.Reason))[:32]
	res.StartedAt, res.CompletedAt = res.RequestedAt, res.RequestedAt
	res.Error = f
	return Outcome{Result: &res, Detached: true}
}

func isSecretError(err error) bool {
	var se *SecretError
	return errors.As(err, &se)
}
