package provision

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// mutant is a decide that is broken in one way.
type mutant struct {
	name string
	wrap func(decider) decider
}

// given breaks what decide is told, where that is what happened.
func given(kind eventKind, change func(s *situation, ev *event, at *moment)) func(decider) decider {
	return func(next decider) decider {
		return func(s *situation, ev event, at moment) action {
			if ev.kind == kind {
				change(s, &ev, &at)
			}
			return next(s, ev, at)
		}
	}
}

// answer is given for the error of an answer to a POST.
func answer(change func(*CallError)) func(decider) decider {
	return given(evAnswered, func(_ *situation, ev *event, _ *moment) {
		var ce *CallError
		if errors.As(ev.err, &ce) {
			other := *ce
			change(&other)
			ev.err = &other
		}
	})
}

// result breaks what decide says.
func result(change func(from situation, ev event, to *situation, do *action)) func(decider) decider {
	return func(next decider) decider {
		return func(s *situation, ev event, at moment) action {
			from := *s
			do := next(s, ev, at)
			change(from, ev, s, &do)
			return do
		}
	}
}

// loaded is given for a record that was read.
func loaded(change func(r *Record)) func(decider) decider {
	return given(evLoaded, func(_ *situation, ev *event, _ *moment) {
		if ev.err == nil {
			rec := *ev.rec
			change(&rec)
			ev.rec = &rec
		}
	})
}

// after is result for the record that an event leaves behind.
func after(kind eventKind, change func(from situation, r *Record)) func(decider) decider {
	return result(func(from situation, ev event, to *situation, _ *action) {
		if ev.kind == kind {
			change(from, &to.rec)
		}
	})
}

// publishedAs is result for the outcome that is published.
func publishedAs(change func(ev event, to *situation, do *action, res *Result)) func(decider) decider {
	return result(func(_ situation, ev event, to *situation, do *action) {
		if do.do == doEnd && do.out.Result != nil {
			res := *do.out.Result
			do.out.Result = &res
			change(ev, to, do, &res)
		}
	})
}

// reads is given for each event that brings an error of Vault.
func reads(change func(s *situation, ev *event, se *SecretError)) func(decider) decider {
	return func(next decider) decider {
		return func(s *situation, ev event, at moment) action {
			var se *SecretError
			if errors.As(ev.err, &se) {
				change(s, &ev, se)
			}
			return next(s, ev, at)
		}
	}
}

func mutants() []mutant {
	return []mutant{
		// What a POST's end means.
		{"an unknown end counts as a no", answer(func(e *CallError) {
			if e.Verdict == VerdictUnknown {
				e.Verdict = VerdictNotSent
			}
		})},
		{"an unknown end counts as a rejection", answer(func(e *CallError) {
			if e.Verdict == VerdictUnknown {
				e.Verdict = VerdictRejected
			}
		})},
		{"a success without an id counts as a no", answer(func(e *CallError) {
			if e.Status/100 == 2 {
				e.Verdict = VerdictThrottled
			}
		})},
		{"a success without an id is not counted", answer(func(e *CallError) {
			if e.Status/100 == 2 {
				e.Status = 500
			}
		})},
		{"\"exists already\" counts as a rejection", answer(func(e *CallError) {
			if e.Exists {
				e.Verdict = VerdictRejected
			}
		})},
		{"\"exists already\" is not counted", answer(func(e *CallError) { e.Exists = false })},
		{"a rejection is waited for", answer(func(e *CallError) {
			if e.Verdict == VerdictRejected {
				e.Verdict = VerdictThrottled
			}
		})},
		{"a refusal that can pass is believed at once", answer(func(e *CallError) {
			if e.passes() {
				e.Passing, e.Verdict = false, VerdictDenied
			}
		})},
		{"Retry-After is ignored", answer(func(e *CallError) { e.RetryAfter = 0 })},
		{"a definite no is forgotten", after(evAnswered, func(_ situation, r *Record) {
			if r.State == StateWaiting {
				r.State = StateUnknown
			}
		})},
		{"who saw the POST end is taken for another", after(evAnswered, func(_ situation, r *Record) {
			if r.State == StateUnknown {
				r.EndedAt = r.EndedAt.Add(24 * time.Hour)
			}
		})},

		// What is recorded before the POST.
		{"the POST is not announced", result(func(_ situation, _ event, to *situation, do *action) {
			if to.phase == phaseAnnounce {
				do.write = false
			}
		})},
		{"an intent that another's write made void counts", given(evLost, func(s *situation, ev *event, _ *moment) {
			if s.phase == phaseAnnounce {
				ev.kind = evConfirmed
			}
		})},
		{"an intent that nobody could write counts", given(evUnwritten, func(s *situation, ev *event, _ *moment) {
			if s.phase == phaseAnnounce {
				ev.kind = evConfirmed
			}
		})},
		{"the POST is not counted", after(evAllowed, func(from situation, r *Record) { r.Posts = from.rec.Posts })},
		{"the lease is announced shorter than it is", after(evConfirmed, func(_ situation, r *Record) { r.Lease += time.Minute })},
		{"the deadline is not looked at before the POST", given(evAcquired, func(s *situation, _ *event, _ *moment) { s.rec.Deadline = s.rec.Deadline.Add(24 * time.Hour) })},
		{"a slot that did not come free is used", given(evAcquired, func(_ *situation, ev *event, _ *moment) { ev.err = nil })},

		// Who has it.
		{"an open POST is taken for none", loaded(func(r *Record) {
			if r.State == StatePosting {
				r.State = StateWaiting
			}
		})},
		{"an unknown POST is taken for none", loaded(func(r *Record) {
			if r.State == StateUnknown {
				r.State = StateWaiting
			}
		})},
		{"a lease is over at once", loaded(func(r *Record) { r.Lease = 0 })},
		{"a POST that was taken over ended when it began", after(evLoaded, func(_ situation, r *Record) {
			if r.State == StateUnknown && !r.PostedAt.IsZero() {
				r.EndedAt = r.PostedAt
			}
		})},
		{"deaths are not counted", loaded(func(r *Record) { r.Deaths, r.AloneDeaths, r.Held = 0, 0, false })},

		// What a look-up proves.
		{"absent before Settle is over", given(evLooked, func(s *situation, _ *event, _ *moment) { s.settled = true })},
		{"absent as far as the name shows", result(func(_ situation, _ event, to *situation, do *action) {
			if do.do == doLook && to.phase == phaseLookUp {
				do.look.queries = do.look.queries[:1]
			}
		})},
		{"absent as far as the newest show", result(func(_ situation, _ event, to *situation, do *action) {
			if do.do == doLook && to.phase == phaseLookUp {
				for i, q := range do.look.queries {
					if !q.Since.IsZero() {
						do.look.queries[i].Since = to.at.now
					}
				}
			}
		})},
		{"a look-up that failed shows that nothing is there", given(evLooked, func(_ *situation, ev *event, _ *moment) { ev.err = nil })},
		{"what may be ours is not", given(evLooked, func(_ *situation, ev *event, _ *moment) { ev.seen.alike = nil })},
		{"ours is not seen", given(evLooked, func(_ *situation, ev *event, _ *moment) { ev.seen.ours = nil })},
		{"what may be ours is adopted", given(evLooked, func(_ *situation, ev *event, _ *moment) { ev.seen.ours = append(ev.seen.ours, ev.seen.alike...) })},
		{"whatever is there is adopted", given(evLooked, func(_ *situation, ev *event, _ *moment) { ev.seen.ours = ev.seen.all })},
		{"absent is forgotten", after(evLooked, func(from situation, r *Record) {
			if r.State == StateWaiting {
				r.State = from.rec.State
			}
		})},
		{"the deadline ends it though a POST is open", given(evLooked, func(s *situation, ev *event, at *moment) {
			if !at.now.Before(s.rec.Deadline) {
				s.settled, ev.err, ev.seen = true, nil, &sighting{}
			}
		})},
		{"nobody knows, and that is the outcome at once", given(evLooked, func(s *situation, ev *event, at *moment) {
			if ev.err != nil || len(ev.seen.alike) > 0 {
				s.settled, s.rec.Deadline = true, at.now
			}
		})},

		// Before the first POST.
		{"a redelivery without a record is new", after(evLoaded, func(_ situation, r *Record) {
			if r.State == StateClaimed {
				r.LookFirst = false
			}
		})},
		{"the ledger is not taken for newer than the message", given(evBegun, func(s *situation, _ *event, _ *moment) { s.cfg.LedgerCreated = time.Time{} })},
		{"a ledger that lost records is trusted", func(next decider) decider {
			return func(s *situation, ev event, at moment) action {
				at.lookFirstUntil = time.Time{}
				return next(s, ev, at)
			}
		}},
		{"ifExists is ignored", given(evLooked, func(_ *situation, ev *event, _ *moment) { ev.seen.named = nil })},
		{"what is not enabled is adopted", given(evLooked, func(_ *situation, ev *event, _ *moment) {
			ev.seen.named = slices.Clone(ev.seen.named)
			for i := range ev.seen.named {
				ev.seen.named[i].State = stateEnabled
			}
		})},

		// Secrets.
		{"a missing secret is believed at once", reads(func(s *situation, _ *event, _ *SecretError) {
			s.pastCache, s.readAt = true, s.readAt.Add(24*time.Hour)
		})},
		{"a missing secret ends nothing", reads(func(_ *situation, ev *event, se *SecretError) {
			if se.Problem == SecretMissing {
				ev.err = &SecretError{Problem: SecretUnavailable, Err: errMissing}
			}
		})},
		{"newer secrets are not tried", after(evAnswered, func(_ situation, r *Record) { r.Reread = true })},
		{"newer secrets are no news", given(evSecrets, func(s *situation, _ *event, _ *moment) {
			if s.phase == phaseReconsider {
				s.rec.Secrets = map[string]int{secretAdobe: s.creds.Version, secretToken: s.secret.Version}
			}
		})},

		// The outcome.
		{"the outcome is published before it is recorded", publishedAs(func(_ event, _ *situation, do *action, _ *Result) { do.write = false })},
		{"an outcome that another's write made void is published", given(evLost, func(s *situation, ev *event, _ *moment) {
			if s.rec.Final != nil {
				rec := s.rec
				*ev = event{kind: evLoaded, rec: &rec}
				s.phase = phaseLost
			}
		})},
		{"a repeat has an id of its own", publishedAs(func(_ event, _ *situation, do *action, res *Result) {
			if do.out.Repeat {
				res.EventID += "0"
			}
		})},
		{"a repeat tells of its own time", publishedAs(func(_ event, to *situation, do *action, res *Result) {
			if do.out.Repeat {
				res.CompletedAt = to.at.now
			}
		})},
		{"a repeat is not published", publishedAs(func(_ event, _ *situation, do *action, _ *Result) { do.out.Silent = do.out.Repeat })},
		{"every outcome is called created", publishedAs(func(_ event, _ *situation, _ *action, res *Result) { res.Outcome = OutcomeCreated })},
		{"a record that is final is gone on with", loaded(func(r *Record) {
			if r.State.Final() {
				r.State = StateClaimed
			}
		})},
		{"what is invalid is sent", given(evBegun, func(s *situation, _ *event, _ *moment) { s.d.Invalid = nil })},

		// Retries and what a person says.
		{"a retry forgets that nobody knows the last POST's end", after(evLoaded, func(from situation, r *Record) {
			if from.rec.Retry < r.Retry || from.rec.State == "" && r.Retry > 0 {
				r.State, r.Doubt, r.LookFirst = StateClaimed, false, false
			}
		})},
		{"a message that settles a POST may send one", after(evLoaded, func(_ situation, r *Record) {
			if r.Resolution != nil {
				r.Resolution = nil
			}
		})},
		{"a person's word is believed unseen", given(evRead, func(s *situation, ev *event, _ *moment) {
			ev.err, ev.there = nil, true
			ev.found = &Found{Connection: Connection{ID: s.rec.Resolution.Connection}, SpecID: s.rec.ConnectionSpec.ID}
		})},
		{"a person's word counts more than the mark", given(evLooked, func(s *situation, ev *event, _ *moment) {
			if s.rec.Resolution != nil {
				ev.seen, s.settled = &sighting{}, true
			}
		})},
	}
}

// jury is a testing.TB that notes a failure instead of failing the test.
type jury struct {
	testing.TB
	verdict string
	sim     *sim
}

func (j *jury) Helper()                           {}
func (j *jury) Log(...any)                        {}
func (j *jury) Logf(string, ...any)               {}
func (j *jury) Failed() bool                      { return j.verdict != "" }
func (j *jury) Errorf(format string, args ...any) { j.verdict = fmt.Sprintf(format, args...) }
func (j *jury) Fatal(args ...any)                 { j.Fatalf("%s", fmt.Sprint(args...)) }
func (j *jury) Fatalf(format string, args ...any) {
	j.Errorf(format, args...)
	runtime.Goexit()
}

// try plays a run of a mutant and returns what it broke, or nothing.
func (m mutant) try(t testing.TB, play func(t testing.TB, breaks func(*sim))) string {
	j := &jury{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		play(j, func(s *sim) { j.sim, s.wrap = s, m.wrap })
	}()
	<-done
	if j.sim != nil && j.verdict != "" {
		j.sim.end()
	}
	return j.verdict
}

// TestMutantsAreCaught breaks decide in one way at a time, and wants the simulation to see it: a scenario without a
// fault, one with a crash, a lost answer or a failure at one of its steps, or an interleaving.
func TestMutantsAreCaught(t *testing.T) {
	t.Parallel()
	all := slices.Concat(scenarios(), seldomScenarios(), poisonScenarios())
	var caught atomic.Int64
	t.Cleanup(func() { t.Logf("%d of %d were caught", caught.Load(), len(mutants())) })
	for _, sc := range all { // intact, it breaks none of them
		s, res := runScenario(t, sc)
		checkEnd(t, sc, s, res)
	}
	for _, m := range mutants() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			if how := m.caught(t, all); how != "" {
				caught.Add(1)
				t.Logf("%.200s", how)
				return
			}
			t.Error("nobody notices")
		})
	}
}

func (m mutant) caught(t testing.TB, all []scenario) string {
	broken := func(sc scenario, breaks func(*sim)) scenario {
		setup := sc.setup
		sc.setup = func(s *sim) {
			if setup != nil {
				setup(s)
			}
			breaks(s)
		}
		return sc
	}
	for _, sc := range all {
		if how := m.try(t, func(t testing.TB, breaks func(*sim)) {
			s, res := runScenario(t, broken(sc, breaks))
			checkEnd(t, sc, s, res)
		}); how != "" {
			return sc.name + ": " + how
		}
	}
	for seed := range uint64(150) {
		if how := m.try(t, func(t testing.TB, breaks func(*sim)) { clashing(t, seed, nil, breaks).checkAll() }); how != "" {
			return fmt.Sprintf("interleaving %d: %s", seed, how)
		}
	}
	for _, sc := range all {
		whole, _ := runScenario(t, sc)
		for _, f := range whole.faultsFrom(0) {
			if how := m.try(t, func(t testing.TB, breaks func(*sim)) { checkScenario(t, broken(sc, breaks), f) }); how != "" {
				return fmt.Sprintf("%s, %v: %s", sc.name, f, how)
			}
		}
	}
	return ""
}

// poisonScenarios kill their workers.
func poisonScenarios() []scenario {
	return []scenario{{name: "kills every worker before it gets to the POST", want: OutcomeFailed, reason: ReasonCrashLoop, setup: func(s *sim) {
		s.tweak = func(c *Config) { c.Secrets = poison{c.Secrets, s} }
	}}}
}

// poison ends the first fifty workers that read a secret.
type poison struct {
	Secrets
	s *sim
}

func (p poison) Resolve(ctx context.Context, tenant string, ref SecretRef, fresh bool) (Secret, error) {
	if p.s.births < 50 {
		runtime.Goexit()
	}
	return p.Secrets.Resolve(ctx, tenant, ref, fresh)
}
