package provision

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

var pairsFlag = flag.Int("pairs", pairsPerScenario, "how many pairs of crash points to play of each scenario, drawn at random; 0 means all")

// fault is what befalls one step of a run, counted from 0.
type fault struct {
	step int
	op   string
	fate fate
}

func (f fault) String() string { return fmt.Sprintf("step %d (%s) %s", f.step, f.op, f.fate) }

// runScenario plays sc with one worker and the given faults, and checks the promise.
func runScenario(t testing.TB, sc scenario, faults ...fault) (*sim, Result) {
	s := newSim(t, 1)
	s.send(testRequest())
	if sc.setup != nil {
		sc.setup(s)
	}
	s.plan = func(n int, _ string) fate {
		for _, f := range faults {
			if f.step == n {
				return f.fate
			}
		}
		return goesWell
	}
	s.start(0)
	s.run()
	return s, s.checkAll()
}

// checkScenario plays sc with the given faults and wants its outcome.
func checkScenario(t testing.TB, sc scenario, faults ...fault) *sim {
	t.Helper()
	s, res := runScenario(t, sc, faults...)
	if res.Outcome != sc.want && (res.Error == nil || !slices.Contains(sc.or, res.Error.Reason)) {
		s.fatal("%v: %s (%v), want %s", faults, res.Outcome, res.Error, sc.want)
	}
	return s
}

var allFates = []fate{crashBefore, crashAfter, answerLost, failsBefore, landsLate, stops}

// fatesOf returns the fates that make a difference to a step. What only reads has no effect that could
// survive a crash or a lost answer.
func fatesOf(op string) []fate {
	switch op {
	case "pull", "sleep":
		return []fate{stops}
	case "store":
		return allFates
	case "load", "credentials", "resolve", "authorize", "find", "get":
		return []fate{crashBefore, failsBefore, stops}
	}
	return []fate{crashBefore, crashAfter, answerLost, failsBefore, stops}
}

// faultsFrom lists every fault that could have befallen the run s from a step on.
func (s *sim) faultsFrom(step int) (all []fault) {
	for n, e := range s.trace {
		for _, f := range fatesOf(e.op) {
			if n >= step {
				all = append(all, fault{n, e.op, f})
			}
		}
	}
	return all
}

// TestScenariosTakeTheirPaths plays every scenario without a fault: it ends as it should, by the way
// that it is there for.
func TestScenariosTakeTheirPaths(t *testing.T) {
	t.Parallel()
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			s, res := runScenario(t, sc)
			checkEnd(t, sc, s, res)
		})
	}
}

// checkEnd wants a run without a fault to end as its scenario says, by the way that it is there for.
func checkEnd(t testing.TB, sc scenario, s *sim, res Result) {
	t.Helper()
	if res.Outcome != sc.want || sc.want == OutcomeFailed && res.Error.Reason != sc.reason {
		t.Errorf("%s (%v), want %s %s", res.Outcome, res.Error, sc.want, sc.reason)
	}
	if n := len(s.results); s.hits[viaSilent] > 0 && n != 1 {
		t.Errorf("published %d times, want once", n)
	}
	for _, path := range sc.never {
		if s.hits[path] != 0 {
			t.Errorf("%d times: %s", s.hits[path], path)
		}
	}
	inTime := time.Second
	if s.hits[viaUnknown] > 0 {
		inTime += simSettle
	}
	if late := res.CompletedAt.Sub(s.ledger.record(testRequest().Key).Deadline); late > inTime {
		t.Errorf("ended %v after the deadline", late)
	}
	for _, path := range sc.through {
		if s.hits[path] == 0 {
			t.Errorf("never: %s", path)
		}
	}
}

// TestEveryCrashPoint crashes, and loses the answer of, every external step of every scenario, and asks
// the worker to stop there.
func TestEveryCrashPoint(t *testing.T) {
	t.Parallel()
	var runs, stopped atomic.Int64
	t.Cleanup(func() {
		t.Logf("%d single crash points, %d workers stopped as they were asked to", runs.Load(), stopped.Load())
		if stopped.Load() == 0 && !t.Failed() {
			t.Error("no worker ever did")
		}
	})
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			whole, _ := runScenario(t, sc)
			for _, f := range whole.faultsFrom(0) {
				s := checkScenario(t, sc, f)
				runs.Add(1)
				stopped.Add(int64(s.hits[viaStop]))
			}
		})
	}
}

// shares returns how many of the possible first faults to play in a scenario of so many steps, and how many
// second ones with each; 0 means all. Of a long scenario it is fewer, so that none takes most of the time.
func shares(steps, possible int) (firsts, seconds int) {
	const each, long = 10, 50
	if *pairsFlag <= 0 {
		return 0, 0
	}
	pairs := max(each, *pairsFlag*long/max(steps, long))
	return pairs / each, max(each, pairs/possible)
}

// TestEveryPairOfCrashPoints does the same with two steps: with every two of them, or with as many as
// -pairs says, drawn at random. The second step is counted in the run that the first fault has changed.
func TestEveryPairOfCrashPoints(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if testing.Short() {
		seed = 1
	}
	var runs atomic.Int64
	t.Cleanup(func() { t.Logf("%d pairs of crash points", runs.Load()) })
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 2))
			whole, _ := runScenario(t, sc)
			possible := whole.faultsFrom(0)
			firsts, seconds := shares(len(whole.trace), len(possible))
			for _, first := range draw(rng, possible, firsts) {
				changed, _ := runScenario(t, sc, first)
				for _, second := range draw(rng, changed.faultsFrom(first.step+1), seconds) {
					checkScenario(t, sc, first, second)
					runs.Add(1)
				}
			}
		})
	}
}

// draw returns n of all at random, or all of them where n is 0 or more than there are.
func draw[T any](rng *rand.Rand, all []T, n int) []T {
	if n <= 0 || n >= len(all) {
		return all
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:n]
}
