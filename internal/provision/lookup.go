package provision

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// settledAt returns when the open POST is settled: a complete look-up that begins later and finds
// nothing proves that it made nothing. Another worker's clock may be behind ours.
func (t *task) settledAt() time.Time {
	at := t.rec.postEnd().Add(t.hub.Settle)
	if t.rec.EndedBy != t.hub.Instance {
		at = at.Add(ClockSkew)
	}
	return at
}

// lookUp asks the Flow Service what became of the open POST.
func (t *task) lookUp(ctx context.Context) step {
	began := t.hub.Clock.Now()
	if wait := t.rec.NotBefore.Sub(began); wait > 0 && began.Before(t.rec.Deadline) {
		return t.pause(ctx, wait, t.lookUp)
	}
	settled := began.After(t.settledAt())
	second := Query{Newest: true, Want: t.mayBeOurs}
	if settled {
		second = Query{Since: t.since(), Want: t.mayBeOurs}
	}
	s, err := t.look(ctx, true, Query{Names: []string{t.rec.Name}, SpecID: t.rec.ConnectionSpec.ID, Want: t.mayBeOurs}, second)
	switch {
	case err != nil:
		return t.unasked(ctx, settled, err)
	case len(s.ours) > 0:
		return t.adopt(s.ours)
	case settled && t.rec.Resolution != nil:
		return t.resolve(ctx, began)
	case len(s.alike) > 0:
		return t.unresolved(ctx, settled, nil, fmt.Sprintf("connection %s may be this request's, but carries no whole mark", s.alike[0].ID))
	case !settled:
		t.noteLookup(began, "not_yet", "")
		return t.pause(ctx, 0, t.lookUp)
	case t.rec.Promises >= promisesBelieved:
		return t.unresolved(ctx, settled, nil, fmt.Sprintf("%d POSTs were answered with success, but no connection of theirs is listed", t.rec.Promises))
	case t.rec.Taken >= takenBelieved:
		t.noteLookup(began, string(ReconciledAbsent), "refused again because it exists already")
		t.hub.Observer.Reconciled(ReconciledAbsent)
		t.fail(t.takenFailure())
		return t.conclude
	}
	return t.absent(began)
}

// promisesBelieved is how many POSTs may be answered with success and yet be believed to have made
// nothing. After that it is more likely that the list doesn't show them.
const promisesBelieved = 3

// takenBelieved is how many POSTs must have been refused because such a connection exists already, and have
// been settled as absent, until that is believed to be another's connection and not our own.
const takenBelieved = 2

func (t *task) takenFailure() *Failure {
	f := Fail(ReasonFlowRejected, "the Flow Service says that such a connection exists already, and it is none of this request's; choose another name")
	if last := t.rec.LastFail; last != nil {
		f.Message += ": " + last.Message
		f.HTTPStatus, f.Code, f.UpstreamRequestID = last.HTTPStatus, last.Code, last.UpstreamRequestID
	}
	return f
}

// restAfterAbsent returns how long a request rests before its next POST after several that were
// settled as absent: each is a chance of two connections, should the list not show all.
func (t *task) restAfterAbsent() time.Duration {
	if t.rec.Posts < 2 {
		return 0
	}
	d := t.hub.RetryDelayMax
	for range min(t.rec.Posts-2, 30) {
		d = min(2*d, t.hub.RedeliveryDelayMax)
	}
	return d/2 + t.hub.jitter(d/2)
}

// absent goes on after the open POST was proved to have made nothing.
func (t *task) absent(began time.Time) step {
	t.hub.Observer.Reconciled(ReconciledAbsent)
	t.noteLookup(began, string(ReconciledAbsent), "")
	t.rec.State, t.rec.LookFirst = StateWaiting, false
	if next := began.Add(t.restAfterAbsent()); next.After(t.rec.NotBefore) {
		t.rec.NotBefore = next
	}
	return t.proceed()
}

// unresolved goes on after a look-up that decided nothing. Once the deadline and Settle are over,
// that is the outcome.
func (t *task) unresolved(ctx context.Context, settled bool, err error, detail string) step {
	now := t.hub.Clock.Now()
	t.noteLookup(now, string(ReconciledUnknown), detail)
	t.log(slog.LevelDebug, "the look-up decided nothing", slog.String("detail", detail))
	if settled && !now.Before(t.rec.Deadline) {
		t.hub.Observer.Reconciled(ReconciledUnknown)
		t.fail(t.unknownFailure(detail))
		return t.conclude
	}
	cause, atLeast := hindrance(err)
	if errors.Is(err, ErrCircuitOpen) {
		return t.handBack(ctx, atLeast)
	}
	if err != nil {
		t.hub.Observer.Retried(targetOf(err), cause)
	}
	return t.pause(ctx, atLeast, t.lookUp)
}

func (t *task) unknownFailure(detail string) *Failure {
	return Fail(ReasonOutcomeUnknown, fmt.Sprintf("a POST was sent and it is not known whether it made a connection (%s). "+
		"Look in sandbox %q for a connection named %q whose description ends with %q: if it is there, use it; "+
		"if it is not, retry this request. \"worker resolve\" settles what a retry can't", detail, t.rec.Sandbox, t.rec.Name, t.d.Request.Key.Mark()))
}

func (t *task) noteLookup(at time.Time, result, detail string) {
	t.rec.note(Attempt{At: at, Step: "lookup", Result: result, Detail: detail, Elapsed: t.hub.Clock.Now().Sub(at).Seconds()})
}

// adopt concludes with a connection that carries our mark: the oldest, if there are several. It
// never deletes one.
func (t *task) adopt(ours []Found) step {
	t.hub.Observer.Reconciled(ReconciledAdopted)
	detail := ""
	if len(ours) > 1 {
		t.hub.Observer.Reconciled(ReconciledSeveral)
		detail = fmt.Sprintf("%d connections carry the mark; the oldest is kept", len(ours))
		t.log(slog.LevelError, "several connections carry one request's mark; delete all but the oldest",
			slog.String("kept", ours[0].ID), slog.Int("count", len(ours)))
	}
	t.noteLookup(t.hub.Clock.Now(), string(ReconciledAdopted), detail)
	t.succeed(ours[0].Connection, true)
	return t.conclude
}

// lookFirstDue reports whether the sandbox must be looked at before the next POST.
func (t *task) lookFirstDue() bool {
	return t.rec.LookFirst || t.rec.FirstPostAt.IsZero() && t.mindsOthers()
}

// mindsOthers reports whether ifExists makes other connections of the same name matter.
func (t *task) mindsOthers() bool {
	i := t.d.Request.Data.IfExists
	return i == IfExistsAdopt || i == IfExistsReject
}

// lookFirst looks for our mark, and for others of the same name where ifExists asks for it, before
// the first POST, or after a ledger was lost.
func (t *task) lookFirst(ctx context.Context) step {
	began := t.hub.Clock.Now()
	if !began.Before(t.rec.Deadline) {
		return t.lapse
	}
	minds := t.rec.FirstPostAt.IsZero() && t.mindsOthers()
	queries := []Query{{Names: nameForms(t.rec.Name), Want: t.mayBeOurs}}
	if minds {
		queries[0].Want = func(f Found) bool { return t.mayBeOurs(f) || f.Name == "" || sameText(f.Name, t.rec.Name) }
	}
	if t.rec.LookFirst {
		queries = append(queries, Query{Since: t.since(), Want: t.mayBeOurs})
	}
	s, err := t.look(ctx, false, queries...)
	if err == nil && len(s.ours) > 0 {
		return t.adopt(s.ours)
	}
	var named []Found
	if err == nil && minds {
		named, err = t.sameNamed(ctx, s.all)
	}
	switch {
	case err != nil:
		return t.lookFirstFailed(ctx, err)
	case len(named) > 0:
		return t.exists(ctx, named)
	case t.rec.LookFirst && t.rec.FirstPostAt.IsZero() && len(s.alike) > 0:
		return t.doubt(ctx, began)
	}
	t.noteLookup(began, string(ReconciledAbsent), "before the first POST")
	t.rec.LookFirst, t.looked = false, true
	return t.prepare
}

// doubt goes on where the record was lost, and a connection may be what a POST made of which it told: the
// request is looked up as one with an open POST is.
func (t *task) doubt(ctx context.Context, began time.Time) step {
	t.rec.State, t.rec.Doubt, t.rec.LookFirst = StateUnknown, true, false
	t.rec.FirstPostAt, t.rec.EndedAt, t.rec.EndedBy = t.rec.RequestedAt, began, t.hub.Instance
	if next, ok := t.write(ctx); !ok {
		return next
	}
	return t.lookUp
}

// owesLook reports whether the ledger was found to have lost records since the request was claimed.
func (t *task) owesLook() bool {
	return t.rec.FirstPostAt.IsZero() && !t.looked && t.hub.Clock.Now().Before(t.hub.LookFirstUntil())
}

// lookFirstFailed goes on after the look before the first POST failed. A definite refusal is the
// tenant's affair, as it would be for the POST.
func (t *task) lookFirstFailed(ctx context.Context, err error) step {
	if targetOf(err) == TargetVault {
		return t.secretTrouble(ctx, err, t.lookFirst)
	}
	ce := asCallError(err)
	switch f := refusal(ce); {
	case f != nil && ce.passes():
		return t.lasting(ctx, ce.Target, f, t.lookFirst)
	case f != nil:
		return t.lookRefused(ctx, f)
	}
	t.rec.LastFail = flowFailure(ReasonFlowUnavailable, ce)
	return t.hindered(ctx, TargetFlow, err, t.lookFirst)
}

// lookRefused reads the credentials past the cache, as reconsider does after a POST: newer ones get
// another look.
func (t *task) lookRefused(ctx context.Context, refused *Failure) step {
	used := t.creds
	t.fresh = true
	err := t.readCredentials(ctx)
	missing := missingSecret(err)
	switch {
	case missing != nil:
		return t.secretMissing(ctx, missing, t.lookFirst, func() step {
			t.fail(refused)
			return t.conclude
		})
	case err != nil:
		return t.secretTrouble(ctx, err, t.lookFirst)
	case otherCredentials(used, t.creds):
		t.fresh = false
		return t.lookFirst
	}
	t.fail(refused)
	return t.conclude
}

// sameNamed returns which connections have the request's name, and what else ifExists looks at: what the
// list left out is read by their ids.
func (t *task) sameNamed(ctx context.Context, all []Found) (named []Found, err error) {
	for _, f := range all {
		if deleted(f) || f.Name != "" && !sameText(f.Name, t.rec.Name) {
			continue
		}
		if f.Name == "" || f.State == "" || f.SpecID == "" || f.SpecVersion == "" || f.Domain == "" || f.ClusterID == "" || f.Database == "" {
			full, there, err := t.readOne(ctx, f.ID)
			if err != nil {
				return nil, err
			}
			if !there {
				continue
			}
			f = full
		}
		if sameText(f.Name, t.rec.Name) && !deleted(f) {
			named = append(named, f)
		}
	}
	oldestFirst(named)
	return named, nil
}

// exists concludes where the sandbox already has connections of the request's name. Only what is enabled is
// adopted. What may be enabled in a moment is waited for.
func (t *task) exists(ctx context.Context, named []Found) step {
	d := t.d.Request.Data
	unusable := ""
	if d.IfExists == IfExistsAdopt {
		for _, f := range named {
			switch {
			case !sameConnection(f, d):
			case strings.EqualFold(f.State, stateEnabled):
				t.noteLookup(t.hub.Clock.Now(), string(ReconciledAdopted), "ifExists")
				t.succeed(f.Connection, true)
				return t.conclude
			case strings.EqualFold(f.State, stateInitializing):
				now := t.hub.Clock.Now()
				if so := now.Sub(t.rec.StartedAt); so < refusalLasts {
					t.noteLookup(now, string(ReconciledUnknown), "connection "+f.ID+" is initializing")
					return t.rest(ctx, min(max(so, shortestRest), t.hub.RetryDelayMax, refusalLasts-so), whyLater)
				}
				fallthrough
			default:
				unusable = fmt.Sprintf("; %s can't be adopted, for its state is %q: enable or delete it", f.ID, shorten(f.State, maxState))
			}
		}
	}
	t.fail(Fail(ReasonNameExists, fmt.Sprintf("the sandbox has a connection named %q already (%s); choose another name, or use that one%s", d.Name, named[0].ID, unusable)))
	return t.conclude
}

// States of a connection that matter here. A draft's has no documented name; it is not "enabled".
const (
	stateEnabled      = "enabled"
	stateInitializing = "initializing"
	stateDeleted      = "deleted"
)

const maxState = 40 // bytes of a state that are told

// deleted reports whether the service says that f is gone, though it shows it.
func deleted(f Found) bool { return strings.EqualFold(f.State, stateDeleted) }

func sameConnection(f Found, d Data) bool {
	p := d.Auth.Params
	return sameText(f.Name, d.Name) && strings.EqualFold(f.SpecID, d.ConnectionSpec.ID) && f.SpecVersion == d.ConnectionSpec.Version &&
		sameHost(f.Domain, p.Domain) && strings.EqualFold(f.ClusterID, p.ClusterID) &&
		strings.EqualFold(f.Database, p.Database) && strings.EqualFold(f.Catalog, p.Catalog)
}
