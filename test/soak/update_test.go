//go:build soak

package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// versionBefore is the commit before the hub became one function that decides and one loop that acts. .ci/run reads
// it here.
const versionBefore = "c7fedf65353a53d68f1b47a5820e205727680372"

// olderBinary is the worker of versionBefore; "" where the repository's history doesn't have it.
var olderBinary = sync.OnceValues(func() (string, error) {
	if exec.Command("git", "cat-file", "-e", versionBefore+"^{commit}").Run() != nil {
		return "", nil
	}
	dir := filepath.Join(binDir, "before")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tree, path := filepath.Join(dir, "tree.tar"), filepath.Join(binDir, "worker-before")
	for _, args := range [][]string{
		{"git", "-C", "../..", "archive", "--output=" + tree, versionBefore},
		{"tar", "-x", "-C", dir, "-f", tree},
		{"go", "build", "-C", dir, "-buildvcs=false", "-o", path, "./cmd/worker"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%q: %w\n%s", args, err, out)
		}
	}
	return path, nil
})

// update is a rolling update under way.
type update struct {
	*world
	rng          *rand.Rand
	older, newer string // binaries
	killed       map[string]int
	frozen       map[string]int
	frozenAt     time.Time
}

// frozenFor is how long a worker is frozen at least: past the lease of a POST and the clocks' allowance, so that others
// have taken over what it had, and it wakes up as one that lost it.
const frozenFor = 14 * time.Second

// Three workers of the version before are replaced by workers of this one, one after the other, with one step back,
// while requests come in, some twice, the Flow Service fails and throttles, and workers of both versions are killed and
// frozen. At the end each version repeats the outcomes of the other.
func TestUpdateFromTheVersionBefore(t *testing.T) {
	t.Parallel()
	older := mustBuild(t, olderBinary)
	if older == "" {
		t.Skip("the history of this clone has no commit " + versionBefore)
	}
	seed, d := newSeed(t), *durationFlag*4/5
	ctx, cancel := context.WithTimeout(t.Context(), d+*patienceFlag+2*time.Minute)
	defer cancel()
	w := newWorld(ctx, t, seed, 1, quick...)
	u := &update{world: w, rng: newRand(seed, 10), older: older, newer: w.fleet.binary, killed: map[string]int{}, frozen: map[string]int{}}
	w.setFaults(lossy()...)
	w.fleet.binary = older
	w.startWorkers(ctx, 3)

	asks := newAsks(newRand(seed, 1), share(2400), mixed)
	stages := []struct{ from, to, freeze string }{
		{freeze: older}, {from: older, to: u.newer}, {from: older, to: u.newer},
		{from: u.newer, to: older}, {from: older, to: u.newer, freeze: u.newer}, {from: older, to: u.newer},
	}
	for i, s := range stages {
		if i == 3 {
			u.thaw(ctx)
		}
		if s.from != "" {
			u.step(ctx, s.from, s.to)
		}
		some := asks[i*len(asks)/len(stages) : (i+1)*len(asks)/len(stages)]
		if err := u.stage(ctx, some, d/time.Duration(len(stages)), s.freeze); err != nil {
			w.fail(err)
		}
	}
	u.thaw(ctx)
	w.setFaults()
	calm := time.Now()
	if err := w.clear(ctx, asks); err != nil {
		w.conclude(ctx, asks)
		w.fail(err)
	}
	cleared := time.Since(calm)

	repeats := u.again(ctx, asks)
	for range 3 {
		u.step(ctx, u.newer, older)
	}
	repeats += u.again(ctx, asks)

	ends := u.ends(ctx, asks)
	w.conclude(ctx, asks, row{"kills of the version before", u.killed[older]}, row{"kills of this version", u.killed[u.newer]},
		row{"freezes of the version before", u.frozen[older]}, row{"freezes of this version", u.frozen[u.newer]},
		row{"concluded by the version before", ends.byOlder}, row{"of these, after work of this version", ends.takenBack},
		row{"concluded by this version", ends.byNewer}, row{"of these, after work of the version before", ends.takenOver},
		row{"outcomes repeated", repeats}, row{"time to clear afterwards", cleared.Round(time.Second / 10)})
	if ends.byOlder == 0 || ends.byNewer == 0 || ends.takenOver == 0 || ends.takenBack == 0 {
		t.Errorf("seed %d: both versions should have concluded requests, and taken over some from each other: %+v", seed, ends)
	}
	if u.killed[older] < 2 || u.killed[u.newer] < 2 || w.struck == 0 {
		t.Errorf("seed %d: this was no disturbance: kills %v, %d faults", seed, u.killed, w.struck)
	}
}

// step ends a worker of one version and starts one of the other.
func (u *update) step(ctx context.Context, from, to string) {
	u.t.Helper()
	p := u.ready(ctx, from)
	u.fleet.remove(p)
	if code := p.end(ctx); code != 0 {
		u.t.Errorf("seed %d: %s: exit code %d after SIGTERM:\n%s", u.seed, p.name, code, p.log.tail(30))
	}
	u.fleet.binary = to
	if err := u.fleet.add(ctx); err != nil {
		u.fail(err)
	}
}

// thaw lets the frozen worker go on, once it was frozen for long enough.
func (u *update) thaw(ctx context.Context) {
	u.t.Helper()
	if err := wait(ctx, time.Until(u.frozenAt.Add(frozenFor))); err != nil {
		u.fail(err)
	}
	u.fleet.thaw()
}

// ready returns a worker of one version, as soon as one is ready and not frozen.
func (u *update) ready(ctx context.Context, binary string) (p *process) {
	u.t.Helper()
	if err := poll(ctx, "no worker of "+binary+" is ready", func() bool { p = u.fleet.pickOf(u.rng, binary); return p != nil }); err != nil {
		u.fail(err)
	}
	return p
}

// stage publishes some requests over d, and kills two workers of each version meanwhile, as far as they are ready. Amid
// it, one of the version freeze is frozen, if there is to be one.
func (u *update) stage(ctx context.Context, asks []*ask, d time.Duration, freeze string) error {
	published := make(chan error, 1)
	go func() { published <- u.publish(ctx, asks, d) }()
	began := time.Now()
	for i, binary := range []string{u.older, u.newer, u.older, u.newer} {
		if err := wait(ctx, time.Until(began.Add(d*time.Duration(i)/4+time.Duration(u.rng.Int64N(int64(d/4)))))); err != nil {
			return errors.Join(err, <-published)
		}
		if p := u.fleet.pickOf(u.rng, binary); p != nil {
			u.killed[binary]++
			if err := u.fleet.replace(p); err != nil {
				return errors.Join(err, <-published)
			}
		}
		if i == 1 && freeze != "" {
			p := u.ready(ctx, freeze)
			u.frozen[freeze]++
			u.frozenAt = time.Now()
			u.fleet.freeze(p)
		}
	}
	return errors.Join(wait(ctx, time.Until(began.Add(d))), <-published)
}

// again sends requests once more, in other messages, and returns how many outcomes were published for them. That they
// are the same to the byte is the collector's affair; what is said of one message only is another one's with the next.
func (u *update) again(ctx context.Context, asks []*ask) int {
	u.t.Helper()
	before := u.told.noted()
	var copies []*ask
	for _, a := range asks {
		if a.vague || a.reused {
			continue
		}
		body := a.mails[0].body
		copies = append(copies, &ask{key: a.key, mails: []mail{{fmt.Sprintf("%s-%s-again-%d", a.key.Tenant, a.key.ID, before), body}}})
	}
	if err := u.publish(ctx, copies, 0); err != nil {
		u.fail(err)
	}
	repeated := func() int { return u.told.noted() - before }
	if err := u.told.await(ctx, func() bool { return repeated() >= len(copies) }); err != nil {
		u.fail(fmt.Errorf("%d outcomes were published for %d requests that were sent again: %w", repeated(), len(copies), err))
	}
	if err := u.clear(ctx, asks); err != nil {
		u.fail(err)
	}
	return repeated()
}

// ends counts requests by the version that concluded them, as the ledger tells it.
type ends struct{ byOlder, byNewer, takenBack, takenOver int }

func (u *update) ends(ctx context.Context, asks []*ask) (e ends) {
	u.t.Helper()
	versions := map[string]string{} // :: owner in the ledger → binary
	for _, p := range u.fleet.everyone() {
		for _, line := range p.log.about(`"worker started"`, 1) {
			var started struct{ Instance string }
			if err := json.Unmarshal([]byte(line), &started); err != nil {
				u.fail(fmt.Errorf("%s: %w: %s", p.name, err, line))
			}
			versions[started.Instance] = p.cmd.Path
		}
	}
	bucket, err := ledger.Open(ctx, u.js, ledger.Config{})
	if err != nil {
		u.fail(err)
	}
	for _, a := range asks {
		rec, _, err := bucket.Load(ctx, a.key)
		if a.vague && errors.Is(err, provision.ErrNoRecord) {
			continue
		}
		if err != nil || len(rec.Attempts) == 0 {
			u.fail(fmt.Errorf("the record of %s: %w, %d attempts", a.key, err, len(rec.Attempts)))
		}
		by := versions[rec.Attempts[len(rec.Attempts)-1].Owner]
		handed := slices.ContainsFunc(rec.Attempts, func(a provision.Attempt) bool { return versions[a.Owner] != by })
		switch {
		case by == u.older && handed:
			e.byOlder, e.takenBack = e.byOlder+1, e.takenBack+1
		case by == u.older:
			e.byOlder++
		case by == u.newer && handed:
			e.byNewer, e.takenOver = e.byNewer+1, e.takenOver+1
		case by == u.newer:
			e.byNewer++
		default:
			u.fail(fmt.Errorf("%s was concluded by %q, which is no worker", a.key, rec.Attempts[len(rec.Attempts)-1].Owner))
		}
	}
	return e
}
