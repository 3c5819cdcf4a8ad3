package provision

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
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
	found, err := t.find(ctx, Query{Name: t.rec.Name, SpecID: t.rec.ConnectionSpec.ID})
	s := t.sight(found)
	switch {
	case err != nil:
		return t.unasked(ctx, settled, err)
	case len(s.ours) > 0:
		return t.adopt(s.ours)
	case settled && t.rec.Resolution != nil:
		return t.resolve(ctx, began, found)
	case len(s.alike) > 0:
		return t.unresolved(ctx, settled, nil, fmt.Sprintf("connection %s has this request's name, domain and cluster but no mark of ours", s.alike[0].ID))
	case !settled:
		t.noteLookup(began, "not_yet", "")
		return t.pause(ctx, 0, t.lookUp)
	case t.rec.Promises >= promisesBelieved:
		return t.unresolved(ctx, settled, nil, fmt.Sprintf("%d POSTs were answered with success, but no connection of theirs is listed", t.rec.Promises))
	}
	return t.absent(began)
}

// promisesBelieved is how many POSTs may be answered with success and yet be believed to have made
// nothing. After that it is more likely that the list doesn't show them.
const promisesBelieved = 3

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
	q := Query{Name: t.rec.Name, SpecID: t.rec.ConnectionSpec.ID}
	minds := t.rec.FirstPostAt.IsZero() && t.mindsOthers()
	if minds {
		q.SpecID = "" // the name is what people see, whatever the connector
	}
	found, err := t.find(ctx, q)
	if err != nil {
		if missing := missingSecret(err); missing != nil {
			t.fail(missing)
			return t.conclude
		}
		return t.lookFirstFailed(ctx, err)
	}
	if s := t.sight(found); len(s.ours) > 0 {
		return t.adopt(s.ours)
	}
	if minds && len(found) > 0 {
		return t.exists(found)
	}
	t.noteLookup(began, string(ReconciledAbsent), "before the first POST")
	t.rec.LookFirst, t.looked = false, true
	return t.prepare
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
	switch ce.Verdict {
	case VerdictDenied, VerdictUnauthorized:
		return t.lookRefused(ctx, flowFailure(ReasonFlowDenied, ce))
	case VerdictRejected:
		return t.lookRefused(ctx, flowFailure(ReasonFlowRejected, ce))
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
	switch {
	case err != nil && missingSecret(err) == nil:
		return t.secretTrouble(ctx, err, t.lookFirst)
	case err == nil && otherCredentials(used, t.creds):
		t.fresh = false
		return t.lookFirst
	}
	t.fail(refused)
	return t.conclude
}

// exists concludes where the sandbox already has connections of the request's name.
func (t *task) exists(found []Found) step {
	d := t.d.Request.Data
	same := slices.DeleteFunc(slices.Clone(found), func(f Found) bool { return !sameConnection(f, d) })
	if d.IfExists == IfExistsAdopt && len(same) > 0 {
		oldestFirst(same)
		t.noteLookup(t.hub.Clock.Now(), string(ReconciledAdopted), "ifExists")
		t.succeed(same[0].Connection, true)
		return t.conclude
	}
	t.fail(Fail(ReasonNameExists, fmt.Sprintf("the sandbox has a connection named %q already (%s); choose another name, or use that one", d.Name, found[0].ID)))
	return t.conclude
}

func sameConnection(f Found, d Data) bool {
	p := d.Auth.Params
	return f.Name == d.Name && f.SpecID == d.ConnectionSpec.ID && f.SpecVersion == d.ConnectionSpec.Version &&
		sameHost(f.Domain, p.Domain) && f.ClusterID == p.ClusterID && f.Database == p.Database && f.Catalog == p.Catalog
}

// find lists connections with the tenant's credentials of the moment.
func (t *task) find(ctx context.Context, q Query) ([]Found, error) {
	if err := t.readCredentials(ctx); err != nil {
		return nil, err
	}
	if err := t.hub.Connections.Authorize(t.call(ctx), t.account()); err != nil {
		return nil, err
	}
	var found []Found
	var err error
	closed := t.through(TargetFlow, func() CallEnd {
		if found, err = t.hub.Connections.Find(t.call(ctx), t.account(), q); err != nil && ctx.Err() != nil {
			return CallVoid
		}
		return flowEnd(err)
	})
	if closed != nil {
		return nil, closed
	}
	return found, err
}

// sighting is what a look-up saw, each oldest first.
type sighting struct {
	ours  []Found // with the request's mark
	alike []Found // without any whole mark, but else as ours would be, and new enough to be it
}

var wholeMark = regexp.MustCompile(`\[flow-worker [0-9a-f]{32}\]`)

func (t *task) sight(found []Found) (s sighting) {
	mark := t.d.Request.Key.Mark()
	for _, f := range found {
		switch {
		case strings.Contains(f.Description, mark):
			s.ours = append(s.ours, f)
		case !wholeMark.MatchString(f.Description) && t.couldBeOurs(f):
			s.alike = append(s.alike, f)
		}
	}
	oldestFirst(s.ours)
	oldestFirst(s.alike)
	return s
}

// couldBeOurs reports whether f may be what our POST made, if somebody changed its description or
// upstream cut it. What upstream doesn't tell counts as equal.
func (t *task) couldBeOurs(f Found) bool {
	p := t.d.Request.Data.Auth.Params
	return f.Name == t.rec.Name && f.SpecID == t.rec.ConnectionSpec.ID &&
		(f.Domain == "" || sameHost(f.Domain, p.Domain)) &&
		(f.ClusterID == "" || f.ClusterID == p.ClusterID) &&
		(f.CreatedAt.IsZero() || f.CreatedAt.After(t.rec.FirstPostAt.Add(-upstreamSkew)))
}

// upstreamSkew is how far behind ours the Flow Service's clock is assumed to be at most. Too long
// only means that a person is asked once more.
const upstreamSkew = time.Minute

func oldestFirst(fs []Found) {
	slices.SortStableFunc(fs, func(a, b Found) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
}
