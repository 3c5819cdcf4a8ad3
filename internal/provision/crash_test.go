package provision

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// seedFlag repeats one interleaving: go test ./internal/provision -run Interleaved -seed N.
var seedFlag = flag.Uint64("seed", 0, "run only this seed of the interleaving tests")

var schedulesFlag = flag.Int("schedules", 4000, "how many seeded interleavings to run")

// scenario is one way the Flow Service and the request can be.
type scenario struct {
	name  string
	setup func(*sim)
	want  string // outcome without any fault
}

func answers(as ...postAnswer) func(int) postAnswer {
	return func(n int) postAnswer {
		if n < len(as) {
			return as[n]
		}
		return postAnswer{made: true}
	}
}

func says(v Verdict) postAnswer {
	return postAnswer{err: &CallError{Verdict: v, Target: TargetFlow, Cause: CauseStatus, Status: 400}}
}

func scenarios() []scenario {
	lost := postAnswer{made: true, err: &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Cause: CauseStatus, Status: 504}}
	return []scenario{
		{"made at once", nil, OutcomeCreated},
		{"throttled first", func(s *sim) { s.post = answers(says(VerdictThrottled)) }, OutcomeCreated},
		{"made, but the answer is 504", func(s *sim) { s.post = answers(lost) }, OutcomeCreated},
		{"500 and not made", func(s *sim) { s.post = answers(says(VerdictUnknown)) }, OutcomeCreated},
		{"token refused once", func(s *sim) { s.post = answers(says(VerdictUnauthorized)) }, OutcomeCreated},
		{"token refused for good", func(s *sim) { s.post = func(int) postAnswer { return says(VerdictUnauthorized) } }, OutcomeFailed},
		{"rejected", func(s *sim) { s.post = func(int) postAnswer { return says(VerdictRejected) } }, OutcomeFailed},
		{"invalid", func(s *sim) { s.msgs[0].d.Invalid = Fail(ReasonInvalidRequest, "no name") }, OutcomeFailed},
		{"adopt if it exists", func(s *sim) { s.msgs[0].d.Request.Data.IfExists = IfExistsAdopt }, OutcomeCreated},
	}
}

// runScenario plays sc with one worker and the given fates, and checks the promise.
func runScenario(t testing.TB, sc scenario, fates map[int]fate) (steps int, res Result) {
	s := newSim(t, 1)
	s.send(testRequest())
	if sc.setup != nil {
		sc.setup(s)
	}
	s.plan = func(n int, _ string) fate { return fates[n] }
	s.start(0)
	s.run()
	return s.steps, s.checkOne(testRequest().Key)
}

var allFates = []fate{crashBefore, crashAfter, answerLost, failsBefore, landsLate}

// TestEveryCrashPoint crashes, and loses the answer of, every external step of every scenario.
func TestEveryCrashPoint(t *testing.T) {
	t.Parallel()
	runs := 0
	for _, sc := range scenarios() {
		steps, res := runScenario(t, sc, nil)
		if res.Outcome != sc.want {
			t.Fatalf("%s: %s (%v), want %s", sc.name, res.Outcome, res.Error, sc.want)
		}
		for k := range steps {
			for _, f := range allFates {
				t.Run(fmt.Sprintf("%s/step %d %s", sc.name, k, f), func(t *testing.T) {
					_, res := runScenario(t, sc, map[int]fate{k: f})
					if res.Outcome != sc.want {
						t.Errorf("%s (%v), want %s", res.Outcome, res.Error, sc.want)
					}
				})
				runs++
			}
		}
	}
	t.Logf("%d single crash points", runs)
}

// TestEveryPairOfCrashPoints does the same with every two steps. The second step is counted in the
// run that the first fault has changed.
func TestEveryPairOfCrashPoints(t *testing.T) {
	t.Parallel()
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			steps, _ := runScenario(t, sc, nil)
			runs, s0 := 0, rand.New(rand.NewPCG(1, 2))
			for a := range steps {
				for _, fa := range allFates {
					longer, _ := runScenario(t, sc, map[int]fate{a: fa})
					for b := a + 1; b < longer; b++ {
						for _, fb := range allFates {
							if pairStride > 1 && s0.IntN(pairStride) != 0 {
								continue
							}
							if _, res := runScenario(t, sc, map[int]fate{a: fa, b: fb}); res.Outcome != sc.want {
								t.Fatalf("step %d %s, step %d %s: %s (%v), want %s", a, fa, b, fb, res.Outcome, res.Error, sc.want)
							}
							runs++
						}
					}
				}
			}
			t.Logf("%d pairs", runs)
		})
	}
}

// TestInterleavedWorkers runs two and three workers over copies of one request, with clocks apart,
// random faults, freezes past the lease and late ledger writes, under seeded schedules.
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
	for i := range uint64(schedules) {
		interleave(t, base+i)
		if t.Failed() {
			t.Fatalf("repeat with: go test ./internal/provision -run TestInterleavedWorkers -seed %d", base+i)
		}
	}
}

func interleave(t *testing.T, seed uint64) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	clashing(t, seed, nil).checkOne(testRequest().Key)
}

// clashing plays one seeded interleaving to its end.
func clashing(t *testing.T, seed uint64, tweak func(*Config)) *sim {
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
	s.post = randomAnswers(s.rng)
	for range 2 + s.rng.IntN(2) {
		s.start(time.Duration(s.rng.Int64N(int64(ClockSkew))) - ClockSkew/2)
	}
	s.run()
	return s
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
				if _, err := clashing(t, seed, tweak).verify(testRequest().Key); err != nil {
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

func randomAnswers(rng *rand.Rand) func(int) postAnswer {
	return func(n int) postAnswer {
		if n > 6 {
			return postAnswer{made: true}
		}
		switch rng.IntN(6) {
		case 0:
			return says(VerdictThrottled)
		case 1:
			return says(VerdictUnknown)
		case 2:
			return postAnswer{made: true, err: &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Status: 500}}
		case 3:
			return says(VerdictNotSent)
		}
		return postAnswer{made: true}
	}
}
