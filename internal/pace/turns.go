package pace

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Turns shares the worker's slots among tenants. Each tenant may have as many requests in hand as the
// Flow Service has lately borne for it: one more per round of requests that went well, half as many
// after one that was throttled or failed (additive increase, multiplicative decrease). So a fleet of
// workers settles at the rate the service bears, without any of them knowing the others, and a
// tenant in trouble doesn't hold the slots that others need.
//
// What has to wait is given a time to come back at which its tenant should have a turn for it: a
// virtual queue, so that a large backlog isn't delivered over and over. It is safe for concurrent use.
type Turns struct {
	max    float64
	now    func() time.Time
	mu     sync.Mutex
	shares map[string]*share // :: tenant → its share; guarded by mu
}

// share is one tenant's. Its fields are guarded by Turns.mu.
type share struct {
	limit   float64
	inHand  int
	cutAt   time.Time     // of the last halving
	service time.Duration // moving average of a turn's length
	next    time.Time     // end of the virtual queue
	usedAt  time.Time
}

// Limits of a share that has no turn.
const (
	minWait  = time.Second
	maxWait  = 5 * time.Minute
	forgetAt = 10 * time.Minute // a share not used for so long is forgotten
	sweepAt  = 1024             // shares, from which on forgetting is worth the sweep
)

// NewTurns returns Turns under which a tenant may have up to slots requests in hand. now is time.Now
// if nil.
func NewTurns(slots int, now func() time.Time) *Turns {
	if now == nil {
		now = time.Now
	}
	return &Turns{max: float64(max(slots, 1)), now: now, shares: map[string]*share{}}
}

// Take implements provision.Turns.
func (t *Turns) Take(tenant string) (done func(strained bool), wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	s := t.share(tenant, now)
	if float64(s.inHand) >= max(s.limit, 1) {
		return nil, s.queue(now)
	}
	s.inHand++
	return func(strained bool) { t.back(s, now, strained) }, 0
}

// queue returns when to come back, by putting one more into the virtual queue.
func (s *share) queue(now time.Time) time.Duration {
	if s.next.Before(now) {
		s.next = now
	}
	s.next = s.next.Add(time.Duration(float64(max(s.service, 10*time.Millisecond)) / max(s.limit, 1)))
	wait := min(max(s.next.Sub(now), minWait), maxWait)
	return wait/2 + rand.N(wait)
}

func (t *Turns) back(s *share, began time.Time, strained bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	s.inHand--
	s.usedAt = now
	s.service += (now.Sub(began) - s.service) / 8
	switch {
	case !strained:
		s.limit = min(s.limit+1/max(s.limit, 1), t.max)
	case began.After(s.cutAt): // those that were in hand at the last halving say nothing new
		s.limit, s.cutAt = max(s.limit/2, 1), now
	}
}

func (t *Turns) share(tenant string, now time.Time) *share {
	s := t.shares[tenant]
	if s == nil {
		if len(t.shares) >= sweepAt {
			t.forget(now)
		}
		s = &share{limit: t.max}
		t.shares[tenant] = s
	}
	s.usedAt = now
	return s
}

func (t *Turns) forget(now time.Time) {
	for name, s := range t.shares {
		if s.inHand == 0 && now.Sub(s.usedAt) > forgetAt {
			delete(t.shares, name)
		}
	}
}

// Limit returns how many requests the tenant may have in hand just now.
func (t *Turns) Limit(tenant string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.shares[tenant]; s != nil {
		return int(max(s.limit, 1))
	}
	return int(t.max)
}
