//go:build soak

package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
)

// fleet is the workers that run, and those that did.
type fleet struct {
	w      *world
	binary string // what add starts

	mu      sync.Mutex
	started int
	running []*process
	all     []*process
	frozen  *process // at most one is
	kills   int
	freezes int
}

func newFleet(w *world) *fleet {
	w.t.Helper()
	f := &fleet{w: w, binary: mustBuild(w.t, workerBinary)}
	w.t.Cleanup(f.killAll)
	return f
}

// add starts one more worker and waits until it is ready.
func (f *fleet) add(ctx context.Context) error {
	p, err := f.launch(f.binary)
	if err != nil {
		return err
	}
	return p.await(ctx, wordReady)
}

func (f *fleet) launch(binary string) (*process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started++
	p, err := launch(f.w.dir, fmt.Sprintf("worker-%d", f.started), f.w.env, binary, "run")
	if err == nil {
		f.running, f.all = append(f.running, p), append(f.all, p)
	}
	return p, err
}

// pick returns a random worker that is ready and not frozen, or nil.
func (f *fleet) pick(rng *rand.Rand) *process { return f.pickOf(rng, "") }

// pickOf is pick among those of one binary; "" means any.
func (f *fleet) pickOf(rng *rand.Rand, binary string) *process {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ready []*process
	for _, p := range f.running {
		if p != f.frozen && p.alive() && p.log.has(wordReady) && (binary == "" || binary == p.cmd.Path) {
			ready = append(ready, p)
		}
	}
	if len(ready) == 0 {
		return nil
	}
	return ready[rng.IntN(len(ready))]
}

// remove takes a worker off the list of those that run.
func (f *fleet) remove(p *process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, r := range f.running {
		if r == p {
			f.running = append(f.running[:i:i], f.running[i+1:]...)
			return
		}
	}
}

// replace kills a worker and starts another of the same version.
func (f *fleet) replace(p *process) error {
	p.kill()
	f.remove(p)
	f.mu.Lock()
	f.kills++
	f.mu.Unlock()
	_, err := f.launch(p.cmd.Path)
	return err
}

// freeze stops a worker in its tracks until thaw.
func (f *fleet) freeze(p *process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frozen = p
	f.freezes++
	p.signal(syscall.SIGSTOP)
}

func (f *fleet) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen != nil {
		f.frozen.signal(syscall.SIGCONT)
		f.frozen = nil
	}
}

func (f *fleet) workers() []*process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*process(nil), f.running...)
}

func (f *fleet) everyone() []*process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*process(nil), f.all...)
}

// endAll asks all workers to end and reports those that did not end well.
func (f *fleet) endAll(ctx context.Context) {
	f.w.t.Helper()
	for _, p := range f.workers() {
		if code := p.end(ctx); code != 0 {
			f.w.t.Errorf("%s ended with exit code %d after SIGTERM:\n%s", p.name, code, p.log.tail(15))
		}
		f.remove(p)
	}
	f.check()
}

// check reports workers that died of themselves, panicked or had a data race.
func (f *fleet) check() {
	f.w.t.Helper()
	for _, p := range f.everyone() {
		if p.diedAlone() {
			f.w.t.Errorf("%s ended though nobody told it to: %v\n%s", p.name, p.cmd.ProcessState, p.log.tail(30))
		}
		for _, word := range []string{wordRace, wordPanic} {
			if p.log.has(word) {
				f.w.t.Errorf("the log of %s says %q:\n%s", p.name, word, p.log.tail(keptLines))
			}
		}
	}
}

func (f *fleet) killAll() {
	for _, p := range f.everyone() {
		p.kill()
	}
}

// printTails shows the ends of the logs of those that run.
func (f *fleet) printTails(lines int) {
	f.w.t.Helper()
	for _, p := range f.workers() {
		f.w.t.Logf("the end of the log of %s:\n%s", p.name, p.log.tail(lines))
	}
}
