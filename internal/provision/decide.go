package provision

import (
	"errors"
	"log/slog"
	"time"
)

// The life of a request, as every delivery of its message goes through it. A phase is what the work waits for; an
// event is what happened; behind the arrow stand the phases that may come next. "end" hands the outcome, or the
// message, back to the consumer. Nothing is sent before the record that announces it is stored: an action that says
// write is taken only after that. A test compares this table with what decide does.
//
//	start            begun       → examine, look first, prepare, end
//	examine          loaded      → suspect, look up, look first, reconsider, prepare, wait, end
//	suspect          granted     → look up, look first, reconsider, prepare, end
//	look up          looked      → look up, resolve, prepare, wait, end
//	resolve          read        → wait, end
//	look first       looked      → look first, look up, recheck, prepare, wait, end
//	recheck          credentials → look first, wait, end
//	prepare          secrets     → prepare, authorize, wait, end
//	authorize        authorized  → prepare, reconsider, acquire, wait, end
//	acquire          acquired    → look first, refresh, allow, end
//	refresh          secrets     → prepare, allow, end
//	allow            allowed     → announce, end
//	announce         confirmed   → post, look first, end
//	post             answered    → look up, reconsider, prepare, wait, end
//	reconsider       secrets     → prepare, wait, end
//	wait             waited      → look up, look first, reconsider, prepare, wait, end
//	lost             loaded      → examine, end
//	any              lost        → examine, lost
//	any              unwritten   → end
//	any              panicked    → end

// decider is the form of decide.
type decider func(*situation, event, moment) action

// decide says what becomes of a request to which ev happened, and what is to be done next. It calls nothing, reads no
// clock and changes nothing but s: what comes of it follows from its arguments alone. All that a delivery goes through
// is here, in the order of the table.
func decide(s *situation, ev event, at moment) action {
	s.at, s.notices = at, nil
	switch ev.kind {
	case evLost:
		return s.lost()
	case evUnwritten:
		return s.unwritten(ev.err)
	case evPanicked:
		return s.fail(Fail(ReasonInternal, "a bug in flow-worker stopped this request; see the worker's log, log_id "+ev.logID))
	}
	return s.decide(ev)
}

func (s *situation) decide(ev event) action {
	switch s.phase {
	case phaseStart:
		return s.begin()
	case phaseExamine:
		return s.examined(ev)
	case phaseLost:
		return s.readAfterLoss(ev)
	case phaseSuspect:
		return s.suspected(ev.granted)
	case phaseLookUp:
		return s.lookedUp(ev)
	case phaseResolve:
		return s.resolveAs(ev)
	case phaseLookFirst:
		return s.lookedFirst(ev)
	case phaseRecheck:
		return s.rechecked(ev.err)
	case phasePrepare:
		return s.prepared(ev.err)
	case phaseAuthorize:
		return s.authorized(ev.err)
	case phaseAcquire:
		return s.acquired(ev)
	case phaseRefresh:
		return s.refreshed(ev.err)
	case phaseAllow:
		return s.allowed(ev.err)
	case phaseAnnounce:
		return s.announced()
	case phasePost:
		return s.answered(ev.conn, ev.err)
	case phaseReconsider:
		return s.reconsidered(ev.err)
	case phaseWait:
		if ev.err != nil {
			return s.handBack(s.atLeast)
		}
		return s.enter(s.resume)
	}
	panic("provision: nothing can happen in the phase " + string(s.phase))
}

// enter begins a phase that other phases, or a wait, lead to.
func (s *situation) enter(p phase) action {
	switch s.phase = p; p {
	case phaseLookUp:
		return s.lookUp()
	case phaseLookFirst:
		return s.lookFirst()
	case phaseReconsider:
		return s.reconsider()
	case phasePrepare:
		return s.prepare()
	}
	panic("provision: nothing leads to the phase " + string(p))
}

// begin takes a message's first delivery for a new request: nearly all are, and if there is a record all the same,
// then the first write finds it. Anything else is looked up in the ledger.
func (s *situation) begin() action {
	d := s.d
	switch {
	case d.Invalid != nil && d.Detached && d.Direct:
		return s.end(Outcome{Silent: true})
	case d.Invalid != nil && d.Detached:
		return s.end(s.detached(d.Invalid))
	case d.Delivered > 1 || d.Request.Retry > 0:
		return s.load(phaseExamine)
	}
	s.rec = s.firstRecord()
	return s.claim()
}

// examined decides by the record whether there is anything to do.
func (s *situation) examined(ev event) action {
	d := s.d
	switch {
	case errors.Is(ev.err, ErrNoRecord) && d.Request.Resolution != nil:
		return s.end(s.detached(Fail(ReasonInvalidRequest, "the ledger does not know this request (any more), so there is nothing to resolve; retry it")))
	case errors.Is(ev.err, ErrNoRecord):
		s.rec = s.firstRecord()
		if d.Delivered > 1 { // whoever had it before vanished without a word, as far as we know
			s.rec.Deaths, s.rec.AloneDeaths = 1, 1
		}
		return s.claim()
	case ev.err != nil:
		s.log(slog.LevelWarn, "the ledger cannot be read", slog.Any("error", ev.err))
		return s.back(s.jitter(s.cfg.RetryDelayMax), "the ledger cannot be read")
	}
	s.rec, s.rev = *ev.rec, ev.rev
	if d.Direct && !s.free() {
		return s.end(Outcome{Silent: true})
	}
	switch {
	case s.rec.Fingerprint != d.Request.Fingerprint:
		return s.end(s.detached(Fail(ReasonIDReused,
			"this id was used before by this source for a request with other data; give every request an id of its own")))
	case d.Request.Retry > s.rec.Retry && s.rec.State != StateCreated:
		return s.newRound()
	case s.rec.State.Final():
		return s.repeat()
	case d.Request.Resolution != nil && s.rec.Resolution == nil && s.at.now.Before(s.rec.Deadline):
		// A plain retry of the same number was first. It may POST, but not by this message, which tells its end.
		return s.back(s.jitter(s.cfg.RetryDelayMax), "a retry of this number that may POST is under way")
	}
	if wait, why := s.elsewhere(); wait > 0 {
		return s.back(wait, why)
	}
	return s.takeOver()
}

// newRound begins the retry that the message asks for, if it may.
func (s *situation) newRound() action {
	old, r := s.rec, s.d.Request.Resolution
	switch {
	case old.State != StateFailed || s.d.Request.Retry != old.Retry+1:
		return s.end(s.detached(Fail(ReasonInvalidRequest, retryRefusal(old, s.d.Request.Retry))))
	case s.d.Invalid != nil && (old.Doubt || r != nil): // it doesn't say where to look, which the record does
		return s.end(s.detached(s.d.Invalid))
	case r != nil && unresolvable(old) != nil:
		return s.end(s.detached(unresolvable(old)))
	}
	s.rec = s.firstRecord()
	s.rec.Attempts, s.rec.FirstPostAt = old.Attempts, old.FirstPostAt
	s.rec.PostedAt, s.rec.Lease, s.rec.EndedAt, s.rec.EndedBy = old.PostedAt, old.Lease, old.EndedAt, old.EndedBy
	s.rec.Doubt, s.rec.LookFirst = old.Doubt, !old.FirstPostAt.IsZero()
	if old.Doubt || r != nil {
		s.rec.State = StateUnknown
	}
	if r != nil { // the record's counts from now on, whatever other messages of this retry say
		s.rec.Resolution = r
		s.rec.note(r.attempt(s.at.now))
	}
	return s.claim()
}

// takeOver continues what another worker, or an earlier delivery, left behind.
func (s *situation) takeOver() action {
	if s.rec.Held && s.rec.Owner != s.cfg.Instance { // what this one wrote and could not confirm is no death
		s.rec.Deaths++
		if s.rec.Alone {
			s.rec.AloneDeaths++
		}
		s.log(slog.LevelWarn, "its last worker vanished",
			slog.Int("deaths", s.rec.Deaths), slog.Int("alone_deaths", s.rec.AloneDeaths), slog.String("owner", s.rec.Owner))
	}
	if s.rec.State == StatePosting {
		s.rec.State, s.rec.Doubt = StateUnknown, true
		s.rec.EndedAt, s.rec.EndedBy = s.rec.leaseEnd().Add(ClockSkew), s.cfg.Instance
		s.rec.RefusedSince = time.Time{} // for all we know, this one was not refused
	}
	if s.rec.Deaths >= deathsBeforeAlone {
		s.phase = phaseSuspect
		return action{do: doSuspect}
	}
	return s.claim()
}

// suspected goes on with a request that may have killed its workers: one at a time is worked on.
func (s *situation) suspected(granted bool) action {
	if s.alone = granted; !granted {
		return s.back(s.jitter(firstWriteWait), "another request that may have killed its workers is being worked on")
	}
	return s.claim()
}

// claim records that this worker has the request, then goes where its state leads. The claim of a first delivery
// goes into the ledger with the next write: the intent to POST, or the first wait.
func (s *situation) claim() action {
	s.rec.Owner = s.cfg.Instance
	switch {
	case s.d.Invalid != nil && s.rec.State == StateClaimed && s.rec.FirstPostAt.IsZero():
		return s.fail(s.d.Invalid)
	case s.rev == 0 && s.late():
		return s.fail(Fail(ReasonExpired, "its expirytime had passed when it was first seen; send it again with a later one"))
	}
	s.rec.Held, s.rec.HeldSeq, s.rec.HeldDelivered, s.rec.Direct = true, s.d.Seq, s.d.Delivered, s.d.Direct
	s.rec.RestUntil = time.Time{}
	s.rec.Alone = s.alone || s.at.sole
	s.rec.note(Attempt{At: s.at.now, Step: "claim", Result: string(s.rec.State)})
	next := s.proceed()
	if s.rev != 0 || s.d.Delivered != 1 {
		next.write = true
	}
	return next
}

// proceed enters the phase that the record's state calls for.
func (s *situation) proceed() action {
	s.fresh = s.fresh || !s.rec.RefusedSince.IsZero()
	switch {
	case s.rec.State == StateUnknown:
		return s.enter(phaseLookUp)
	case s.rec.AloneDeaths >= deathsBeforeFailure:
		return s.fail(Fail(ReasonCrashLoop, "five workers died while it was their only request; see the worker's log before you retry it"))
	case s.d.Invalid != nil:
		return s.fail(s.d.Invalid)
	case s.rec.Refused != nil:
		return s.enter(phaseReconsider)
	case s.rec.LookFirst || s.rec.FirstPostAt.IsZero() && s.mindsOthers():
		return s.enter(phaseLookFirst)
	}
	return s.enter(phasePrepare)
}

// prepare gets what a POST needs: the tenant's credentials and the secret that the request refers to.
func (s *situation) prepare() action {
	if s.late() {
		return s.lapse()
	}
	if wait := s.rec.NotBefore.Sub(s.at.now); wait > 0 {
		return s.pause(wait, phasePrepare)
	}
	return action{do: doSecrets}
}

func (s *situation) prepared(err error) action {
	if s.readSecrets(err); err != nil {
		return s.secretTrouble(err, phasePrepare)
	}
	if s.wrongDomain() {
		if !s.pastCache { // its owner may have changed it since
			s.fresh = true
			return s.enter(phasePrepare)
		}
		said := "names another host than the request's auth.params.domain; send it where its owner said, or have its owner change the field"
		if ownerHost(s.secret.Domain) == "" {
			said = "is not https://<host>, so it allows no host; have its owner write one host there, without another scheme, port, path, list, pattern or dot at the end"
		}
		return s.fail(Fail(ReasonSecretForbidden, "the secret's own field \"domain\" "+said))
	}
	s.phase = phaseAuthorize
	return action{do: doAuthorize}
}

// authorized goes on after the tenant got a token, or none: then nothing was sent.
func (s *situation) authorized(err error) action {
	if err == nil {
		s.phase = phaseAcquire
		return action{do: doAcquire}
	}
	ce := asCallError(err)
	if refused := refusal(ce); refused != nil {
		refused.Reason = ReasonFlowDenied
		s.rec.note(Attempt{At: s.at.now, Step: string(ce.Target), Result: ce.Verdict.String(), Detail: text(ce)})
		if ce.passes() {
			s.survived()
			return s.lasting(ce.Target, refused, phasePrepare)
		}
		s.rec.Refused = refused
		s.useSecrets()
		return s.enter(phaseReconsider)
	}
	s.rec.LastFail = flowFailure(ReasonFlowUnavailable, ce)
	return s.tryLater(ce.Target, err, phasePrepare)
}

// acquired goes on once there is a slot, or none came free in time. Getting here may have taken longer than the
// request had left, and the secrets may be others by now.
func (s *situation) acquired(ev event) action {
	switch {
	case s.late():
		return s.lapse()
	case ev.err != nil:
		return s.handBack(0)
	case s.owesLook():
		return s.enter(phaseLookFirst)
	case ev.waited > staleAfter:
		s.phase = phaseRefresh
		return action{do: doSecrets}
	}
	s.phase = phaseAllow
	return action{do: doAllow}
}

func (s *situation) refreshed(err error) action {
	if s.readSecrets(err); err != nil || s.wrongDomain() {
		return s.enter(phasePrepare) // which says what is wrong
	}
	s.phase = phaseAllow
	return action{do: doAllow}
}

// allowed announces the POST, if the Flow Service may be called just now. Its time is taken before the ledger write,
// so the lease that others see is never longer than the one we keep.
func (s *situation) allowed(closed error) action {
	if closed != nil {
		if s.rec.LastFail == nil {
			s.rec.LastFail = Fail(ReasonFlowUnavailable, "the Flow Service is not being called for now, because it fails")
		}
		return s.tryLater(TargetFlow, closed, phasePrepare)
	}
	before := s.rec
	s.before = &before
	s.rec.State, s.rec.PostedAt, s.rec.Lease = StatePosting, s.at.now, s.cfg.FlowTimeout
	s.rec.EndedAt, s.rec.EndedBy = time.Time{}, ""
	s.rec.NotBefore, s.rec.LookFirst = time.Time{}, false
	s.rec.Posts++
	if s.rec.FirstPostAt.IsZero() {
		s.rec.FirstPostAt = s.at.now
	}
	s.useSecrets()
	s.phase = phaseAnnounce
	return written(action{do: doConfirm})
}

// announced sends the POST. But the very write may have shown that the ledger lost records: then the intent is taken
// back, and the request looked up.
func (s *situation) announced() action {
	first := s.rec.FirstPostAt
	if s.rec.FirstPostAt = s.before.FirstPostAt; s.owesLook() {
		s.rec = *s.before
		s.rec.LookFirst = true
		return written(s.enter(phaseLookFirst))
	}
	s.rec.FirstPostAt, s.phase, s.before = first, phasePost, nil
	return action{do: doPost}
}

// answered takes the answer to a POST.
func (s *situation) answered(conn Connection, err error) action {
	now := s.at.now
	result := Attempt{At: s.rec.PostedAt, Step: stepPost, Result: OutcomeCreated, Elapsed: now.Sub(s.rec.PostedAt).Seconds()}
	if err == nil {
		s.rec.note(result)
		return s.succeed(conn, false)
	}
	ce := asCallError(err)
	result.Result, result.Detail = ce.Verdict.String(), text(ce)
	s.rec.note(result)
	s.log(slog.LevelDebug, "the POST made no connection that we know of", slog.String("verdict", ce.Verdict.String()),
		slog.Int("status", ce.Status), slog.String("code", ce.Code), slog.Any("error", ce))
	s.rec.LastFail = flowFailure(ReasonFlowUnavailable, ce)
	s.survived()
	if !ce.passes() {
		s.rec.RefusedSince = time.Time{}
	}
	if ce.RetryAfter > 0 && (ce.passes() || ce.Verdict == VerdictUnknown) {
		s.rec.NotBefore = now.Add(ce.RetryAfter)
	}
	if ce.Verdict == VerdictUnknown {
		return s.postUnknown(ce)
	}
	s.rec.State = StateWaiting
	switch refused := refusal(ce); {
	case refused != nil && ce.passes():
		return s.lasting(ce.Target, refused, phasePrepare)
	case refused != nil: // the next write is the one that ends the request, or tries newer secrets
		s.rec.Refused = refused
		return s.enter(phaseReconsider)
	}
	s.retried(ce.Target, orNetwork(ce.Cause))
	return written(s.pause(ce.RetryAfter, phasePrepare)) // so that nobody waits for this POST
}

// postUnknown records that the POST has ended and that nobody knows how.
func (s *situation) postUnknown(ce *CallError) action {
	s.retried(ce.Target, orNetwork(ce.Cause))
	s.rec.State, s.rec.Doubt, s.rec.EndedAt, s.rec.EndedBy = StateUnknown, true, s.at.now, s.cfg.Instance
	switch {
	case ce.Exists:
		s.rec.Taken++
	case ce.Status >= 200 && ce.Status < 300:
		s.rec.Promises++
	}
	return written(s.enter(phaseLookUp))
}

// reconsider reads the secrets past the cache after a refusal: a newer version gets one more POST.
func (s *situation) reconsider() action {
	if s.rec.Reread || s.late() {
		return s.fail(s.rec.Refused)
	}
	s.used, s.usedSecret, s.fresh = s.creds, s.secret, true
	return action{do: doSecrets}
}

func (s *situation) reconsidered(err error) action {
	if s.readSecrets(err); err != nil {
		missing := missingSecret(err)
		if missing == nil {
			return s.tryLater(TargetVault, err, phaseReconsider)
		}
		return s.secretMissing(missing, phaseReconsider, func() action { return s.fail(s.rec.Refused) })
	}
	s.used.Version = s.rec.Secrets[secretAdobe]
	if !otherCredentials(s.used, s.creds) && !otherVersion(s.rec.Secrets[secretToken], s.secret.Version, s.usedSecret.Value, s.secret.Value) {
		return s.fail(s.rec.Refused)
	}
	s.rec.Reread, s.rec.Refused = true, nil
	return s.enter(phasePrepare)
}

// lost follows a write that another worker's write made void: the record is theirs.
func (s *situation) lost() action {
	if s.rev == 0 {
		return s.load(phaseExamine) // it was no new request
	}
	return s.load(phaseLost)
}

// readAfterLoss tells the outcome that another worker recorded, if it is one; else the message rests.
func (s *situation) readAfterLoss(ev event) action {
	switch {
	case ev.err != nil || !ev.rec.State.Final() || ev.rec.Fingerprint != s.d.Request.Fingerprint:
	case ev.rec.Retry < s.d.Request.Retry:
		return s.load(phaseExamine) // what was written is that the last outcome is published: the retry is yet to begin
	default:
		s.rec, s.rev = *ev.rec, ev.rev
		return s.repeat()
	}
	return s.back(s.jitter(s.cfg.RetryDelayMax), "another worker took it over")
}

// unwritten gives the message back: nobody may do what could not be announced.
func (s *situation) unwritten(err error) action {
	s.log(slog.LevelWarn, "the ledger cannot be written", slog.Any("error", err))
	wait := s.cfg.RetryDelayMax
	if s.rev == 0 {
		wait = min(wait, firstWriteWait) // it was tried only once
	}
	return s.back(s.jitter(wait), "the ledger cannot be written")
}
