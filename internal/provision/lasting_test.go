package provision

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// TestPassingRefusalsMustLast: what made nothing and can pass is the outcome only once there was nothing else
// for two minutes, or at the deadline; until then the request has no slot, whoever refuses.
func TestPassingRefusalsMustLast(t *testing.T) {
	t.Parallel()
	deny := imsSays(VerdictDenied, 401)
	for name, setup := range map[string]func(*sim){
		"a 401 to the POST":            passesAfter(time.Hour, VerdictUnauthorized),
		"a 403 without a word":         passesAfter(time.Hour, VerdictDenied),
		"IMS refuses":                  func(s *sim) { s.ims = deny },
		"IMS refuses before a look-up": func(s *sim) { s.ims = deny; s.msgs[0].d.Request.Data.IfExists = IfExistsReject },
	} {
		s, res := play(t, setup)
		checkFailed(t, res, ReasonFlowDenied)
		if took := res.CompletedAt.Sub(res.StartedAt); took < refusalLasts || took > refusalLasts+5*time.Second {
			t.Errorf("%s: believed after %v", name, took)
		}
		if n := max(s.posts, s.tokens); n < 4 || n > 30 {
			t.Errorf("%s: tried %d times", name, n)
		}
		for _, e := range s.trace {
			if e.op == "sleep" {
				t.Errorf("%s: it waits in its slot at %v", name, e.at)
			}
		}
		_, res = play(t, func(s *sim) {
			setup(s)
			s.tweak = func(c *Config) { c.RequestDeadline = 20 * time.Second }
		})
		if f := res.Error; f == nil || f.Reason != ReasonFlowDenied || !f.Retryable {
			t.Errorf("%s: cut short by the deadline it ends as %+v; want flow_denied, to be retried", name, f)
		}
		if took := res.CompletedAt.Sub(res.StartedAt); took > 21*time.Second {
			t.Errorf("%s: told %v after its start, past its deadline", name, took)
		}
	}
}

// TestRefusalWithABreakBeginsAnew: something else was said meanwhile, so it has not lasted.
func TestRefusalWithABreakBeginsAnew(t *testing.T) {
	t.Parallel()
	s, res := play(t, func(s *sim) {
		began := s.now
		s.post = func(int) postAnswer {
			switch so := s.now.Sub(began); {
			case so < 90*time.Second:
				return says(VerdictUnauthorized)
			case so < 110*time.Second:
				return says(VerdictThrottled)
			case so < 200*time.Second:
				return says(VerdictUnauthorized)
			}
			return postAnswer{made: true}
		}
	})
	checkCreated(t, res, false, s.posts)
}

// TestNewTokensMeanwhile: while a refusal lasts, newer secrets are used as soon as they are there.
func TestNewTokensMeanwhile(t *testing.T) {
	t.Parallel()
	s, res := play(t, func(s *sim) {
		began := s.now
		s.ims = func(int) error {
			if s.now.Sub(began) > 30*time.Second {
				s.secrets.creds = 2
			}
			if s.procs[0].cached.creds < 2 {
				return imsSays(VerdictDenied, 400)(0)
			}
			return nil
		}
	})
	checkCreated(t, res, false, 1)
	if v := s.ledger.record(testRequest().Key).Secrets[secretAdobe]; v != 2 {
		t.Errorf("made with version %d", v)
	}
}

// TestRefusalLastsOverWorkers, and a record that counted 401s, of an older worker, goes on.
func TestRefusalLastsOverWorkers(t *testing.T) {
	t.Parallel()
	refuse := func(context.Context, time.Time) error {
		return &CallError{Verdict: VerdictUnauthorized, Target: TargetFlow, Status: 401}
	}
	for name, tc := range map[string]struct {
		record string
		ends   bool
	}{
		"an older worker's, at its first 401": {`{"state":"waiting","unauthorized":1}`, false},
		"since a minute":                      {`{"state":"waiting","refusedSince":"SINCE-1m"}`, false},
		"since two minutes":                   {`{"state":"waiting","refusedSince":"SINCE-2m"}`, true},
	} {
		l := newMemLedger()
		h := newTestHub(t, func(c *Config) { c.Ledger, c.Connections = l, scriptedFlow{create: refuse} })
		now := h.Clock.Now()
		text := strings.NewReplacer("SINCE-1m", now.Add(-time.Minute).Format(time.RFC3339Nano), "SINCE-2m", now.Add(-2*time.Minute).Format(time.RFC3339Nano)).Replace(tc.record)
		var rec Record
		if err := json.Unmarshal([]byte(text), &rec); err != nil {
			t.Fatal(err)
		}
		rec.Key, rec.Fingerprint, rec.Deadline = testRequest().Key, "f1", now.Add(time.Hour)
		l.put(rec)
		d := delivery()
		d.Delivered = 2
		out := h.Handle(t.Context(), d)
		if (out.Result != nil) != tc.ends || tc.ends && out.Result.Error.Reason != ReasonFlowDenied {
			t.Errorf("%s: %+v", name, out)
		}
		if got := l.record(rec.Key); !tc.ends && (got.RefusedSince.IsZero() || got.Held || out.Delay > time.Minute) {
			t.Errorf("%s: since %v, held %v, to rest %v", name, got.RefusedSince, got.Held, out.Delay)
		}
	}
}
