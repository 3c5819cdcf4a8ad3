package provision

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Resolution is what a person says became of a POST that nobody could settle: that it made the connection
// named, or none.
//
// It comes with a retry of its own, which looks at the Flow Service once more and never POSTs. The word of
// a person decides only what the look-up can't: a connection with the request's mark is adopted whatever
// was said, and one that was named must be there.
type Resolution struct {
	Connection string `json:"connection,omitempty"` // its id; empty means that there is none
	By         string `json:"by"`                   // who says so, as the message has it: whoever may publish for the tenant chooses it
	Why        string `json:"why"`
}

// Results of an Attempt that records a Resolution.
const (
	saysConnection = "named"
	saysAbsent     = "absent"
)

// attempt returns how the record tells of r: as what the message says, for nobody proves who wrote it.
func (r Resolution) attempt(at time.Time) Attempt {
	a := Attempt{At: at, Step: stepResolve, Result: saysAbsent, Detail: fmt.Sprintf("the message says that it made none, said to be by %s: %s", r.By, r.Why)}
	if r.Connection != "" {
		a.Result, a.Detail = saysConnection, fmt.Sprintf("the message says that it made %s, said to be by %s: %s", r.Connection, r.By, r.Why)
	}
	return a
}

// unresolvable returns why nothing of a record can be resolved, nil if it can.
func unresolvable(rec Record) *Failure {
	reason := Reason("")
	if f := rec.Final; f != nil && f.Result.Error != nil {
		reason = f.Result.Error.Reason
	}
	if reason == ReasonOutcomeUnknown {
		return nil
	}
	return Fail(ReasonInvalidRequest, fmt.Sprintf("Flow-Worker-Resolve settles an outcome_unknown only, but this request failed with %s: retry it", reason))
}

// resolve settles the open POST by a person's word, after a complete look-up that began later than Settle
// and didn't show the request's mark.
func (t *task) resolve(ctx context.Context, began time.Time) step {
	r := t.rec.Resolution
	if r.Connection != "" {
		return t.resolveAs(ctx, began)
	}
	t.hub.Observer.Reconciled(ReconciledAbsent)
	t.noteLookup(began, string(ReconciledAbsent), "nothing with this request's mark")
	t.rec.Doubt = false
	t.fail(Fail(ReasonFlowUnavailable, fmt.Sprintf("settled by a message that is said to be by %s: the POST made no connection (%s); retry this request to have it made", r.By, r.Why)))
	return t.conclude
}

// resolveAs adopts the connection that a person named, if it is there. It need not have the request's name
// any more.
func (t *task) resolveAs(ctx context.Context, began time.Time) step {
	id := t.rec.Resolution.Connection
	named, there, err := t.readOne(ctx, id)
	switch {
	case err != nil:
		return t.unasked(ctx, true, err)
	case there && t.standing(named) == ours:
		return t.adopt([]Found{named})
	case !there || deleted(named) || !strings.EqualFold(named.SpecID, t.rec.ConnectionSpec.ID):
		return t.notBorneOut(fmt.Sprintf("there is no connection %s of connection spec %s", id, t.rec.ConnectionSpec.ID))
	case carriesMark(named.Description):
		return t.notBorneOut("connection " + id + " carries the mark of another request")
	}
	t.hub.Observer.Reconciled(ReconciledAdopted)
	t.noteLookup(began, string(ReconciledAdopted), "on the word of a message said to be by "+t.rec.Resolution.By+"; it is there, without a mark")
	t.succeed(named.Connection, true)
	return t.conclude
}

// unasked goes on after the Flow Service could not be asked. Where a person waits for a Resolution, a
// definite refusal ends it, for they can mend what is behind it; what may go away is waited for.
func (t *task) unasked(ctx context.Context, settled bool, err error) step {
	var ce *CallError
	refused := errors.As(err, &ce) && refusal(ce) != nil
	why := "the Flow Service could not be asked: " + text(err)
	ends := t.rec.Resolution != nil && settled
	if missing := missingSecret(err); ends && missing != nil {
		return t.secretMissing(ctx, missing, t.lookUp, func() step { return t.notBorneOut(why) })
	}
	if ends && refused {
		if ce.passes() {
			if rest, lasted := t.outlast(); !lasted {
				t.noteLookup(t.hub.Clock.Now(), string(ReconciledUnknown), why)
				return t.rest(ctx, max(rest, shortestRest), whyLater)
			}
		}
		return t.notBorneOut(why)
	}
	return t.unresolved(ctx, settled, err, why)
}

// notBorneOut ends a Resolution that the Flow Service contradicts: nothing is settled.
func (t *task) notBorneOut(why string) step {
	t.hub.Observer.Reconciled(ReconciledUnknown)
	t.noteLookup(t.hub.Clock.Now(), string(ReconciledUnknown), why)
	f := t.unknownFailure(why)
	f.Message = "not resolved: " + f.Message
	t.fail(f)
	return t.conclude
}
