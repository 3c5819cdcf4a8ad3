package provision

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// rules is the world's own book-keeping: what it knows of every POST, whatever the workers believe,
// which promises were broken, and which paths a run took.
type rules struct {
	open    map[Key]openPost  // POSTs that nobody has proved to have made nothing
	sent    map[Key]int       // POSTs that reached the server
	alone   map[Key]time.Time // until when the server asked to be left alone
	retried map[Key]int       // the last retry number that was sent
	broken  []string
	hits    map[string]int
}

// openPost is a POST that may have made a connection.
type openPost struct {
	by      string
	settled time.Time // from when on a list that doesn't show its connection proves that there is none
}

// Paths that a run may take; rules.hits counts them.
const (
	viaPromise  = "a POST was answered with a success that named no connection"
	viaIMS      = "no token"
	viaSlotWait = "a slot was waited for"
	viaNoSlot   = "no slot came free in one delivery"
	viaBegin    = "a POST waited after it was announced"
	viaNotBegun = "a POST that was announced was not sent"
	viaDirect   = "a message was read without being delivered"
	viaSilent   = "a delivery was acknowledged in silence"
	viaHandBack = "to be tried again later" // as in Outcome.Why
	viaAlone    = "a POST was answered with Retry-After"
	viaFirst    = "looked up before the first POST"
	viaIfExists = "concluded because of ifExists"
	viaStop     = "a worker stopped as it was asked to"
	viaNoList   = "the list could not be had"
	viaNoLedger = "the ledger could not be had"
	viaRetry    = "a retry was sent"
	viaReread   = "newer secrets got one more POST"
	viaAbsent   = "a POST was settled as absent"
	viaUnknown  = "outcome_unknown was told"
	viaNamed    = "a person's word named the connection"
	viaGone     = "a person's word settled a POST as absent"
	viaContra   = "a person's word was not borne out"
	viaRead     = "a connection was read by its id"
	viaTaken    = "a POST was refused because such a connection exists"
	viaMissing  = "a secret was missing"
	viaGrace    = whyMissing // as in Outcome.Why
)

func viaGate(t Target) string { return "the gate kept callers from " + string(t) }

// paths lists all of them.
func paths() []string {
	return []string{
		viaPromise, viaIMS, viaSlotWait, viaNoSlot, viaBegin, viaNotBegun, viaDirect, viaSilent, viaHandBack, viaAlone, viaFirst, viaIfExists, viaStop,
		viaNoList, viaNoLedger, viaRetry, viaReread, viaAbsent, viaUnknown, viaGate(TargetFlow), viaGate(TargetVault),
		viaNamed, viaGone, viaContra, viaRead, viaTaken, viaMissing, viaGrace,
	}
}

func newRules() rules {
	return rules{
		open: map[Key]openPost{}, sent: map[Key]int{}, alone: map[Key]time.Time{}, retried: map[Key]int{}, hits: map[string]int{},
	}
}

func (r *rules) hit(path string) { r.hits[path]++ }

func (r *rules) breach(format string, args ...any) {
	r.broken = append(r.broken, fmt.Sprintf(format, args...))
}

// posted checks a POST that reaches the server: the ledger announces it, in time, and no earlier one
// is open.
func (s *sim) posted(p *proc, k Key, notAfter, ended time.Time) {
	rec, now := s.ledger.record(k), p.hub.Clock.Now()
	switch before, open := s.open[k]; {
	case open:
		s.breach("%s POSTs while the POST of %s is open", p.name, before.by)
	case rec.Resolution != nil:
		s.breach("%s POSTs, though the retry is there to settle a POST", p.name)
	case rec.State != StatePosting || rec.Owner != p.name || !now.Before(rec.leaseEnd()):
		s.breach("%s POSTs, but the ledger says %s by %s, lease until %v (now %v)", p.name, rec.State, rec.Owner, rec.leaseEnd(), now)
	case notAfter.After(rec.leaseEnd()):
		s.breach("%s may POST until %v, but the ledger says until %v", p.name, notAfter, rec.leaseEnd())
	case !rec.PostedAt.Before(rec.Deadline):
		s.breach("%s POSTs at %v, deadline %v", p.name, rec.PostedAt, rec.Deadline)
	case s.now.Before(s.alone[k]) && !s.disturbed():
		s.breach("%s POSTs at %v, asked not to before %v", p.name, s.now, s.alone[k])
	}
	if rec.Reread {
		s.hit(viaReread)
	}
	s.sent[k]++
	s.open[k] = openPost{p.name, ended.Add(simSettle)}
}

// disturbed reports whether anything but the plain course of things happened: then a worker may not
// have been able to write down what it was told.
func (s *sim) disturbed() bool {
	return s.clash || slices.ContainsFunc(s.trace, func(e simStep) bool { return e.fate != goesWell && e.fate != stops })
}

// answered notes what a worker that lives is told about its POST.
func (s *sim) answered(k Key, ce *CallError) {
	if ce.Verdict != VerdictUnknown {
		delete(s.open, k)
	}
	if ce.Verdict == VerdictUnknown && ce.Status/100 == 2 {
		s.hit(viaPromise)
	}
	if ce.Exists {
		s.hit(viaTaken)
	}
	if ce.RetryAfter > 0 {
		s.hit(viaAlone)
		s.alone[k] = s.now.Add(ce.RetryAfter)
	}
}

// lookedUp notes a look-up for k: what one that asks by nothing but time doesn't show after Settle is not
// there. The worker must see whether it shows k's connection, in whatever form.
func (s *sim) lookedUp(k Key, q Query, shows bool) {
	if s.sent[k] == 0 {
		s.hit(viaFirst)
	}
	if s.now.Before(s.alone[k]) && !s.disturbed() && s.now.Before(s.ledger.record(k).Deadline) {
		s.breach("looked up at %v, asked not to before %v", s.now, s.alone[k])
	}
	narrowed := len(q.Names) > 0 || q.SpecID != "" || q.Newest
	if o, open := s.open[k]; open && !shows && !narrowed && !s.now.Before(o.settled) {
		s.hit(viaAbsent)
		delete(s.open, k)
	}
}

// handled checks what a worker leaves behind that has done with a message, and notes how it went.
func (p *proc) handled(out Outcome) {
	if p.asking != 0 || p.slots != 0 {
		p.s.breach("%s keeps %d calls from the gate and %d slots", p.name, p.asking, p.slots)
	}
	if out.Result == nil && !out.Silent {
		p.s.hit(out.Why)
	}
	rec := p.s.ledger.record(p.msg.d.Request.Key)
	if f := rec.Final; f != nil && (f.Result.Error != nil && f.Result.Error.Reason == ReasonNameExists ||
		slices.ContainsFunc(rec.Attempts, func(a Attempt) bool { return a.Detail == "ifExists" })) {
		p.s.hit(viaIfExists)
	}
}

// told publishes a result, and lets a person send a retry after it.
func (s *sim) told(res Result) {
	s.results = append(s.results, res)
	s.noteWord(res)
	k := Key{Tenant: res.Tenant, Source: res.Request.Source, ID: res.Request.ID}
	if res.Error != nil {
		s.toldFailed(k, res)
	}
	if s.retry == nil {
		return
	}
	if n := s.retry(res, s.retried[k]); n == s.retried[k]+1 && res.EventID == k.EventID(n-1, OutcomeFailed) {
		s.retried[k] = n
		s.hit(viaRetry)
		r := s.firstOf(k).d.Request
		r.Retry = n
		if s.word != nil && res.Error.Reason == ReasonOutcomeUnknown {
			r.Resolution = s.word(n)
		}
		s.send(r)
		if r.Resolution != nil && s.both { // and another person, who doesn't know of it, retries
			r.Resolution = nil
			s.send(r)
		}
	}
}

// firstOf returns the first message of the request k.
func (s *sim) firstOf(k Key) *simMsg {
	return s.msgs[slices.IndexFunc(s.msgs, func(m *simMsg) bool { return m.d.Request.Key == k })]
}

// toldFailed checks that nobody is told of a failure while a POST is open, but that it is.
func (s *sim) toldFailed(k Key, res Result) {
	o, open := s.open[k]
	again := slices.ContainsFunc(s.results[:len(s.results)-1], func(r Result) bool { return r.EventID == res.EventID })
	switch {
	case again:
		return
	case res.Error.Reason == ReasonOutcomeUnknown:
		if s.hit(viaUnknown); s.now.Before(o.settled) {
			s.breach("told %s before the POST of %s could be settled", res.Error.Reason, o.by)
		}
	case open:
		s.breach("told %s while the POST of %s is open", res.Error.Reason, o.by)
	}
	switch rec := s.ledger.record(k); res.Error.Reason {
	case ReasonSecretNotFound, ReasonTenantUnknown:
		if s.believes != nil && !s.believes(res.Error.Reason) && res.CompletedAt.Before(rec.Deadline) {
			s.breach("told %s at %v, when it had not been missing for long enough", res.Error.Reason, s.now)
		}
	case ReasonFlowUnavailable, ReasonVaultUnavailable, ReasonOutcomeUnknown:
		if rec.State == StateFailed && rec.Resolution == nil && res.CompletedAt.Before(rec.Deadline) {
			s.breach("told %s at %v, before the deadline %v", res.Error.Reason, res.CompletedAt, rec.Deadline)
		}
	}
}

// checkOne asserts the promise for a single request.
func (s *sim) checkOne(k Key) Result {
	s.t.Helper()
	res, err := s.verify(k)
	if err != nil {
		s.fatal("%v", err)
	}
	return res
}

// checkAll asserts the promise for every request that was sent, and returns the first one's outcome.
func (s *sim) checkAll() Result {
	s.t.Helper()
	for _, m := range s.msgs[1:] {
		s.checkOne(m.d.Request.Key)
	}
	return s.checkOne(s.msgs[0].d.Request.Key)
}

// verify says how the promise is broken for the request k: at most one connection, exactly one
// outcome for the first try and every retry, told everywhere alike, in agreement with what is there
// and with the ledger, and no rule broken on the way. It returns the last outcome.
func (s *sim) verify(k Key) (res Result, err error) {
	if made := s.madeFor(k); len(made) > 1 {
		return res, fmt.Errorf("duplicates: %d connections: %v", len(made), made)
	}
	if len(s.broken) > 0 {
		return res, fmt.Errorf("%d rules were broken, first: %s", len(s.broken), s.broken[0])
	}
	outcomes, err := s.outcomes(k)
	if err != nil {
		return res, err
	}
	first := s.firstOf(k).d.Request.Retry
	last := max(first, s.retried[k])
	if len(outcomes) != 1+last-first {
		return res, fmt.Errorf("%d outcomes, want %d: %+v", len(outcomes), 1+last-first, outcomes)
	}
	attempts := 0
	for n := first; n <= last; n++ {
		created, yes := outcomes[k.EventID(n, OutcomeCreated)]
		failed, no := outcomes[k.EventID(n, OutcomeFailed)]
		if yes == no {
			return res, fmt.Errorf("retry %d: told as created: %v, as failed: %v", n, yes, no)
		}
		if res = failed; yes {
			res = created
		}
		attempts += res.Attempts
	}
	if s.sent[k] > attempts {
		return res, fmt.Errorf("%d POSTs were sent, %d are told of", s.sent[k], attempts)
	}
	if err := s.agrees(k, res); err != nil {
		return res, err
	}
	return res, agree(res, s.madeFor(k))
}

// outcomes returns what was told of k, by event id.
func (s *sim) outcomes(k Key) (map[string]Result, error) {
	outcomes := map[string]Result{}
	for _, r := range slices.Concat(s.results, s.dead) {
		if (r.Request != RequestID{ID: k.ID, Source: k.Source}) {
			continue
		}
		if old, ok := outcomes[r.EventID]; ok && !reflect.DeepEqual(old, r) {
			return nil, fmt.Errorf("one event id, two stories:\n%+v\n%+v", old, r)
		}
		outcomes[r.EventID] = r
	}
	return outcomes, nil
}

func (s *sim) madeFor(k Key) (ids []string) {
	for _, c := range s.conns {
		if c.by == k || strings.Contains(c.Description, k.Mark()) {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// agrees compares the last outcome with the ledger's.
func (s *sim) agrees(k Key, res Result) error {
	rec := s.ledger.record(k)
	if rec.Final == nil || !rec.State.Final() || rec.Held {
		return fmt.Errorf("told as %s, but the ledger says %s, held=%v", res.Outcome, rec.State, rec.Held)
	}
	kept := rec.Final.Result
	kept.EventID, kept.Outcome, kept.Trace = rec.Final.EventID, rec.Final.Outcome, rec.Final.Trace
	if !reflect.DeepEqual(kept, res) {
		return fmt.Errorf("the ledger has another outcome:\n%+v\n%+v", kept, res)
	}
	return nil
}

func agree(res Result, made []string) error {
	switch {
	case res.Outcome == OutcomeCreated && len(made) == 0 && !res.Adopted:
		return fmt.Errorf("told as created, but there is no connection: %+v", res)
	case res.Outcome == OutcomeCreated && len(made) == 1 && res.Connection.ID != made[0]:
		return fmt.Errorf("told connection %s, made %s", res.Connection.ID, made[0])
	case res.Outcome == OutcomeFailed && len(made) > 0 && res.Error.Reason != ReasonOutcomeUnknown:
		return fmt.Errorf("orphan: told as failed (%s), but %v exists", res.Error.Reason, made)
	}
	return nil
}
