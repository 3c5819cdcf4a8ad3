package provision

import (
	"fmt"
	"log/slog"
	"strconv"
	"time"
)

// phase is what the work on a delivery waits for. See the table in decide.go.
type phase string

const (
	phaseStart      phase = "start"
	phaseExamine    phase = "examine"    // the request's record
	phaseSuspect    phase = "suspect"    // leave to work on a request that may kill its worker
	phaseLookUp     phase = "look up"    // what became of the open POST
	phaseResolve    phase = "resolve"    // the connection that a person named
	phaseLookFirst  phase = "look first" // whether there is a connection before the first POST
	phaseRecheck    phase = "recheck"    // newer credentials, after a look was refused
	phasePrepare    phase = "prepare"    // the secrets
	phaseAuthorize  phase = "authorize"  // the tenant's token
	phaseAcquire    phase = "acquire"    // a slot
	phaseRefresh    phase = "refresh"    // the secrets again, after the slot was long in coming
	phaseAllow      phase = "allow"      // leave to call the Flow Service
	phaseAnnounce   phase = "announce"   // the intent to POST in the ledger
	phasePost       phase = "post"       // the answer to the POST
	phaseReconsider phase = "reconsider" // newer secrets, after a POST was refused
	phaseWait       phase = "wait"       // time
	phaseLost       phase = "lost"       // the record that another worker wrote
	phaseEnd        phase = "end"
)

// holdsSlot reports whether the work has a slot in that phase.
func (p phase) holdsSlot() bool {
	return p == phaseRefresh || p == phaseAllow || p == phaseAnnounce || p == phasePost
}

// eventKind is what happened. All but three of them are what a phase waits for.
type eventKind string

const (
	evBegun       eventKind = "begun"
	evLoaded      eventKind = "loaded"
	evGranted     eventKind = "granted"
	evLooked      eventKind = "looked"
	evRead        eventKind = "read"
	evCredentials eventKind = "credentials"
	evSecrets     eventKind = "secrets"
	evAuthorized  eventKind = "authorized"
	evAcquired    eventKind = "acquired"
	evAllowed     eventKind = "allowed"
	evConfirmed   eventKind = "confirmed"
	evAnswered    eventKind = "answered"
	evWaited      eventKind = "waited"
	evLost        eventKind = "lost"      // another worker changed the record, so a write is void
	evUnwritten   eventKind = "unwritten" // the ledger can't be written
	evPanicked    eventKind = "panicked"
)

// event is something that happened to a request.
type event struct {
	kind    eventKind
	err     error         // of what was done; nil if it went well
	rec     *Record       // evLoaded, unless there is an err
	rev     uint64        // evLoaded
	granted bool          // evGranted
	seen    *sighting     // evLooked
	found   *Found        // evRead
	there   bool          // evRead
	waited  time.Duration // evAcquired: how long
	conn    Connection    // evAnswered
	logID   string        // evPanicked
}

// moment is what the world is like when something happens.
type moment struct {
	now            time.Time
	chance         float64   // in (0, 1], for jitter
	stopping       bool      // the worker was asked to stop
	sole           bool      // no other request is in flight
	lookFirstUntil time.Time // see Config.LookFirstUntil
}

// effect is something to do. When it is done, an event says how it went.
type effect string

const (
	doEnd         effect = "end"         // hand out action.out
	doLoad        effect = "load"        // read the record
	doSuspect     effect = "suspect"     // ask to be the one suspect of this process
	doLook        effect = "look"        // list connections
	doRead        effect = "read"        // read the connection action.id
	doCredentials effect = "credentials" // read the tenant's credentials
	doSecrets     effect = "secrets"     // read these and the request's secret
	doAuthorize   effect = "authorize"   // get a token
	doAcquire     effect = "acquire"     // wait for a slot
	doAllow       effect = "allow"       // ask the Gate
	doConfirm     effect = "confirm"     // nothing but the write
	doPost        effect = "post"        // send the POST
	doWait        effect = "wait"        // wait for action.wait
)

// action is what to do next. Where write is set the record is stored first, and the rest done only if that is known
// to have gone well.
type action struct {
	do    effect
	write bool
	wait  time.Duration // doWait
	look  *look         // doLook
	id    string        // doRead
	out   Outcome       // doEnd
}

// written returns a with the record stored first.
func written(a action) action {
	a.write = true
	return a
}

// notice is something that an operator wants to know of: a retry, the end of a look-up, or a line in the log.
type notice struct {
	target     Target // with cause: a call is to be repeated
	cause      Cause
	reconciled Reconciliation
	level      slog.Level
	msg        string
	attrs      []slog.Attr
}

// situation is a record and what the work on one delivery knows beside it.
type situation struct {
	cfg     *Config // its durations, Instance and LedgerCreated
	d       *Delivery
	started time.Time // of this delivery
	phase   phase
	rec     Record // as last stored, with what has changed since
	rev     uint64 // of rec in the ledger; 0 if it isn't there
	knowledge

	resume     phase         // after phaseWait
	atLeast    time.Duration // what upstream asked for, of the wait under way
	tries      int           // waits so far
	alone      bool          // it is the one suspect of this process
	fresh      bool          // the next read of secrets goes past the cache
	looked     bool          // this delivery looked for connections before the first POST
	began      time.Time     // when the look-up under way did
	settled    bool          // what it doesn't show isn't there
	refused    *Failure      // why the look before the first POST was refused
	before     *Record       // what rec was before the intent to POST, while that is being announced
	used       Credentials   // those that were refused
	usedSecret Secret

	at      moment
	notices []notice
}

// knowledge is what the delivery has read so far. Whoever carries out the actions writes it.
type knowledge struct {
	creds     Credentials
	secret    Secret
	readAt    time.Time        // when the last read of a secret began
	pastCache bool             // and whether it was one past the cache
	found     map[string]Found // connections that were read by their ids
}

func (s *situation) log(level slog.Level, msg string, attrs ...slog.Attr) {
	s.notices = append(s.notices, notice{level: level, msg: msg, attrs: attrs})
}

func (s *situation) retried(t Target, c Cause) {
	s.notices = append(s.notices, notice{target: t, cause: c})
}

func (s *situation) reconciled(how Reconciliation) {
	s.notices = append(s.notices, notice{reconciled: how})
}

// late reports whether the request's deadline is over.
func (s *situation) late() bool { return !s.at.now.Before(s.rec.Deadline) }

// jitter spreads d evenly over (0, d].
func (s *situation) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * s.at.chance)
}

func (s *situation) end(out Outcome) action {
	s.phase = phaseEnd
	return action{do: doEnd, out: out}
}

// back gives the message back as it is.
func (s *situation) back(d time.Duration, why string) action { return s.end(giveBack(d, why)) }

func (s *situation) load(p phase) action {
	s.phase = p
	return action{do: doLoad}
}

// firstRecord returns the record of a try that begins now.
func (s *situation) firstRecord() Record {
	r, now := s.d.Request, s.at.now
	rec := Record{
		Key: r.Key, State: StateClaimed, Retry: r.Retry, Fingerprint: r.Fingerprint, Trace: r.Trace,
		Sandbox: r.Data.Sandbox, Name: r.Data.Name, ConnectionSpec: r.Data.ConnectionSpec,
		RequestedAt: s.d.EnteredAt, StartedAt: now, Deadline: now.Add(s.cfg.RequestDeadline),
		LookFirst: s.d.Delivered > 1 || r.Retry > 0 || s.d.EnteredAt.Before(s.cfg.LedgerCreated) || now.Before(s.at.lookFirstUntil),
	}
	if !r.Expiry.IsZero() && r.Retry == 0 {
		rec.Deadline = r.Expiry
		if latest := now.Add(MaxDeadline); rec.Deadline.After(latest) {
			rec.Deadline = latest
		}
	}
	return rec
}

// free reports whether a message that was read directly may be worked on although there is a record. Whatever
// is to be said of its message alone, its delivery says.
func (s *situation) free() bool {
	r, rec := s.d.Request, s.rec
	switch {
	case rec.Fingerprint != r.Fingerprint:
		return false
	case rec.State.Final():
		// Whoever came to its outcome may have been unable to publish it, or have died.
		unpublished := rec.Direct && !rec.Published && rec.HeldSeq == s.d.Seq && s.at.now.Sub(rec.UpdatedAt) > publishWithin
		return rec.State == StateFailed && r.Retry == rec.Retry+1 || unpublished
	}
	wait, _ := s.elsewhere()
	return wait == 0 && r.Retry == rec.Retry && r.Resolution == nil && !s.at.now.Before(rec.RestUntil)
}

// publishWithin is how long after it was recorded an outcome may take to be published.
const publishWithin = time.Minute

// elsewhere returns how long to leave the request alone because somebody may be working on it.
func (s *situation) elsewhere() (time.Duration, string) {
	rec, now := &s.rec, s.at.now
	over := rec.leaseEnd().Add(ClockSkew)
	switch {
	case rec.State == StatePosting && now.Before(over):
		return over.Sub(now), "a POST for it may be under way"
	case !rec.Held || rec.Owner == s.cfg.Instance || !now.Before(rec.HeldUntil):
		return 0, ""
	case !rec.Direct && s.d.Seq == rec.HeldSeq && s.d.Delivered > rec.HeldDelivered:
		return 0, "" // the broker took it from the one who had it
	}
	return min(rec.HeldUntil.Sub(now), s.cfg.RetryDelayMax), "another worker has it"
}

// Deaths of workers that a request may cause before it is worked on alone, and then before it fails.
const (
	deathsBeforeAlone   = 2
	deathsBeforeFailure = 5
)

// survived forgets the deaths of earlier workers: this one got further than a step on the way to the
// POST, or past it. To look up what an earlier one did is not enough; the killer may be yet to come.
func (s *situation) survived() { s.rec.Deaths, s.rec.AloneDeaths = 0, 0 }

// settledAt returns when the open POST is settled: a complete look-up that begins later and finds
// nothing proves that it made nothing. Another worker's clock may be behind ours.
func (s *situation) settledAt() time.Time {
	at := s.rec.postEnd().Add(s.cfg.Settle)
	if s.rec.EndedBy != s.cfg.Instance {
		at = at.Add(ClockSkew)
	}
	return at
}

// owesLook reports whether the ledger was found to have lost records since the request was claimed.
func (s *situation) owesLook() bool {
	return s.rec.FirstPostAt.IsZero() && !s.looked && s.at.now.Before(s.at.lookFirstUntil)
}

// mindsOthers reports whether ifExists makes other connections of the same name matter.
func (s *situation) mindsOthers() bool {
	i := s.d.Request.Data.IfExists
	return i == IfExistsAdopt || i == IfExistsReject
}

// wrongDomain reports whether the secret says itself that it is for another host than the request's.
func (s *situation) wrongDomain() bool {
	d := s.secret.Domain
	return d != "" && ownerHost(d) != s.d.Request.Data.Auth.Params.Domain
}

// useSecrets records which versions of the secrets were used.
func (s *situation) useSecrets() {
	s.rec.Secrets = map[string]int{secretAdobe: s.creds.Version, secretToken: s.secret.Version}
}

// Keys of Record.Secrets.
const (
	secretAdobe = "adobe"
	secretToken = "token"
)

// staleAfter is how long a request may wait for its slot before the secrets are read again.
const staleAfter = time.Second

func (s *situation) noteLookup(at time.Time, result, detail string) {
	s.rec.note(Attempt{At: at, Step: "lookup", Result: result, Detail: detail, Elapsed: s.at.now.Sub(at).Seconds()})
}

// listed notes what the very fact shows that a look-up was answered.
func (s *situation) listed(ev event) {
	if ev.seen.asked {
		s.readCredentials(nil)
	}
	if ev.seen.served {
		s.rec.RefusedSince = time.Time{}
	}
}

// readCredentials notes that the credentials were read.
func (s *situation) readCredentials(err error) {
	if err == nil && s.rec.Missing != nil && s.rec.Missing.Reason == ReasonTenantUnknown {
		s.rec.Missing = nil
	}
}

// readSecrets notes that all secrets were read. The next time they may come from the cache again.
func (s *situation) readSecrets(err error) {
	if err == nil {
		s.fresh, s.rec.Missing = false, nil
	}
}

// How a request ends. The final record is stored before anybody is told anything.

func (s *situation) succeed(conn Connection, adopted bool) action {
	res := s.result(OutcomeCreated)
	res.Connection, res.Adopted = &conn, adopted
	return s.finish(StateCreated, res, "")
}

func (s *situation) fail(f *Failure) action {
	res := s.result(OutcomeFailed)
	res.Error = f
	return s.finish(StateFailed, res, string(f.Reason))
}

func (s *situation) finish(st State, res Result, why string) action {
	s.rec.State, s.rec.Held, s.rec.Refused, s.rec.Missing = st, false, nil, nil
	s.rec.HeldSeq, s.rec.HeldDelivered = s.d.Seq, s.d.Delivered // tells its message from repeats of it
	s.rec.note(Attempt{At: res.CompletedAt, Step: stepFinal, Result: res.Outcome, Detail: why})
	s.rec.Final = &FinalResult{EventID: res.EventID, Outcome: res.Outcome, Trace: res.Trace, Result: res}
	return written(s.publish(Outcome{}))
}

// lapse ends a request without an open POST at its deadline.
func (s *situation) lapse() action {
	f := s.rec.LastFail
	if f == nil {
		f = Fail(ReasonFlowUnavailable, "the deadline passed before a connection could be made")
	}
	if m := s.rec.Missing; m != nil && m.Reason == f.Reason {
		f = notBelieved(f, s.cfg.SecretGrace)
	} else if f.Reason == ReasonFlowDenied && !s.rec.RefusedSince.IsZero() {
		f = cutShort(f)
	}
	return s.fail(f)
}

// repeat publishes the outcome that an earlier delivery came to, unless the direct reader of the message did.
func (s *situation) repeat() action {
	out := Outcome{Repeat: true, Resumed: s.rec.HeldSeq == s.d.Seq}
	if out.Silent = out.Resumed && s.rec.Published; out.Silent {
		return s.end(out)
	}
	return s.publish(out)
}

// publish hands out the outcome as the record has it.
func (s *situation) publish(out Outcome) action {
	f := s.rec.Final
	if f == nil {
		return s.back(s.jitter(s.cfg.RetryDelayMax), "the ledger's record has a final state but no outcome")
	}
	res := f.Result
	res.EventID, res.Outcome, res.Trace = f.EventID, f.Outcome, f.Trace
	out.Result = &res
	return s.end(out)
}

// result returns the frame of a result that is concluded now.
func (s *situation) result(outcome string) Result {
	r := &s.rec
	res := Result{
		EventID: r.Key.EventID(r.Retry, outcome), Outcome: outcome, Trace: s.trace(),
		Request: RequestID{ID: r.Key.ID, Source: r.Key.Source}, Tenant: r.Key.Tenant,
		Sandbox: r.Sandbox, Name: r.Name, Attempts: r.Posts,
		RequestedAt: r.RequestedAt.UTC(), StartedAt: r.StartedAt.UTC(), CompletedAt: s.at.now.UTC(),
	}
	if r.ConnectionSpec != (ConnectionSpec{}) {
		spec := r.ConnectionSpec
		res.ConnectionSpec = &spec
	}
	return res
}

// trace returns where in the request's trace the work is. The message that was recorded first counts.
func (s *situation) trace() Trace {
	switch {
	case s.d.Work.Parent != "":
		return s.d.Work
	case s.rec.Trace.Parent != "":
		return s.rec.Trace
	}
	return s.d.Request.Trace
}

// detached concludes a message that may not speak for the request it names: the ledger is left
// alone, and the event's id covers what makes this message another one.
func (s *situation) detached(f *Failure) Outcome {
	r := s.d.Request
	s.rec = s.firstRecord()
	res := s.result(OutcomeFailed)
	res.Trace = r.Trace // as the message has it: published again, it is the same to the byte
	res.EventID = digest(r.Key.String(), r.Fingerprint, strconv.Itoa(r.Retry), s.d.EventSalt, string(f.Reason))[:32]
	res.StartedAt, res.CompletedAt = res.RequestedAt, res.RequestedAt
	res.Error = f
	return Outcome{Result: &res, Detached: true}
}

func (s *situation) unknownFailure(detail string) *Failure {
	return Fail(ReasonOutcomeUnknown, fmt.Sprintf("a POST was sent and it is not known whether it made a connection (%s). "+
		"Look in sandbox %q for a connection named %q whose description ends with %q: if it is there, use it; "+
		"if it is not, retry this request. \"worker resolve\" settles what a retry can't", detail, s.rec.Sandbox, s.rec.Name, s.d.Request.Key.Mark()))
}
