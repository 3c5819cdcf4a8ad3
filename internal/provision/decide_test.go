package provision

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// transitions are the phases that may follow a phase and an event.
type transitions map[string]map[string]bool

func (t transitions) add(phase, event, next string) {
	switch eventKind(event) {
	case evLost, evUnwritten, evPanicked:
		phase = "any"
	}
	row := phase + " " + event
	if t[row] == nil {
		t[row] = map[string]bool{}
	}
	t[row][next] = true
}

func (t transitions) lines() (lines []string) {
	for row, next := range t {
		lines = append(lines, row+" → "+strings.Join(slices.Sorted(maps.Keys(next)), ", "))
	}
	slices.Sort(lines)
	return lines
}

// watch has a simulation's workers note their transitions.
func (t transitions) watch(s *sim) {
	s.wrap = func(next decider) decider {
		return func(s *situation, ev event, at moment) action {
			from := s.phase
			do := next(s, ev, at)
			t.add(string(from), string(ev.kind), string(s.phase))
			return do
		}
	}
}

// drawn returns the transitions of the table in decide.go.
func drawn(t *testing.T) transitions {
	t.Helper()
	src, err := os.ReadFile("decide.go")
	if err != nil {
		t.Fatal(err)
	}
	table := transitions{}
	for _, row := range regexp.MustCompile(`(?m)^//\t(\w+(?: \w+)?)\s{2,}(\w+)\s+→ (.*)$`).FindAllStringSubmatch(string(src), -1) {
		for next := range strings.SplitSeq(row[3], ", ") {
			table.add(row[1], row[2], next)
		}
	}
	return table
}

// TestTableIsTrue compares the table of transitions in decide.go with those of all scenarios, of interleaved workers,
// and of what few runs come to.
func TestTableIsTrue(t *testing.T) {
	t.Parallel()
	seen := transitions{}
	for _, sc := range slices.Concat(scenarios(), seldomScenarios()) {
		setup := sc.setup
		sc.setup = func(s *sim) {
			if setup != nil {
				setup(s)
			}
			seen.watch(s)
		}
		if _, res := runScenario(t, sc); res.Outcome != sc.want || sc.reason != "" && res.Error.Reason != sc.reason {
			t.Errorf("%s: %s (%v), want %s %s", sc.name, res.Outcome, res.Error, sc.want, sc.reason)
		}
	}
	for seed := range uint64(1000) {
		clashing(t, seed, nil, seen.watch)
	}
	seen.seldom(t)
	if diff := cmp.Diff(drawn(t).lines(), seen.lines()); diff != "" {
		t.Errorf("transitions (-drawn +taken):\n%s", diff)
	}
}

// seldomScenarios end by ways that no other scenario goes.
func seldomScenarios() []scenario {
	denied := &CallError{Verdict: VerdictDenied, Target: TargetFlow, Status: 403, Code: "403"}
	rejects := func(s *sim) { s.msgs[0].d.Request.Data.IfExists = IfExistsReject }
	return []scenario{
		{name: "delivered before, without a record, and made", want: OutcomeCreated, setup: func(s *sim) {
			s.msgs[0].deliver = 1
			existing(s, func(f *Found) { f.ID, f.Description = "c0", testRequest().Key.Mark() })
		}},
		{name: "IMS does not know the client", want: OutcomeFailed, reason: ReasonFlowDenied, setup: func(s *sim) {
			s.ims = func(int) error {
				return &CallError{Verdict: VerdictDenied, Target: TargetIMS, Status: 400, Code: "invalid_client"}
			}
		}},
		{name: "the look before the POST is refused", want: OutcomeFailed, reason: ReasonFlowDenied, setup: func(s *sim) {
			rejects(s)
			s.list = func() error { return denied }
		}},
		{name: "it is refused until the credentials are newer", want: OutcomeCreated, setup: func(s *sim) {
			rejects(s)
			s.list = func() error {
				if s.secrets.creds++; s.secrets.creds > 2 {
					return nil
				}
				return denied
			}
		}},
		{name: "it is refused, and then Vault is down", want: OutcomeCreated, setup: func(s *sim) {
			rejects(s)
			s.list = func() error {
				if s.secrets.err == nil && s.secrets.creds == 1 {
					s.secrets.err = &SecretError{Problem: SecretUnavailable, Err: errInjected}
					s.late = append(s.late, func() { s.secrets.err, s.secrets.creds = nil, 2 })
					return denied
				}
				return nil
			}
		}},
		{name: "the tenant's secret is missing for the look before the POST", want: OutcomeCreated, setup: func(s *sim) {
			rejects(s)
			goneFrom(s, secretAdobe, 0, 3*time.Second)
		}},
	}
}

// seldom decides what even fewer runs come to.
func (t transitions) seldom(tb testing.TB) {
	cfg := newTestHub(tb, nil).Config
	d := delivery()
	now := d.EnteredAt
	blank := situation{cfg: &cfg, d: &d, started: now, rev: 1}
	blank.rec = Record{Key: d.Request.Key, State: StateClaimed, Fingerprint: d.Request.Fingerprint, Deadline: now.Add(time.Hour)}
	for _, c := range []struct {
		phase phase
		ev    event
		set   func(*situation, *event, *moment)
	}{
		{phase: phaseSuspect, ev: event{kind: evGranted, granted: true}, set: func(s *situation, _ *event, _ *moment) { s.rec.Refused = Fail(ReasonFlowRejected, "no") }},
		{phase: phaseSuspect, ev: event{kind: evGranted, granted: true}, set: func(s *situation, _ *event, _ *moment) { s.rec.LookFirst = true }},
		{phase: phaseSuspect, ev: event{kind: evGranted, granted: true}, set: func(s *situation, _ *event, _ *moment) { s.rec.State = StateUnknown }},
		{phase: phaseRefresh, ev: event{kind: evSecrets, err: errInjected}, set: func(s *situation, _ *event, _ *moment) { s.rec.Deadline = now }},
		{phase: phaseAnnounce, ev: event{kind: evConfirmed}, set: func(s *situation, _ *event, at *moment) {
			at.lookFirstUntil = now.Add(2 * time.Hour)
			before := s.rec
			before.Deadline = now
			s.before = &before
		}},
		{phase: phaseLost, ev: event{kind: evLoaded, rec: &Record{State: StateFailed, Fingerprint: d.Request.Fingerprint}}, set: func(s *situation, _ *event, _ *moment) {
			retry := d
			retry.Request.Retry = 1
			s.d = &retry
		}},
		{phase: phaseLookUp, ev: event{kind: evLooked, seen: &sighting{}, err: &SecretError{Problem: SecretMissing, Err: errMissing}}, set: func(s *situation, _ *event, _ *moment) {
			s.rec.State, s.rec.Resolution, s.settled = StateUnknown, &Resolution{}, true
		}},
		{phase: phaseResolve, ev: event{kind: evRead, found: &Found{}, err: unserved(errOutage)}, set: func(s *situation, _ *event, _ *moment) {
			s.rec.State, s.rec.Resolution = StateUnknown, &Resolution{Connection: "c1"}
		}},
		{phase: phasePrepare, ev: event{kind: evPanicked}, set: func(*situation, *event, *moment) {}},
	} {
		s, ev, at := blank, c.ev, moment{now: now, chance: 1}
		s.phase = c.phase
		c.set(&s, &ev, &at)
		decide(&s, ev, at)
		t.add(string(c.phase), string(ev.kind), string(s.phase))
	}
}
