package provision

import (
	"strings"
	"testing"
	"time"
)

// noteWord notes how a person's word ended.
func (s *sim) noteWord(res Result) {
	rec := s.ledger.record(Key{Tenant: res.Tenant, Source: res.Request.Source, ID: res.Request.ID})
	switch r := rec.Resolution; {
	case r == nil || rec.Final == nil || rec.Final.EventID != res.EventID:
	case res.Error == nil && res.Connection.ID == r.Connection:
		s.hit(viaNamed)
	case res.Error != nil && res.Error.Reason == ReasonFlowUnavailable:
		s.hit(viaGone)
	case res.Error != nil && strings.HasPrefix(res.Error.Message, "not resolved: "):
		s.hit(viaContra)
	}
}

// words has a person say these, one with each retry from the first.
func words(said ...*Resolution) func(int) *Resolution {
	return func(n int) *Resolution {
		if n > len(said) {
			return nil
		}
		return said[n-1]
	}
}

func named(id string) *Resolution {
	return &Resolution{Connection: id, By: "ada", Why: "seen in the UI"}
}

func absent() *Resolution { return &Resolution{By: "ada", Why: "not in the UI"} }

// randomWord has people say what is true, and what is not.
func (s *sim) randomWord() {
	all := []*Resolution{nil, absent(), absent(), named("c1"), named("other"), named("nope")}
	if s.rng.IntN(3) == 0 && !s.cutting {
		s.word = words(all[s.rng.IntN(len(all))], all[s.rng.IntN(len(all))])
		s.both = s.rng.IntN(2) == 0
	}
}

// unsettled makes the request end as outcome_unknown, for a connection like its own is there without a mark,
// and has as many retries sent. That connection is "other", or with cut "c1".
func unsettled(retries int, cut bool, said ...*Resolution) func(*sim) {
	return func(s *sim) {
		s.tweak, s.word, s.cut = unhurried, words(said...), cut
		retried(s, retries)
		if s.post = answers(promise(true)); !cut {
			existing(s, nil)
			s.post = answers(says(VerdictUnknown))
		}
	}
}

// unhurried makes requests give up soon, and look ever more seldom, so that the scenarios are short.
func unhurried(c *Config) {
	hasty(3 * time.Minute)(c)
	c.RetryDelayMax, c.RetryElapsed = 2*time.Minute, 5*time.Minute
}

func resolveScenarios() []scenario {
	late := []Reason{ReasonFlowUnavailable, ReasonVaultUnavailable, ReasonOutcomeUnknown}
	until := func(d time.Duration, setup func(*sim)) func(*sim) { // the list is down until then
		return func(s *sim) { setup(s); s.list = outage(s, 0, d) }
	}
	return []scenario{
		{name: "a person names what a retry can't tell", setup: unsettled(2, true, nil, named("c1")),
			want: OutcomeCreated, or: late, through: []string{viaRetry, viaUnknown, viaNamed}},
		{name: "a person names another's connection as ours", setup: unsettled(1, false, named("other")),
			want: OutcomeCreated, or: late, through: []string{viaUnknown, viaNamed}},
		{name: "a person names one that was renamed", setup: func(s *sim) {
			unsettled(1, false, named("old"))(s)
			existing(s, func(f *Found) { f.ID, f.Name = "old", "renamed" })
		}, want: OutcomeCreated, or: late, through: []string{viaUnknown, viaNamed}},
		{name: "a person names one that is not there", setup: unsettled(1, false, named("nope")),
			want: OutcomeFailed, reason: ReasonOutcomeUnknown, through: []string{viaUnknown, viaContra}},
		{name: "a person says absent", setup: unsettled(1, false, absent()),
			want: OutcomeFailed, reason: ReasonFlowUnavailable, through: []string{viaUnknown, viaGone}},
		{name: "a person says absent and cleans up, and a retry makes it", setup: func(s *sim) {
			unsettled(2, false)(s)
			s.word = func(n int) *Resolution {
				s.conns[0].visible = s.now.Add(24 * time.Hour) // so that a crash amid the next POST doesn't need a person again
				return words(absent())(n)
			}
		}, want: OutcomeCreated, or: late, through: []string{viaUnknown, viaGone}},
		{name: "a person says absent, but it is there", want: OutcomeCreated, or: late, // also if the POST was never sent
			through: []string{viaUnknown, viaNoList}, never: []string{viaGone},
			setup: until(5*time.Minute, func(s *sim) {
				unsettled(1, false, absent())(s)
				s.post = answers(promise(true))
			})},
		{name: "a person says absent, while another retries", or: late, // also if the retry is first
			setup: func(s *sim) { unsettled(1, false, absent())(s); s.both = true },
			want:  OutcomeFailed, reason: ReasonFlowUnavailable, through: []string{viaUnknown, viaGone}},
		{name: "a person names one while the list is down", want: OutcomeCreated, or: late, through: []string{viaUnknown, viaNoList, viaNamed},
			setup: until(5*time.Minute, unsettled(1, false, named("other")))},
	}
}

// TestResolutionIsRecorded: who said what, when and why stays in the record, and so does what came of it.
func TestResolutionIsRecorded(t *testing.T) {
	t.Parallel()
	s, res := play(t, unsettled(2, false, absent()))
	checkCreated(t, res, false, 1)
	if res.Connection.ID != "c2" { // c1 is what "other" was before it got its name
		t.Errorf("connection %s", res.Connection.ID)
	}
	rec := s.ledger.record(testRequest().Key)
	if rec.Retry != 2 || rec.Doubt || rec.Resolution != nil {
		t.Errorf("retry %d, doubt %v, resolution %+v; want what was settled to be over", rec.Retry, rec.Doubt, rec.Resolution)
	}
	told := 0
	for _, a := range rec.Attempts {
		if a.Step == stepResolve {
			told++
			if a.Retry != 1 || a.Result != saysAbsent || a.At.IsZero() || !strings.Contains(a.Detail, "said to be by ada") || !strings.Contains(a.Detail, "not in the UI") {
				t.Errorf("%+v", a)
			}
		}
	}
	if told != 1 {
		t.Errorf("told %d times: %+v", told, rec.Attempts)
	}
	for range 2 * MaxAttempts {
		rec.note(Attempt{Step: "handback"})
	}
	if rec.Attempts[len(rec.Attempts)-1].Step != "handback" || !hasStep(rec, stepResolve) {
		t.Error("waiting wiped out a person's word")
	}
}

func hasStep(rec Record, step string) bool {
	for _, a := range rec.Attempts {
		if a.Step == step {
			return true
		}
	}
	return false
}

// TestMarkBeatsAPersonsWord: they name a connection by mistake, but ours is there with its mark.
func TestMarkBeatsAPersonsWord(t *testing.T) {
	t.Parallel()
	for name, said := range map[string]*Resolution{"named": named("other"), "not there": named("nope"), "absent": absent()} {
		s, res := play(t, func(s *sim) {
			unsettled(1, false, said)(s)
			s.post = answers(promise(true))
			s.list = outage(s, 0, 5*time.Minute)
		})
		checkCreated(t, res, true, 0)
		if made := s.madeFor(testRequest().Key); res.Connection.ID != made[0] {
			t.Errorf("%s: adopted %s, ours is %v", name, res.Connection.ID, made)
		}
	}
}

// TestMarkOfAnotherRequestIsNotAdopted, whoever says that it is this request's.
func TestMarkOfAnotherRequestIsNotAdopted(t *testing.T) {
	t.Parallel()
	_, res := play(t, func(s *sim) {
		unsettled(1, false, named("theirs"))(s)
		existing(s, func(f *Found) { f.ID, f.Description = "theirs", "x "+secondRequest().Key.Mark() })
	})
	checkFailed(t, res, ReasonOutcomeUnknown)
	if !strings.Contains(res.Error.Message, "mark of another request") {
		t.Errorf("%v", res.Error)
	}
}

// TestRefusedLookUpEndsAResolution once the refusal has lasted: whoever resolves can mend it, and waits.
func TestRefusedLookUpEndsAResolution(t *testing.T) {
	t.Parallel()
	s, res := play(t, func(s *sim) {
		unsettled(1, false, named("other"))(s)
		ims := imsSays(VerdictDenied, 401)
		s.ims = func(n int) error {
			if s.retried[testRequest().Key] == 0 {
				return nil
			}
			return ims(n)
		}
	})
	checkFailed(t, res, ReasonOutcomeUnknown)
	rec := s.ledger.record(testRequest().Key)
	if !strings.HasPrefix(res.Error.Message, "not resolved: the Flow Service could not be asked") && !strings.Contains(res.Error.Message, "could not be asked") ||
		res.CompletedAt.Before(res.StartedAt.Add(refusalLasts)) || res.CompletedAt.After(res.StartedAt.Add(2*refusalLasts)) || rec.Doubt != true {
		t.Errorf("after %v, doubt %v: %v", res.CompletedAt.Sub(res.StartedAt), rec.Doubt, res.Error)
	}
}

// TestNothingToResolve: the message is refused, the record stays as it is, nothing is sent.
func TestNothingToResolve(t *testing.T) {
	t.Parallel()
	failed := func(r Reason) *Record {
		rec := Record{Key: testRequest().Key, State: StateFailed, Fingerprint: "f1"}
		rec.Final = &FinalResult{EventID: "e", Outcome: OutcomeFailed, Result: Result{Error: Fail(r, "x")}}
		return &rec
	}
	for name, c := range map[string]struct {
		rec  *Record
		says string
	}{
		"no record":      {nil, "does not know this request"},
		"other failure":  {failed(ReasonFlowRejected), "failed with flow_rejected: retry it"},
		"not ended":      {&Record{Key: testRequest().Key, State: StateUnknown, Fingerprint: "f1"}, "has not ended yet"},
		"without reason": {&Record{Key: testRequest().Key, State: StateFailed, Fingerprint: "f1"}, "settles an outcome_unknown only"},
	} {
		l := newMemLedger()
		if c.rec != nil {
			l.put(*c.rec)
		}
		h := newTestHub(t, func(cfg *Config) {
			cfg.Ledger = l
			cfg.Connections = scriptedFlow{find: func() ([]Found, error) { t.Errorf("%s: asked", name); return nil, nil }}
		})
		d := delivery()
		d.Request.Retry, d.Request.Resolution = 1, absent()
		out := h.Handle(t.Context(), d)
		if out.Result == nil || out.Result.Error == nil || out.Result.Error.Reason != ReasonInvalidRequest || !strings.Contains(out.Result.Error.Message, c.says) {
			t.Errorf("%s: %+v", name, out.Result)
		}
		if rec := l.record(d.Request.Key); c.rec == nil && rec.State != "" || c.rec != nil && rec.State != c.rec.State {
			t.Errorf("%s: the record was changed to %s", name, rec.State)
		}
	}
}

// TestResolutionBesideAPlainRetry of the same number rests until that one has ended, or may not POST any more.
func TestResolutionBesideAPlainRetry(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]bool{"under way": false, "past its deadline": true} {
		l := newMemLedger()
		asked := false
		h := newTestHub(t, func(cfg *Config) {
			cfg.Ledger = l
			cfg.Connections = scriptedFlow{find: func() ([]Found, error) { asked = true; return nil, nil }}
		})
		rec := Record{Key: testRequest().Key, State: StateUnknown, Retry: 1, Fingerprint: "f1", Doubt: true, Deadline: h.Clock.Now().Add(time.Hour)}
		if late {
			rec.Deadline = h.Clock.Now().Add(-time.Hour)
		}
		l.put(rec)
		d := delivery()
		d.Request.Retry, d.Request.Resolution = 1, absent()
		out := h.Handle(t.Context(), d)
		if asked != late || !late && (out.Result != nil || out.Delay <= 0) {
			t.Errorf("%s: asked %v, %+v", name, asked, out)
		}
	}
}

// TestInvalidRetryOfADoubtfulRequest: a message that can't be read does not say where to look for the POST
// that is open, so it leaves the record alone, which does.
func TestInvalidRetryOfADoubtfulRequest(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*Resolution{"plain": nil, "resolution": absent()} {
		rec := Record{Key: testRequest().Key, State: StateFailed, Fingerprint: "f1", Doubt: true, Sandbox: "prod"}
		rec.Final = &FinalResult{EventID: "e", Outcome: OutcomeFailed, Result: Result{Error: Fail(ReasonOutcomeUnknown, "x")}}
		l := newMemLedger()
		l.put(rec)
		h := newTestHub(t, func(cfg *Config) {
			cfg.Ledger = l
			cfg.Connections = scriptedFlow{find: func() ([]Found, error) { t.Errorf("%s: asked", name); return nil, nil }}
		})
		d := delivery()
		d.Request.Retry, d.Request.Resolution, d.Request.Data, d.Invalid = 1, r, Data{}, Fail(ReasonInvalidRequest, "time is none")
		out := h.Handle(t.Context(), d)
		if out.Result == nil || out.Result.Error != d.Invalid || !out.Detached {
			t.Errorf("%s: %+v", name, out)
		}
		if got := l.record(rec.Key); got.State != StateFailed || got.Sandbox != "prod" || got.Retry != 0 {
			t.Errorf("%s: the record was changed: %+v", name, got)
		}
	}
}

// TestResolvingACreatedRequestTellsIt again.
func TestResolvingACreatedRequestTellsIt(t *testing.T) {
	t.Parallel()
	h := newTestHub(t, nil)
	first := h.Handle(t.Context(), delivery())
	d := delivery()
	d.Request.Retry, d.Request.Resolution = 1, named("other")
	if out := h.Handle(t.Context(), d); out.Result == nil || !out.Repeat || out.Result.EventID != first.Result.EventID || out.Result.Connection.ID != "c1" {
		t.Errorf("%+v", out)
	}
}
