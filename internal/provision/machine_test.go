package provision

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// play runs one request to its end with one worker; setup changes the world first.
func play(t *testing.T, setup func(*sim)) (*sim, Result) {
	t.Helper()
	s := newSim(t, 1)
	s.send(testRequest())
	if setup != nil {
		setup(s)
	}
	s.start(0)
	s.run()
	return s, s.checkOne(testRequest().Key)
}

func checkFailed(t *testing.T, res Result, want Reason) {
	t.Helper()
	if res.Error == nil || res.Error.Reason != want {
		t.Fatalf("%s %v, want reason %s", res.Outcome, res.Error, want)
	}
	if res.Error.Retryable != want.Retryable() {
		t.Errorf("retryable %v", res.Error.Retryable)
	}
}

func checkCreated(t *testing.T, res Result, adopted bool, posts int) {
	t.Helper()
	if res.Outcome != OutcomeCreated || res.Adopted != adopted || res.Attempts != posts {
		t.Fatalf("%s adopted=%v after %d POSTs (%v), want created adopted=%v after %d", res.Outcome, res.Adopted, res.Attempts, res.Error, adopted, posts)
	}
}

func always(v Verdict) func(int) postAnswer { return func(int) postAnswer { return says(v) } }

func existing(s *sim, change func(*Found)) {
	d := testRequest().Data
	p := d.Auth.Params
	f := Found{
		Connection: Connection{ID: "other", Etag: `"9"`}, Name: d.Name, Description: "made by hand", CreatedAt: s.now.Add(time.Second), State: stateEnabled,
		SpecID: d.ConnectionSpec.ID, SpecVersion: d.ConnectionSpec.Version,
		Domain: p.Domain, ClusterID: p.ClusterID, Database: p.Database,
	}
	if change != nil {
		change(&f)
	}
	s.conns = append(s.conns, simConn{Found: f, visible: s.now})
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	missing := &SecretError{Problem: SecretMissing, Err: errors.New("no field")}
	for name, c := range map[string]struct {
		setup  func(*sim)
		reason Reason // empty: created
	}{
		"made at once":              {nil, ""},
		"refused":                   {func(s *sim) { s.post = always(VerdictRejected) }, ReasonFlowRejected},
		"denied":                    {func(s *sim) { s.post = always(VerdictDenied) }, ReasonFlowDenied},
		"unauthorized":              {func(s *sim) { s.post = always(VerdictUnauthorized) }, ReasonFlowDenied},
		"throttled to the deadline": {func(s *sim) { s.post = always(VerdictThrottled) }, ReasonFlowUnavailable},
		"cluster never runs":        {func(s *sim) { s.post = always(VerdictNotReady) }, ReasonFlowUnavailable},
		"never sent":                {func(s *sim) { s.post = always(VerdictNotSent) }, ReasonFlowUnavailable},
		"500 to the deadline":       {func(s *sim) { s.post = always(VerdictUnknown) }, ReasonFlowUnavailable},
		"no such secret":            {func(s *sim) { s.secrets.err = missing }, ReasonTenantUnknown},
		"Vault sealed":              {func(s *sim) { s.secrets.err = &SecretError{Problem: SecretUnavailable, Err: errors.New("sealed")} }, ReasonVaultUnavailable},
		"Vault denies the worker":   {func(s *sim) { s.secrets.err = &SecretError{Problem: SecretDenied, Err: errors.New("403")} }, ReasonVaultUnavailable},
		"IMS denies the tenant":     {func(s *sim) { s.ims = imsSays(VerdictDenied, 401) }, ReasonFlowDenied},
		"IMS down":                  {func(s *sim) { s.ims = imsSays(VerdictNotSent, 503) }, ReasonFlowUnavailable},
		"invalid":                   {func(s *sim) { s.msgs[0].d.Invalid = Fail(ReasonPlaintextSecret, "x") }, ReasonPlaintextSecret},
		"expired when first seen":   {func(s *sim) { s.msgs[0].d.Request.Expiry = s.now }, ReasonExpired},
		"name exists, reject":       {func(s *sim) { existing(s, nil); s.msgs[0].d.Request.Data.IfExists = IfExistsReject }, ReasonNameExists},
		"name exists, adopt differs": {func(s *sim) {
			existing(s, func(f *Found) { f.ClusterID = "another" })
			s.msgs[0].d.Request.Data.IfExists = IfExistsAdopt
		}, ReasonNameExists},
		"name exists under another spec, reject": {func(s *sim) {
			existing(s, func(f *Found) { f.SpecID = "s3" })
			s.msgs[0].d.Request.Data.IfExists = IfExistsReject
		}, ReasonNameExists},
		"name exists, create": {func(s *sim) { existing(s, nil) }, ""},
		"other name, reject": {func(s *sim) {
			existing(s, func(f *Found) { f.Name = "x" })
			s.msgs[0].d.Request.Data.IfExists = IfExistsReject
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, res := play(t, c.setup)
			if c.reason == "" {
				checkCreated(t, res, false, 1)
				return
			}
			checkFailed(t, res, c.reason)
			if len(s.dead) == 0 {
				t.Error("no dead letter")
			}
		})
	}
}

func TestAdoptTakesTheOldestEqualConnection(t *testing.T) {
	t.Parallel()
	_, res := play(t, func(s *sim) {
		s.msgs[0].d.Request.Data.IfExists = IfExistsAdopt
		existing(s, func(f *Found) { f.ID, f.CreatedAt = "younger", f.CreatedAt.Add(time.Hour) })
		existing(s, func(f *Found) { f.ID = "older" })
		existing(s, func(f *Found) { f.ID, f.Catalog, f.CreatedAt = "oldest, other catalog", "main", time.Time{} })
	})
	checkCreated(t, res, true, 0)
	if res.Connection.ID != "older" {
		t.Errorf("adopted %q", res.Connection.ID)
	}
}

func TestOurOwnMarkWinsOverIfExists(t *testing.T) {
	t.Parallel()
	_, res := play(t, func(s *sim) {
		s.msgs[0].d.Request.Data.IfExists = IfExistsReject
		existing(s, nil)
		existing(s, func(f *Found) { f.ID, f.Description = "c1", "the orders "+testRequest().Key.Mark() })
	})
	checkCreated(t, res, true, 0)
}

func TestSeveralWithOurMarkKeepsTheOldest(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	w := &watcher{}
	s.tweak = func(c *Config) { c.Observer = w }
	m := s.send(testRequest())
	m.deliver = 1 // so it is looked up first
	for _, id := range []string{"new", "old"} {
		existing(s, func(f *Found) { f.ID, f.Description = id, testRequest().Key.Mark() })
	}
	s.conns[0].CreatedAt = s.now.Add(time.Hour)
	s.start(0)
	s.run()
	if got := s.results[0].Connection.ID; got != "old" {
		t.Errorf("adopted %q", got)
	}
	if !slices.Contains(w.reconciled, ReconciledSeveral) {
		t.Errorf("reconciliations %v", w.reconciled)
	}
}

// TestLookalikeIsNotAbsent: somebody cut our mark off the description. Then nobody may conclude that
// the POST made nothing.
func TestLookalikeIsNotAbsent(t *testing.T) {
	t.Parallel()
	s, res := play(t, func(s *sim) {
		s.post = func(int) postAnswer {
			existing(s, nil)
			return says(VerdictUnknown)
		}
	})
	checkFailed(t, res, ReasonOutcomeUnknown)
	if s.posts != 1 {
		t.Errorf("%d POSTs, want 1", s.posts)
	}
	if !strings.Contains(res.Error.Message, "other") || !strings.Contains(res.Error.Message, testRequest().Key.Mark()) {
		t.Errorf("message doesn't tell how to look: %s", res.Error.Message)
	}
}

func TestConnectionOfAnotherRequestIsNoLookalike(t *testing.T) {
	t.Parallel()
	_, res := play(t, func(s *sim) {
		n := 0
		s.post = func(int) postAnswer {
			if n++; n > 1 {
				return postAnswer{made: true}
			}
			existing(s, func(f *Found) { f.Description = Key{Tenant: "acme", Source: "x", ID: "y"}.Mark() })
			return says(VerdictUnknown)
		}
	})
	checkCreated(t, res, false, 2)
}

func TestNewerSecretGetsOneMorePost(t *testing.T) {
	t.Parallel()
	s, res := play(t, func(s *sim) {
		s.post = func(n int) postAnswer {
			s.secrets.token++
			return says(VerdictRejected)
		}
	})
	checkFailed(t, res, ReasonFlowRejected)
	if s.posts != 2 {
		t.Errorf("%d POSTs, want 2: one more for the newer version, and no third", s.posts)
	}
}

func TestSameSecretGetsNoSecondPost(t *testing.T) {
	t.Parallel()
	s, _ := play(t, func(s *sim) { s.post = always(VerdictDenied) })
	if s.posts != 1 {
		t.Errorf("%d POSTs, want 1", s.posts)
	}
}

// TestDefiniteNoIsNotWaitedFor: what surely made nothing is neither looked up nor waited for until Settle
// is over.
func TestDefiniteNoIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	for _, v := range []Verdict{VerdictNotSent, VerdictThrottled, VerdictNotReady, VerdictUnauthorized} {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			s, res := play(t, posts(says(v)))
			checkCreated(t, res, false, 2)
			if took := res.CompletedAt.Sub(res.StartedAt); s.asked != 0 || took >= simSettle {
				t.Errorf("%d look-ups, created after %v", s.asked, took)
			}
		})
	}
}

func TestRetryAfterIsKeptAcrossDeliveries(t *testing.T) {
	t.Parallel()
	var posted []time.Time
	_, res := play(t, func(s *sim) {
		s.post = func(n int) postAnswer {
			posted = append(posted, s.now)
			if n == 0 {
				p := says(VerdictThrottled)
				p.err.RetryAfter = 20 * time.Minute // longer than the longest rest of a message
				return p
			}
			return postAnswer{made: true}
		}
	})
	checkCreated(t, res, false, 2)
	if wait := posted[1].Sub(posted[0]); wait < 20*time.Minute {
		t.Errorf("posted again after %v", wait)
	}
}

// TestRetryAfterOfAnUnknownPostIsRespected: a 503 that asks to be left alone is asked nothing until
// then, not even how the POST went.
func TestRetryAfterOfAnUnknownPostIsRespected(t *testing.T) {
	t.Parallel()
	var posted []time.Time
	s, res := play(t, func(s *sim) {
		s.post = func(n int) postAnswer {
			posted = append(posted, s.now)
			if n == 0 {
				p := says(VerdictUnknown)
				p.err.Status, p.err.RetryAfter = 503, 10*time.Minute
				return p
			}
			return postAnswer{made: true}
		}
	})
	checkCreated(t, res, false, 2)
	if wait := posted[1].Sub(posted[0]); wait < 10*time.Minute {
		t.Errorf("posted again after %v", wait)
	}
	if n := s.asked; n != 1 {
		t.Errorf("%d look-ups, want 1: after the time was over", n)
	}
}

// TestEmptyPromisesEnd: an upstream that always says "created" without saying what, and lists nothing,
// must not be sent one POST after another.
func TestEmptyPromisesEnd(t *testing.T) {
	t.Parallel()
	s, res := play(t, func(s *sim) {
		s.post = func(int) postAnswer {
			p := says(VerdictUnknown)
			p.err.Status = 201
			return p
		}
	})
	checkFailed(t, res, ReasonOutcomeUnknown)
	if s.posts != promisesBelieved {
		t.Errorf("%d POSTs, want %d", s.posts, promisesBelieved)
	}
}

// TestSettleIsNotOverslept: the first POST that proves to have made nothing is followed by the next one as
// soon as that is proved.
func TestSettleIsNotOverslept(t *testing.T) {
	t.Parallel()
	var posted []time.Time
	_, res := play(t, func(s *sim) {
		s.post = func(n int) postAnswer {
			posted = append(posted, s.now)
			return postAnswer{made: n > 0, err: answers(says(VerdictUnknown))(n).err}
		}
	})
	checkCreated(t, res, false, 2)
	if wait := posted[1].Sub(posted[0]); wait <= simSettle || wait > simSettle+time.Second {
		t.Errorf("posted again after %v", wait)
	}
}

func TestPostsGetRarer(t *testing.T) {
	t.Parallel()
	s, _ := play(t, func(s *sim) { s.post = always(VerdictUnknown) })
	if s.posts > 150 {
		t.Errorf("%d POSTs in a day that were all settled as absent", s.posts)
	}
}

// TestWaitingDoesNotWipeOutThePosts: the record keeps what was tried, however long it waited since.
func TestWaitingDoesNotWipeOutThePosts(t *testing.T) {
	t.Parallel()
	var r Record
	r.note(Attempt{Step: stepPost, Result: "throttled"})
	for range 3 * MaxAttempts {
		r.note(Attempt{Step: "handback"})
	}
	if len(r.Attempts) != MaxAttempts || r.Attempts[0].Step != stepPost {
		t.Errorf("%d attempts, the first a %s", len(r.Attempts), r.Attempts[0].Step)
	}
	for range 2 * MaxAttempts {
		r.note(Attempt{Step: stepPost})
	}
	if len(r.Attempts) != MaxAttempts {
		t.Errorf("%d attempts", len(r.Attempts))
	}
}

func TestThrottledFailsAtItsDeadlineNotLater(t *testing.T) {
	t.Parallel()
	s, res := play(t, func(s *sim) { s.post = always(VerdictThrottled) })
	late := res.CompletedAt.Sub(res.StartedAt) - 24*time.Hour
	if late < 0 || late > time.Second {
		t.Errorf("ended %v after the deadline", late)
	}
	if s.posts > 1000 {
		t.Errorf("%d POSTs in a day: no backoff?", s.posts)
	}
}

// TestSlowPreparationDoesNotPassTheDeadline: the deadline is looked at once more when all is ready.
func TestSlowPreparationDoesNotPassTheDeadline(t *testing.T) {
	t.Parallel()
	s, res := play(t, func(s *sim) {
		s.ims = func(int) error {
			s.now = s.now.Add(25 * time.Hour)
			return nil
		}
	})
	checkFailed(t, res, ReasonFlowUnavailable)
	if s.posts != 0 || res.Attempts != 0 {
		t.Errorf("%d POSTs after the deadline, %d told of", s.posts, res.Attempts)
	}
}

// TestClosedGateIsNotWaitedForInASlot: neither before a POST nor after it.
func TestClosedGateIsNotWaitedForInASlot(t *testing.T) {
	t.Parallel()
	var opens time.Time
	shut := func(s *sim) {
		opens = s.now.Add(20 * time.Second)
		s.gate = closed(s, TargetFlow, 0, 20*time.Second)
	}
	for name, setup := range map[string]func(*sim){
		"before a POST": shut,
		"after a POST": func(s *sim) {
			s.post = func(int) postAnswer {
				shut(s)
				return promise(true)
			}
		},
	} {
		s, _ := play(t, setup)
		if s.hits[viaGate(TargetFlow)] == 0 {
			t.Errorf("%s: it was never closed", name)
		}
		for _, e := range s.trace {
			if e.op == "sleep" && !e.at.After(opens) {
				t.Errorf("%s: %v", name, e)
			}
		}
	}
}

// TestAnotherWorkersRequestIsLeftAlone: another copy of a request that a worker has in hand rests until
// that worker has given it back, or has shown no sign of life for long.
func TestAnotherWorkersRequestIsLeftAlone(t *testing.T) {
	t.Parallel()
	l, k, now := newMemLedger(), testRequest().Key, time.Now()
	l.put(Record{Key: k, State: StateClaimed, Fingerprint: "f1", Held: true, HeldSeq: 1, Owner: "other",
		HeldUntil: now.Add(time.Minute), Deadline: now.Add(time.Hour)})
	h := newTestHub(t, func(c *Config) { c.Ledger = l })
	d := delivery()
	d.Seq, d.Delivered = 2, 2
	if out := h.Handle(t.Context(), d); out.Result != nil || out.Delay <= 0 || l.record(k).Owner != "other" {
		t.Errorf("%+v, now %s has it", out, l.record(k).Owner)
	}
	silent := l.record(k)
	silent.HeldUntil = now.Add(-time.Second)
	l.put(silent)
	if out := h.Handle(t.Context(), d); out.Result == nil || out.Result.Outcome != OutcomeCreated {
		t.Errorf("%+v", out)
	}
}

// TestStoppedWorkersRequestGoesOnAtOnce: what a worker gives back because it stops doesn't rest as if its
// target were in trouble.
func TestStoppedWorkersRequestGoesOnAtOnce(t *testing.T) {
	t.Parallel()
	s, res := play(t, func(s *sim) {
		s.post = answers(says(VerdictThrottled))
		s.plan = func(_ int, op string) fate {
			if op == "create" && s.posts == 0 {
				return stops
			}
			return goesWell
		}
	})
	checkCreated(t, res, false, 2)
	if took := res.CompletedAt.Sub(res.StartedAt); took > time.Second || s.births != 2 {
		t.Errorf("it took %v and %d workers", took, s.births)
	}
}

// TestHindranceForgivesDeaths: a worker that got as far as a target that is down has not died of the
// request, and neither did those before it in a row.
func TestHindranceForgivesDeaths(t *testing.T) {
	t.Parallel()
	l, k, now := newMemLedger(), testRequest().Key, time.Now()
	l.put(Record{Key: k, State: StateClaimed, Fingerprint: "f1", Held: true, HeldSeq: 1, HeldDelivered: 1, Owner: "dead",
		Deaths: 1, AloneDeaths: 1, Alone: true, HeldUntil: now.Add(time.Minute), Deadline: now.Add(time.Hour)})
	h := newTestHub(t, func(c *Config) { c.Ledger, c.Connections = l, noToken{} })
	d := delivery()
	d.Delivered = 2
	out := h.Handle(t.Context(), d)
	if rec := l.record(k); out.Result != nil || rec.Handbacks != 1 || rec.Deaths != 0 || rec.AloneDeaths != 0 {
		t.Errorf("%+v, %d deaths, %d of them alone", out, rec.Deaths, rec.AloneDeaths)
	}
}

func TestExpiryCountsForSevenDaysAtMost(t *testing.T) {
	t.Parallel()
	_, res := play(t, func(s *sim) {
		s.msgs[0].d.Request.Expiry = s.now.Add(1000 * time.Hour)
		s.post = always(VerdictThrottled)
	})
	if d := res.CompletedAt.Sub(res.StartedAt); d > MaxDeadline+time.Second || d < MaxDeadline {
		t.Errorf("gave up after %v", d)
	}
}

func TestRepeatIsToldAgainAndCreatesNothing(t *testing.T) {
	t.Parallel()
	s, res := play(t, nil)
	s.stop = false
	s.now = s.now.Add(time.Hour)
	s.send(testRequest())
	s.start(0)
	s.run()
	again := s.checkOne(testRequest().Key)
	if s.posts != 1 || again.EventID != res.EventID || len(s.results) != 2 {
		t.Errorf("%d POSTs, %d results", s.posts, len(s.results))
	}
}

func TestOtherDataUnderTheSameIDIsRefused(t *testing.T) {
	t.Parallel()
	s, first := play(t, nil)
	s.stop = false
	r := testRequest()
	r.Fingerprint = "f2"
	s.send(r)
	s.start(0)
	s.run()
	last := s.results[len(s.results)-1]
	checkFailed(t, last, ReasonIDReused)
	if last.EventID == first.EventID || s.ledger.record(r.Key).State != StateCreated {
		t.Error("the record or its event id was touched")
	}
}

func TestRetryNumbers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		n       int
		reason  Reason // of the new message's result; empty: created
		repeats bool
	}{
		"next number is tried anew":   {1, "", false},
		"the same number is a repeat": {0, ReasonFlowRejected, true},
		"a skipped number is refused": {2, ReasonInvalidRequest, false},
		"a far-off number is refused": {77, ReasonInvalidRequest, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, failed := play(t, func(s *sim) { s.post = answers(says(VerdictRejected)) })
			s.stop = false
			r := testRequest()
			r.Retry = c.n
			s.send(r)
			s.start(0)
			s.run()
			got := s.results[len(s.results)-1]
			if c.reason != "" {
				checkFailed(t, got, c.reason)
			} else {
				checkCreated(t, got, false, 1)
			}
			if (got.EventID == failed.EventID) != c.repeats {
				t.Errorf("event ids %s, %s", failed.EventID, got.EventID)
			}
		})
	}
}

// TestRetryFindsWhatAnEarlierRoundMade: the first round ended as outcome_unknown because nobody could
// be asked, but the POST had made the connection.
func TestRetryFindsWhatAnEarlierRoundMade(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	s.send(testRequest())
	s.post = func(int) postAnswer {
		return postAnswer{made: true, err: &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Status: 504}}
	}
	s.plan = func(_ int, op string) fate {
		if op == "find" {
			return failsBefore
		}
		return goesWell
	}
	s.start(0)
	s.run()
	checkFailed(t, s.results[0], ReasonOutcomeUnknown)

	s.stop, s.plan = false, func(int, string) fate { return goesWell }
	r := testRequest()
	r.Retry = 1
	s.send(r)
	s.start(0)
	s.run()
	checkCreated(t, s.results[len(s.results)-1], true, 0)
	if s.posts != 1 {
		t.Errorf("%d POSTs, want 1", s.posts)
	}
}

func TestOutcomeUnknownWaitsForDeadlineAndSettle(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	s.tweak = func(c *Config) { c.RequestDeadline = time.Second }
	s.send(testRequest())
	s.post = func(int) postAnswer { return says(VerdictUnknown) }
	s.start(0)
	s.run()
	res := s.checkOne(testRequest().Key)
	checkFailed(t, res, ReasonFlowUnavailable) // settled as absent, and too late for another POST
	if d := res.CompletedAt.Sub(res.StartedAt); d < simSettle {
		t.Errorf("gave up after %v, before Settle was over", d)
	}
	if s.posts != 1 {
		t.Errorf("%d POSTs, want 1: the deadline forbids a second", s.posts)
	}
}

func TestCrashLoop(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	s.send(testRequest())
	s.plan = func(_ int, op string) fate {
		if op == "create" {
			return crashBefore
		}
		return goesWell
	}
	s.start(0)
	s.run()
	checkFailed(t, s.checkOne(testRequest().Key), ReasonCrashLoop)
	if s.births != 1+deathsBeforeFailure {
		t.Errorf("%d workers died, want %d", s.births-1, deathsBeforeFailure)
	}
}

// TestCrashLoopOfMessagesReadDirectly: a request that kills whoever comes to its secrets is counted on that way, too.
func TestCrashLoopOfMessagesReadDirectly(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"credentials", "resolve", "authorize", "create"} {
		s := newSim(t, 1)
		s.send(testRequest())
		s.plan = func(_ int, at string) fate {
			switch at {
			case op:
				return crashBefore
			case "pull":
				s.now = s.now.Add(10 * time.Second) // between two looks
			}
			return goesWell
		}
		s.ahead = func(int) bool { return true }
		s.start(0)
		for s.steps = 0; len(s.results) == 0; s.steps++ { // nothing is ever delivered
			if s.steps > 10_000 {
				s.fatal("%s: no end", op)
			}
			if p := s.pick(); p != nil {
				s.grant(p)
			} else {
				s.advance()
			}
		}
		s.end()
		if res := s.results[0]; res.Error == nil || res.Error.Reason != ReasonCrashLoop || s.births != 1+deathsBeforeFailure {
			t.Errorf("%s: %+v after %d deaths", op, res.Error, s.births-1)
		}
	}
}

// TestUntoldOutcomeIsToldByTheNextReading: where the result of a message that was read directly could not be
// published, who reads it next does, though not at once, for somebody may be about to.
func TestUntoldOutcomeIsToldByTheNextReading(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newTestHub(t, func(*Config) {})
		d := delivery()
		d.Direct, d.Delivered = true, 0
		first := h.Handle(t.Context(), d)
		if first.Result == nil || first.Published == nil {
			t.Fatalf("%+v", first)
		}
		if soon := h.Handle(t.Context(), d); !soon.Silent {
			t.Errorf("at once: %+v, want nothing", soon)
		}
		<-time.After(publishWithin + time.Second)
		again := h.Handle(t.Context(), d)
		if again.Result == nil || again.Result.EventID != first.Result.EventID || again.Published == nil {
			t.Fatalf("later: %+v, want the outcome", again)
		}
		again.Published(t.Context())
		<-time.After(publishWithin + time.Second)
		if last := h.Handle(t.Context(), d); !last.Silent || last.Result != nil {
			t.Errorf("after it was told: %+v, want nothing", last)
		}
		d.Direct, d.Delivered = false, 1
		if out := h.Handle(t.Context(), d); !out.Silent {
			t.Errorf("its delivery: %+v, want it acknowledged in silence", out)
		}
	})
}

func TestCrashLoopSettlesAnOpenPostFirst(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	s.send(testRequest())
	s.plan = func(_ int, op string) fate {
		if op == "create" || op == "find" && s.births <= deathsBeforeFailure {
			return crashAfter
		}
		return goesWell
	}
	s.start(0)
	s.run()
	checkCreated(t, s.checkOne(testRequest().Key), true, 1)
}

func TestLostLedgerIsLookedUpFirst(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]func(*sim){
		"delivered before":      func(s *sim) { s.msgs[0].deliver = 1 },
		"older than the ledger": func(s *sim) { s.tweak = func(c *Config) { c.LedgerCreated = s.now.Add(time.Minute) } },
		"the ledger lost records": func(s *sim) {
			s.tweak = func(c *Config) { c.LookFirstUntil = func() time.Time { return s.now.Add(time.Minute) } }
		},
		"carries a retry number": func(s *sim) { s.msgs[0].d.Request.Retry = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, res := play(t, func(s *sim) {
				existing(s, func(f *Found) { f.ID, f.Description = "c0", testRequest().Key.Mark() })
				setup(s)
			})
			checkCreated(t, res, true, 0)
		})
	}
}

func TestSecretDomainMustMatch(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	s.tweak = func(c *Config) { c.Secrets = ownedSecrets{c.Secrets} }
	s.send(testRequest())
	s.start(0)
	s.run()
	checkFailed(t, s.results[0], ReasonSecretForbidden)
	if s.posts != 0 {
		t.Error("the token was sent")
	}
}

type ownedSecrets struct{ Secrets }

func (o ownedSecrets) Resolve(ctx context.Context, tenant string, r SecretRef, fresh bool) (Secret, error) {
	s, err := o.Secrets.Resolve(ctx, tenant, r, fresh)
	s.Domain = "https://adb-2.7.azuredatabricks.net"
	return s, err
}

type watcher struct {
	retried    []Target
	reconciled []Reconciliation
}

func (w *watcher) Retried(t Target, _ Cause)   { w.retried = append(w.retried, t) }
func (w *watcher) Reconciled(r Reconciliation) { w.reconciled = append(w.reconciled, r) }
