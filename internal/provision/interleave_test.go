package provision

import (
	"context"
	"flag"
	"strings"
	"testing"
	"time"
)

// seedFlag repeats one interleaving: go test ./internal/provision -run Interleaved -seed N.
var seedFlag = flag.Uint64("seed", 0, "run only this seed of the interleaving tests")

var schedulesFlag = flag.Int("schedules", 4000, "how many seeded interleavings to run")

// TestInterleavedWorkers runs two and three workers over copies of one or two requests, with clocks
// apart, random faults, freezes past the lease, late ledger writes and foul weather, under seeded
// schedules.
func TestInterleavedWorkers(t *testing.T) {
	t.Parallel()
	if *seedFlag != 0 {
		interleave(t, *seedFlag)
		return
	}
	schedules := *schedulesFlag
	base := uint64(time.Now().UnixNano())
	if testing.Short() {
		base = 1
	}
	t.Logf("%d schedules from seed %d", schedules, base)
	hits := map[string]int{}
	for i := range uint64(schedules) {
		for path, n := range interleave(t, base+i).hits {
			hits[path] += min(n, 1)
		}
	}
	for _, path := range paths() {
		if t.Logf("%d: %s", hits[path], path); hits[path] == 0 && schedules >= 1000 && !byAPerson(path) {
			t.Errorf("never: %s", path)
		}
	}
}

// byAPerson reports whether a path takes a person's word, for which few schedules get that far: five in
// 4,000, and so none now and then. The scenarios of the crash points go each of them without fail.
func byAPerson(path string) bool { return strings.HasPrefix(path, "a person's word") }

func interleave(t *testing.T, seed uint64) *sim {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("repeat with: go test ./internal/provision -run TestInterleavedWorkers -seed %d", seed)
		}
	}()
	s := clashing(t, seed, nil)
	s.checkAll()
	return s
}

// clashing plays one seeded interleaving to its end.
func clashing(t testing.TB, seed uint64, tweak func(*Config), setups ...func(*sim)) *sim {
	t.Helper()
	s := newSim(t, seed)
	s.tweak = tweak
	s.clash = true
	for range 1 + s.rng.IntN(2) {
		s.send(testRequest())
	}
	odds := s.rng.IntN(30)
	s.plan = func(int, string) fate {
		if s.steps < 300 && s.rng.IntN(100) < odds {
			return allFates[s.rng.IntN(len(allFates))]
		}
		return goesWell
	}
	s.post = s.randomAnswers()
	s.randomHabits()
	if direct := s.rng.IntN(60); direct >= 20 { // in a third of them nothing is
		s.ahead = func(n int) bool { return n < 20 && s.rng.IntN(100) < direct }
	}
	s.foul()
	for _, setup := range setups {
		setup(s)
	}
	for range 2 + s.rng.IntN(2) {
		s.start(time.Duration(s.rng.Int64N(int64(ClockSkew))) - ClockSkew/2)
	}
	s.run()
	return s
}

// foul draws the weather of an interleaving: half of them have fair weather, else each part of it is
// foul now and then, for the first hour.
func (s *sim) foul() {
	if s.rng.IntN(2) == 0 {
		return
	}
	if s.rng.IntN(3) == 0 {
		s.send(secondRequest())
	}
	flowShut, vaultShut, tokenless := s.spells(), s.spells(), s.spells()
	s.gate = func(t Target) time.Duration {
		if t == TargetVault {
			return vaultShut()
		}
		return flowShut()
	}
	s.list, s.book = fails(s.spells()), fails(s.spells())
	s.ims = s.randomTokens(tokenless)
	adobe, token := s.spells(), s.spells()
	s.gone = func(secret string) bool {
		return secret == secretAdobe && adobe() > 0 || secret == secretToken && token() > 0
	}
	s.slot, s.begin = s.randomSlots(), s.randomSlots()
	s.randomRequest()
	retried(s, s.rng.IntN(3))
	s.randomWord()
	s.randomConfig()
}

// spells returns a function that tells how long a spell of foul weather lasts from now; 0 is fair.
func (s *sim) spells() func() time.Duration {
	type spell struct{ from, to time.Time }
	var all []spell
	for range s.rng.IntN(3) {
		from := s.now.Add(time.Duration(s.rng.Int64N(int64(20*time.Minute))) - 5*time.Minute)
		all = append(all, spell{from, from.Add(time.Duration(s.rng.Int64N(int64(15 * time.Minute))))})
	}
	return func() (left time.Duration) {
		for _, sp := range all {
			if !s.now.Before(sp.from) {
				left = max(left, sp.to.Sub(s.now))
			}
		}
		return left
	}
}

// fails returns a function that fails in foul weather.
func fails(foul func() time.Duration) func() error {
	return func() error {
		if foul() > 0 {
			return errOutage
		}
		return nil
	}
}

// randomTokens refuses tokens in foul weather, and rarely for good.
func (s *sim) randomTokens(foul func() time.Duration) func(int) error {
	down, refused := imsSays(VerdictNotSent, 503), imsSays(VerdictDenied, 401)
	odds := s.rng.IntN(3)
	return func(n int) error {
		switch {
		case foul() > 0:
			return down(n)
		case n < 20 && s.rng.IntN(100) < odds:
			s.secrets.creds += s.rng.IntN(2)
			return refused(n)
		}
		return nil
	}
}

// randomSlots has some of the first slots waited for, for a moment or for minutes.
func (s *sim) randomSlots() func(int) time.Duration {
	short, long := s.rng.IntN(60), s.rng.IntN(20)
	return func(n int) time.Duration {
		switch r := s.rng.IntN(100); {
		case n > 200:
			return 0
		case r < long:
			return time.Duration(s.rng.Int64N(int64(2 * simPatience)))
		case r < long+short:
			return time.Duration(1 + s.rng.Int64N(int64(20*time.Millisecond)))
		}
		return 0
	}
}

// randomRequest draws what the first request's copies ask for, and what is there before.
func (s *sim) randomRequest() {
	ask := []IfExists{"", "", IfExistsCreate, IfExistsAdopt, IfExistsReject}[s.rng.IntN(5)]
	var expiry time.Time
	if s.rng.IntN(4) == 0 {
		expiry = s.now.Add(time.Duration(s.rng.Int64N(int64(10 * time.Minute))))
	}
	for _, m := range s.msgs {
		m.d.Request.Data.IfExists, m.d.Request.Expiry = ask, expiry
	}
	if s.rng.IntN(3) == 0 {
		existing(s, func(f *Found) { f.CreatedAt = s.now.Add(-time.Hour) })
	}
	if s.rng.IntN(10) == 0 {
		existing(s, nil) // could be taken for ours
	}
}

// randomConfig draws the deadline, and whether the ledger is new.
func (s *sim) randomConfig() {
	inner := s.tweak
	deadline := []time.Duration{24 * time.Hour, time.Hour, 10 * time.Minute, time.Minute}[s.rng.IntN(4)]
	var created, until time.Time
	switch s.rng.IntN(4) {
	case 0:
		created = s.now.Add(time.Minute)
	case 1:
		until = s.now.Add(time.Duration(s.rng.Int64N(int64(10 * time.Minute))))
	}
	s.tweak = func(c *Config) {
		c.RequestDeadline, c.LedgerCreated, c.LookFirstUntil = deadline, created, func() time.Time { return until }
		if inner != nil {
			inner(c)
		}
	}
}

// randomAnswers treats the first POSTs at random.
func (s *sim) randomAnswers() func(int) postAnswer {
	rng := s.rng
	return func(n int) postAnswer {
		if n > 6 {
			return postAnswer{made: true}
		}
		made := rng.IntN(2) == 0
		switch rng.IntN(17) {
		case 16:
			return taken(made)
		case 0, 1:
			return later(VerdictThrottled, 429, time.Duration(rng.Int64N(int64(20*time.Minute)))*time.Duration(rng.IntN(2)))
		case 2, 3:
			return says(VerdictUnknown)
		case 4, 5:
			return postAnswer{made: true, err: &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Status: 500}}
		case 6:
			return says(VerdictNotSent)
		case 7, 8:
			return promise(made)
		case 9:
			a := later(VerdictUnknown, 503, time.Duration(rng.Int64N(int64(20*time.Minute))))
			a.made = made
			return a
		case 10:
			s.secrets.token += rng.IntN(2)
			return says([]Verdict{VerdictNotReady, VerdictUnauthorized, VerdictDenied, VerdictRejected}[rng.IntN(4)])
		}
		return postAnswer{made: true}
	}
}

// TestSimulationSeesDuplicates breaks the worker's promise on purpose, one assumption at a time, and
// wants the simulation to notice.
func TestSimulationSeesDuplicates(t *testing.T) {
	t.Parallel()
	for name, tweak := range map[string]func(*Config){
		"a list that lags longer than Settle": func(c *Config) { c.Settle = time.Millisecond },
		"a ledger that forgets":               func(c *Config) { c.Ledger = forgetful{c.Ledger} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed < 500; seed++ {
				if _, err := clashing(t, seed, tweak).verify(testRequest().Key); err != nil && strings.Contains(err.Error(), "duplicates") {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("500 schedules, and nothing was noticed")
		})
	}
}

// forgetful is a ledger that remembers nothing but pretends to.
type forgetful struct{ Ledger }

func (forgetful) Load(context.Context, Key) (Record, uint64, error) { return Record{}, 0, ErrNoRecord }

func (forgetful) Store(_ context.Context, _ Key, _ Record, rev uint64) (uint64, error) {
	return rev + 1, nil
}
