package limit

import (
	"slices"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// blame says whom a target is down for. The zero value means everybody. Its breaker's mu guards it.
type blame struct {
	only    []string  // the tenants it is down for; empty means all
	proved  bool      // others were served since: the target itself is up
	failed  int       // calls of others that failed in a row
	failure time.Time // the last of these
}

// begin blames those who fail, if there are others who don't, or there is just one.
func (bl *blame) begin(sick []string, others bool) {
	*bl = blame{}
	if others || len(sick) == 1 {
		bl.only = sick
	}
}

// reconsider lifts the blame off several when a probe has failed again, nobody else was served since, and
// there is nobody any more who was served lately: it is an outage that began amid good times.
func (bl *blame) reconsider(others bool) {
	if len(bl.only) > 1 && !bl.proved && !others {
		bl.only = nil
	}
}

func (bl *blame) some() bool { return len(bl.only) > 0 }

func (bl *blame) tenants() []string { return slices.Clone(bl.only) }

// told returns what the log says of whom the target is down for. Only once others were served is it the trouble of some.
func (bl *blame) told(state gobreaker.State) []any {
	switch {
	case !bl.some():
		return nil
	case bl.proved:
		return []any{"only_for_tenants", bl.tenants()}
	case state == gobreaker.StateClosed:
		return nil
	}
	return []any{"up_for_others", false, "failed_for_tenants", bl.tenants()}
}

// spares reports whether the target counts as down for other tenants only.
func (br *breaker) spares(tenant string) bool {
	br.mu.Lock()
	defer br.mu.Unlock()
	return br.blame.some() && !slices.Contains(br.blame.only, tenant)
}

func (br *breaker) blames() bool {
	br.mu.Lock()
	defer br.mu.Unlock()
	return br.blame.some()
}

func (br *breaker) proved() bool {
	br.mu.Lock()
	defer br.mu.Unlock()
	return br.blame.proved
}

// aside takes the outcome of a call of a tenant that the target does not count as down for. When it
// has failed for such often enough, in a row, it is down for these, too, or for all if nobody is left
// that it serves.
func (b *Breakers) aside(t provision.Target, br *breaker, tenant string, end provision.CallEnd) {
	now := time.Now()
	br.callers.ended(tenant, end, now)
	sick, others := br.callers.health(now)
	br.mu.Lock()
	bl := &br.blame
	was := *bl
	switch {
	case !bl.some(): // meanwhile it is down for all, or up again
	case end == provision.CallServed:
		bl.proved, bl.failed = true, 0
	case end == provision.CallFailed:
		if now.Sub(bl.failure) > br.callers.window {
			bl.failed = 0
		}
		bl.failed, bl.failure = bl.failed+1, now
		if bl.failed >= br.failures {
			bl.begin(append(sick, bl.only...), others)
			bl.proved = was.proved && bl.some()
		}
	}
	blamed, changed := bl.tenants(), bl.proved != was.proved || bl.some() != was.some()
	down := !bl.proved
	br.mu.Unlock()
	if changed && br.State() != gobreaker.StateClosed {
		b.show(t, down)
		b.log.Warn("circuit changed", "target", t, "up_for_others", !down, "only_for_tenants", blamed)
		b.broadcast()
	}
}

// lookPast is how long, when a target that is down for all may be probed again, only those are let through
// that it hasn't failed for lately: theirs may be the only requests that go well, behind the backlogs
// of others.
const lookPast = time.Second

// lookingPast reports whether it is that time. The caller holds mu.
func (br *breaker) lookingPast() bool {
	return !br.blame.some() && time.Since(br.until) < lookPast
}

// passedOver reports whether somebody else should have the probe: one that the target hasn't failed for,
// then one that didn't have the last. The trouble of some must not keep the circuit open for all.
func (br *breaker) passedOver(tenant string) bool {
	now := time.Now()
	br.mu.Lock()
	defer br.mu.Unlock()
	switch {
	case br.blame.some():
		return false
	case br.lookingPast():
		return br.callers.sick(tenant, now)
	}
	return br.prober == tenant && br.callers.count(now) > 1 && now.Sub(br.until) < 2*br.cooldown
}
