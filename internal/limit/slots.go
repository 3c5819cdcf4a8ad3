package limit

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Slots bounds how many calls that create something are under way at a time, and shares them among
// tenants: a free slot goes to the tenant with the fewest calls under way, and among those to the one
// that has waited longest since its last. So a single request of one tenant waits for one slot to come
// free, however many another tenant has waiting.
//
// Each tenant has a limit that follows what the Flow Service has lately borne for it: one more per round
// of calls that went well, 30 % fewer after one that was throttled or failed (additive increase,
// multiplicative decrease). A fleet of workers so settles at the rate that the service bears, without any
// of them knowing the others, and a tenant in trouble holds back only itself.
//
// It is safe for concurrent use.
type Slots struct {
	size  int
	most  float64 // of one tenant
	first float64 // limit of a tenant that has had no success yet
	now   func() time.Time

	mu        sync.Mutex         // guards the rest
	tenants   map[string]*tenant // :: name → its share
	ready     readyHeap          // tenants that wait and are below their limit
	busy      int                // slots given out
	running   int                // calls under way
	announced []*waiter          // calls that wait to begin, in the order in which they were announced
	took      time.Duration      // moving average of how long a call takes
	grants    uint64             // counts grants, to order tenants by their last
}

// tenant is one tenant's share. Its fields are guarded by Slots.mu.
type tenant struct {
	limit   float64
	busy    int       // slots given out
	running int       // calls under way
	cutAt   time.Time // of the last decrease
	usedAt  time.Time
	granted uint64    // when it last got a slot, by Slots.grants
	waiting []*waiter // first come, first served
	index   int       // in Slots.ready, -1 if it isn't there
}

// waiter is one call that waits for a slot, or to begin. got is closed when it may go on.
type waiter struct {
	got     chan struct{}
	granted bool    // guarded by Slots.mu
	tenant  *tenant // of one that was announced
}

const (
	// decrease is what a throttled or failed call leaves of a limit. Three workers under a limit of 20 or
	// 60 calls a second reach 96 % and 95 % of it, with a half 92 % and 89 %; test/fairness measures it.
	decrease = 0.7
	// soon is how long calls may take for the next one to be announced before there is room for it: its lease
	// runs meanwhile.
	soon = 2 * time.Second
	// idleLife is how long a tenant without calls is remembered.
	idleLife = 10 * time.Minute
	// forgetFrom is the number of tenants from which on forgetting is worth a pass over all.
	forgetFrom = 1024
)

// NewSlots returns that many slots. now is time.Now if nil.
//
// One tenant alone leaves a 64th of them free, and a quarter until its first success: calls that hang
// would else keep every slot from all others for as long as a call may take.
func NewSlots(size int, now func() time.Time) *Slots {
	if now == nil {
		now = time.Now
	}
	most := max(size-(size+32)/64, 1)
	return &Slots{
		size: size, most: float64(most), first: max(float64(min(size*3/4, most)), 1), now: now,
		tenants: map[string]*tenant{},
	}
}

// Acquire implements provision.Slots.
func (s *Slots) Acquire(ctx context.Context, name string) (provision.Slot, error) {
	s.mu.Lock()
	t := s.tenant(name)
	w := &waiter{got: make(chan struct{})}
	t.waiting = append(t.waiting, w)
	s.place(t)
	s.grant()
	s.mu.Unlock()
	select {
	case <-w.got:
	case <-ctx.Done():
		if s.withdraw(t, w) {
			return nil, context.Cause(ctx)
		}
	}
	return &slot{slots: s, tenant: t}, nil
}

// slot is one that was granted.
type slot struct {
	slots  *Slots
	tenant *tenant
	begun  time.Time // zero before Begin
}

// Begin implements provision.Slot.
func (one *slot) Begin(ctx context.Context) error {
	s, w := one.slots, &waiter{got: make(chan struct{}), tenant: one.tenant}
	s.mu.Lock()
	s.announced = append(s.announced, w)
	s.start()
	s.mu.Unlock()
	select {
	case <-w.got:
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		if !w.granted {
			s.announced = slices.DeleteFunc(s.announced, func(other *waiter) bool { return other == w })
			return context.Cause(ctx)
		}
	}
	one.begun = s.now()
	return nil
}

// Release implements provision.Slot.
func (one *slot) Release(strained bool) { one.slots.release(one.tenant, one.begun, strained) }

// withdraw takes w out of the queue. It returns false where w has got a slot meanwhile.
func (s *Slots) withdraw(t *tenant, w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.granted {
		return false
	}
	t.waiting = slices.DeleteFunc(t.waiting, func(other *waiter) bool { return other == w })
	s.place(t)
	return true
}

// start lets calls begin that were announced, in the order of that, as far as there is room. The caller holds mu.
func (s *Slots) start() {
	s.announced = slices.DeleteFunc(s.announced, func(w *waiter) bool {
		t := w.tenant
		if s.running >= s.size || float64(t.running) >= max(t.limit, 1) {
			return false
		}
		s.running++
		t.running++
		w.granted = true
		close(w.got)
		return true
	})
}

// grant gives free slots to those who wait. The caller holds mu.
func (s *Slots) grant() {
	for s.busy < s.size+s.early() && len(s.ready) > 0 {
		t := s.ready[0]
		w := t.waiting[0]
		t.waiting[0] = nil
		t.waiting = t.waiting[1:]
		s.grants++
		t.granted = s.grants
		t.busy++
		s.busy++
		w.granted = true
		close(w.got)
		s.place(t)
	}
}

// place puts t where it belongs in the heap, or out of it. The caller holds mu.
func (s *Slots) place(t *tenant) {
	limit := max(t.limit, 1)
	if limit >= s.most {
		limit += float64(s.early())
	}
	may := len(t.waiting) > 0 && float64(t.busy) < limit
	switch {
	case may && t.index >= 0:
		heap.Fix(&s.ready, t.index)
	case may:
		heap.Push(&s.ready, t)
	case t.index >= 0:
		heap.Remove(&s.ready, t.index)
	}
}

// release takes a slot back whose call began then, or never.
func (s *Slots) release(t *tenant, began time.Time, strained bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, early := s.now(), s.early()
	s.busy--
	t.busy--
	t.usedAt = now
	if !began.IsZero() {
		s.running--
		t.running--
		s.took += (now.Sub(began) - s.took) / 8
		s.judge(t, began, now, strained)
	}
	s.place(t)
	if s.early() != early { // which all limits depend on
		for _, one := range s.tenants {
			s.place(one)
		}
	}
	s.grant()
	s.start()
}

// judge lets the tenant's limit follow how a call went.
func (s *Slots) judge(t *tenant, began, now time.Time, strained bool) {
	switch {
	case !strained && t.cutAt.IsZero():
		t.limit = s.most
	case !strained:
		t.limit = min(t.limit+1/max(t.limit, 1), s.most)
	case began.After(t.cutAt): // those under way at the last decrease say nothing new
		t.limit, t.cutAt = max(t.limit*decrease, 1), now
	}
}

// early returns how many more slots are given out than calls may be under way: a sixteenth, where calls end soon.
func (s *Slots) early() int {
	if s.took > soon {
		return 0
	}
	return max(s.size/16, 1)
}

// tenant returns the share of a name. The caller holds mu.
func (s *Slots) tenant(name string) *tenant {
	now := s.now()
	t := s.tenants[name]
	if t == nil {
		if len(s.tenants) >= forgetFrom {
			for n, one := range s.tenants {
				if one.busy == 0 && len(one.waiting) == 0 && now.Sub(one.usedAt) > idleLife {
					delete(s.tenants, n)
				}
			}
		}
		t = &tenant{limit: s.first, index: -1}
		s.tenants[name] = t
	}
	t.usedAt = now
	return t
}

// Room returns how many more calls of the tenant may begin beside those that are under way or wait.
func (s *Slots) Room(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tenants[name]
	if t == nil {
		return int(s.first)
	}
	return max(int(max(t.limit, 1))-t.busy-len(t.waiting), 0)
}

// readyHeap orders tenants by calls under way, then by their last grant.
type readyHeap []*tenant

// Len implements heap.Interface.
func (h readyHeap) Len() int { return len(h) }

// Less implements heap.Interface.
func (h readyHeap) Less(i, j int) bool {
	if h[i].busy != h[j].busy {
		return h[i].busy < h[j].busy
	}
	return h[i].granted < h[j].granted
}

// Swap implements heap.Interface.
func (h readyHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *readyHeap) Push(x any) {
	t := x.(*tenant) //nolint:errcheck // only tenants are pushed
	t.index = len(*h)
	*h = append(*h, t)
}

// Pop implements heap.Interface.
func (h *readyHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.index = -1
	return t
}
