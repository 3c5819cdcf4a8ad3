package provision

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// What decide makes of look-ups: after a POST whose end nobody knows, and before the first one.

// lookUp asks the Flow Service what became of the open POST.
func (s *situation) lookUp() action {
	if wait := s.rec.NotBefore.Sub(s.at.now); wait > 0 && !s.late() {
		return s.pause(wait, phaseLookUp)
	}
	s.began = s.at.now
	s.settled = s.began.After(s.settledAt())
	who := s.sought()
	second := Query{Newest: true, Want: who.mayBeOurs}
	if s.settled {
		second = Query{Since: who.since, Want: who.mayBeOurs}
	}
	return action{do: doLook, look: &look{sought: who, lastDecides: true,
		queries: []Query{{Names: []string{s.rec.Name}, SpecID: s.rec.ConnectionSpec.ID, Want: who.mayBeOurs}, second}}}
}

func (s *situation) lookedUp(ev event) action {
	s.listed(ev)
	switch {
	case ev.err != nil:
		return s.unasked(ev.err)
	case len(ev.seen.ours) > 0:
		return s.adopt(ev.seen.ours)
	case s.settled && s.rec.Resolution != nil:
		return s.resolve()
	case len(ev.seen.alike) > 0:
		return s.unresolved(nil, fmt.Sprintf("connection %s may be this request's, but carries no whole mark", ev.seen.alike[0].ID))
	case !s.settled:
		s.noteLookup(s.began, "not_yet", "")
		return s.pause(0, phaseLookUp)
	case s.rec.Promises >= promisesBelieved:
		return s.unresolved(nil, fmt.Sprintf("%d POSTs were answered with success, but no connection of theirs is listed", s.rec.Promises))
	case s.rec.Taken >= takenBelieved:
		s.noteLookup(s.began, string(ReconciledAbsent), "refused again because it exists already")
		s.reconciled(ReconciledAbsent)
		return s.fail(takenFailure(s.rec.LastFail))
	}
	s.reconciled(ReconciledAbsent)
	s.noteLookup(s.began, string(ReconciledAbsent), "")
	s.rec.State, s.rec.LookFirst = StateWaiting, false
	if next := s.began.Add(s.restAfterAbsent()); next.After(s.rec.NotBefore) {
		s.rec.NotBefore = next
	}
	return s.proceed()
}

// unasked goes on after the Flow Service could not be asked. Where a person waits for a Resolution, a
// definite refusal ends it, for they can mend what is behind it; what may go away is waited for.
func (s *situation) unasked(err error) action {
	why := "the Flow Service could not be asked: " + text(err)
	if s.rec.Resolution == nil || !s.settled {
		return s.unresolved(err, why)
	}
	if missing := missingSecret(err); missing != nil {
		return s.secretMissing(missing, phaseLookUp, func() action { return s.notBorneOut(why) })
	}
	var ce *CallError
	if !errors.As(err, &ce) || refusal(ce) == nil {
		return s.unresolved(err, why)
	}
	if ce.passes() {
		if rest, lasted := s.outlast(); !lasted {
			s.noteLookup(s.at.now, string(ReconciledUnknown), why)
			return s.rest(max(rest, shortestRest), whyLater)
		}
	}
	return s.notBorneOut(why)
}

// unresolved goes on after a look-up that decided nothing. Once the deadline and Settle are over, that is the
// outcome.
func (s *situation) unresolved(err error, detail string) action {
	s.noteLookup(s.at.now, string(ReconciledUnknown), detail)
	s.log(slog.LevelDebug, "the look-up decided nothing", slog.String("detail", detail))
	if s.settled && s.late() {
		s.reconciled(ReconciledUnknown)
		return s.fail(s.unknownFailure(detail))
	}
	cause, atLeast := causeOf(err)
	if errors.Is(err, ErrCircuitOpen) {
		return s.handBack(atLeast)
	}
	if err != nil {
		s.retried(targetOf(err), cause)
	}
	return s.pause(atLeast, phaseLookUp)
}

// adopt concludes with a connection that carries our mark: the oldest, if there are several. It never deletes one.
func (s *situation) adopt(ours []Found) action {
	s.reconciled(ReconciledAdopted)
	detail := ""
	if len(ours) > 1 {
		s.reconciled(ReconciledSeveral)
		detail = fmt.Sprintf("%d connections carry the mark; the oldest is kept", len(ours))
		s.log(slog.LevelError, "several connections carry one request's mark; delete all but the oldest",
			slog.String("kept", ours[0].ID), slog.Int("count", len(ours)))
	}
	s.noteLookup(s.at.now, string(ReconciledAdopted), detail)
	return s.succeed(ours[0].Connection, true)
}

// resolve settles the open POST by a person's word, after a complete look-up that began later than Settle
// and didn't show the request's mark.
func (s *situation) resolve() action {
	r := s.rec.Resolution
	if r.Connection != "" {
		s.phase = phaseResolve
		return action{do: doRead, id: r.Connection}
	}
	s.reconciled(ReconciledAbsent)
	s.noteLookup(s.began, string(ReconciledAbsent), "nothing with this request's mark")
	s.rec.Doubt = false
	return s.fail(Fail(ReasonFlowUnavailable, fmt.Sprintf("settled by a message that is said to be by %s: the POST made no connection (%s); retry this request to have it made", r.By, r.Why)))
}

// resolveAs adopts the connection that a person named, if it is there. It need not have the request's name any more.
func (s *situation) resolveAs(ev event) action {
	id, named := s.rec.Resolution.Connection, *ev.found
	s.phase = phaseLookUp
	switch {
	case ev.err != nil:
		return s.unasked(ev.err)
	case ev.there && s.sought().standing(named) == ours:
		return s.adopt([]Found{named})
	case !ev.there || deleted(named) || !strings.EqualFold(named.SpecID, s.rec.ConnectionSpec.ID):
		return s.notBorneOut(fmt.Sprintf("there is no connection %s of connection spec %s", id, s.rec.ConnectionSpec.ID))
	case carriesMark(named.Description):
		return s.notBorneOut("connection " + id + " carries the mark of another request")
	}
	s.reconciled(ReconciledAdopted)
	s.noteLookup(s.began, string(ReconciledAdopted), "on the word of a message said to be by "+s.rec.Resolution.By+"; it is there, without a mark")
	return s.succeed(named.Connection, true)
}

// notBorneOut ends a Resolution that the Flow Service contradicts: nothing is settled.
func (s *situation) notBorneOut(why string) action {
	s.reconciled(ReconciledUnknown)
	s.noteLookup(s.at.now, string(ReconciledUnknown), why)
	f := s.unknownFailure(why)
	f.Message = "not resolved: " + f.Message
	return s.fail(f)
}

// lookFirst looks for our mark, and for others of the same name where ifExists asks for it, before
// the first POST, or after a ledger was lost.
func (s *situation) lookFirst() action {
	if s.late() {
		return s.lapse()
	}
	s.began = s.at.now
	who := s.sought()
	l := look{sought: who, named: s.rec.FirstPostAt.IsZero() && s.mindsOthers(), queries: []Query{{Names: nameForms(s.rec.Name), Want: who.mayBeOurs}}}
	if l.named {
		l.queries[0].Want = func(f Found) bool { return who.mayBeOurs(f) || f.Name == "" || sameText(f.Name, who.name) }
	}
	if s.rec.LookFirst {
		l.queries = append(l.queries, Query{Since: who.since, Want: who.mayBeOurs})
	}
	return action{do: doLook, look: &l}
}

func (s *situation) lookedFirst(ev event) action {
	s.listed(ev)
	switch {
	case ev.err != nil:
		return s.lookFirstFailed(ev.err)
	case len(ev.seen.ours) > 0:
		return s.adopt(ev.seen.ours)
	case len(ev.seen.named) > 0:
		return s.exists(ev.seen.named)
	case s.rec.LookFirst && s.rec.FirstPostAt.IsZero() && len(ev.seen.alike) > 0:
		// The record was lost, and a connection may be what a POST made of which it told: the request is looked up as
		// one with an open POST is.
		s.rec.State, s.rec.Doubt, s.rec.LookFirst = StateUnknown, true, false
		s.rec.FirstPostAt, s.rec.EndedAt, s.rec.EndedBy = s.rec.RequestedAt, s.began, s.cfg.Instance
		return written(s.enter(phaseLookUp))
	}
	s.noteLookup(s.began, string(ReconciledAbsent), "before the first POST")
	s.rec.LookFirst, s.looked = false, true
	return s.enter(phasePrepare)
}

// lookFirstFailed goes on after the look before the first POST failed. A definite refusal is the tenant's affair, as
// it would be for the POST: newer credentials get another look.
func (s *situation) lookFirstFailed(err error) action {
	if targetOf(err) == TargetVault {
		return s.secretTrouble(err, phaseLookFirst)
	}
	ce := asCallError(err)
	switch f := refusal(ce); {
	case f != nil && ce.passes():
		return s.lasting(ce.Target, f, phaseLookFirst)
	case f != nil:
		s.refused, s.used, s.fresh, s.phase = f, s.creds, true, phaseRecheck
		return action{do: doCredentials}
	}
	s.rec.LastFail = flowFailure(ReasonFlowUnavailable, ce)
	return s.tryLater(TargetFlow, err, phaseLookFirst)
}

// rechecked goes on after the credentials were read again because a look was refused.
func (s *situation) rechecked(err error) action {
	s.readCredentials(err)
	missing := missingSecret(err)
	switch {
	case missing != nil:
		return s.secretMissing(missing, phaseLookFirst, func() action { return s.fail(s.refused) })
	case err != nil:
		return s.secretTrouble(err, phaseLookFirst)
	case otherCredentials(s.used, s.creds):
		s.fresh = false
		return s.enter(phaseLookFirst)
	}
	return s.fail(s.refused)
}

// exists concludes where the sandbox already has connections of the request's name. Only what is enabled is
// adopted. What may be enabled in a moment is waited for.
func (s *situation) exists(named []Found) action {
	d := s.d.Request.Data
	unusable := ""
	if d.IfExists == IfExistsAdopt {
		for _, f := range named {
			so := s.at.now.Sub(s.rec.StartedAt)
			switch {
			case !sameConnection(f, d):
			case strings.EqualFold(f.State, stateEnabled):
				s.noteLookup(s.at.now, string(ReconciledAdopted), "ifExists")
				return s.succeed(f.Connection, true)
			case strings.EqualFold(f.State, stateInitializing) && so < refusalLasts:
				s.noteLookup(s.at.now, string(ReconciledUnknown), "connection "+f.ID+" is initializing")
				return s.rest(min(max(so, shortestRest), s.cfg.RetryDelayMax, refusalLasts-so), whyLater)
			default:
				unusable = fmt.Sprintf("; %s can't be adopted, for its state is %q: enable or delete it", f.ID, shorten(f.State, maxState))
			}
		}
	}
	return s.fail(Fail(ReasonNameExists, fmt.Sprintf("the sandbox has a connection named %q already (%s); choose another name, or use that one%s", d.Name, named[0].ID, unusable)))
}
