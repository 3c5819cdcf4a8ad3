package pace

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Turns shares the worker's work among tenants. Each tenant may have as many requests in hand as the
// Flow Service has lately borne for it: one more per round of requests that went well, 30 % fewer
// after one that was throttled or failed (additive increase, multiplicative decrease). So a fleet of
// workers settles at the rate the service bears, without any of them knowing the others, and a
// tenant in trouble doesn't hold the slots that others need.
//
// There are more slots than turns. What is in the others looks ahead: it goes through the backlogs and
// sends them back to the stream, until a request of somebody is met who has less than others. A few
// turns are reserved: half of them for tenants with less than an even part of the work, the rest for
// those with nothing in hand. So neither one tenant's 50,000 queued requests nor those of several hold
// up another's single one, although the stream has one consumer and it is in order.
//
// What has to wait is given a time to come back at which its tenant should have a turn for it: a
// virtual queue, so that a large backlog isn't delivered over and over. Where turns come and go so fast
// that the backlog is gone in no time, the wait is a few milliseconds, worth waiting for in the slot.
// It is safe for concurrent use.
type Turns struct {
	turns, ahead, reserved int
	max                    float64 // of one tenant
	now                    func() time.Time

	mu     sync.Mutex        // guards the rest
	shares map[string]*share // :: tenant → its share
	inHand int               // turns of all tenants
	active int               // tenants with a turn
}

// share is one tenant's. Its fields are guarded by Turns.mu.
type share struct {
	limit   float64
	inHand  int
	cutAt   time.Time     // of the last cut
	service time.Duration // moving average of a turn's length
	endedAt time.Time     // the last end of a turn, or the beginning of the first one since there was none
	line    line          // of the requests that wait for a turn
	usedAt  time.Time
}

// cut is what a throttled or failed request leaves of a share. Three workers under a limit of 20 or
// 60 a second reach 96 % and 95 % of it, with a half 92 % and 89 %, for a few more 429s (0.29 and 0.11
// per success, not 0.26 and 0.07); test/fairness measures it.
const cut = 0.7

// Limits of a share that has no turn.
const (
	minWait  = time.Second
	fastRate = 250 // turns per second, from which on a backlog is worked off: looking through it costs more than that
	fastWait = 5 * time.Millisecond
	slowRate = 50               // come back per second at least, so that good times are noticed soon
	surplus  = 1.25             // as many come back as can have a turn, so that chance leaves few turns unused
	forgetAt = 10 * time.Minute // a share not used for so long is forgotten
	sweepAt  = 1024             // shares, from which on forgetting is worth the sweep
)

// NewTurns returns Turns for a worker that works on so many requests at a time. now is time.Now if nil.
func NewTurns(turns int, now func() time.Time) *Turns {
	if now == nil {
		now = time.Now
	}
	ahead := lookAhead(turns)
	reserved := (ahead + 3) / 4
	return &Turns{turns: turns, ahead: ahead, reserved: reserved, max: float64(turns - reserved), now: now, shares: map[string]*share{}}
}

// lookAhead returns how many slots are for it: enough to get through a backlog of tens of thousands
// in seconds. Below 8 turns there is none.
func lookAhead(turns int) int { return max(min(8, turns/8), turns/32) }

// Slots returns how many messages the worker should have in hand: the turns, and what looks ahead.
func (t *Turns) Slots() int { return t.turns + t.ahead }

// Take implements provision.Turns. The caller holds one of the slots.
func (t *Turns) Take(tenant string) (done func(strained bool), wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	s := t.share(tenant, now)
	if !t.free(s) {
		return nil, s.queue(now)
	}
	if s.inHand == 0 {
		s.endedAt = now
		t.active++
	}
	s.inHand++
	t.inHand++
	return func(strained bool) { t.back(s, now, strained) }, 0
}

// free reports whether there is one more turn for the share.
func (t *Turns) free(s *share) bool {
	if float64(s.inHand) >= max(s.limit, 1) {
		return false
	}
	switch left := t.turns - t.inHand; {
	case left > t.reserved:
		return true
	case s.inHand == 0:
		return left > 0
	default:
		return left > t.reserved/2 && s.inHand < int(t.max)/t.active
	}
}

// queue returns when to come back, by putting one more into the virtual queue. Its pace is that of the
// turns the tenant has, however many it might have.
func (s *share) queue(now time.Time) time.Duration {
	each := max(s.service, s.overdue(now)) / time.Duration(max(s.inHand, 1))
	if each < time.Second/fastRate {
		return fastWait
	}
	wait := max(s.line.join(now, time.Duration(float64(min(each, time.Second/slowRate))/surplus)), minWait)
	return min(wait*9/10+rand.N(wait/5), maxWait)
}

// overdue returns how long no turn has ended although there are some: none of them may ever.
func (s *share) overdue(now time.Time) time.Duration {
	if s.inHand == 0 {
		return 0
	}
	return now.Sub(s.endedAt)
}

func (t *Turns) back(s *share, began time.Time, strained bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.inHand--
	s.inHand--
	if s.inHand == 0 {
		t.active--
	}
	s.usedAt, s.endedAt = now, now
	s.served(now.Sub(began))
	switch {
	case !strained:
		s.limit = min(s.limit+1/max(s.limit, 1), t.max)
	case began.After(s.cutAt): // those that were in hand at the last cut say nothing new
		s.limit, s.cutAt = max(s.limit*cut, 1), now
	}
}

// served keeps the moving average; the first turn sets it.
func (s *share) served(took time.Duration) {
	if s.service == 0 {
		s.service = took
	}
	s.service += (took - s.service) / 8
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
