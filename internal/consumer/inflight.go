package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// job is one message in hand.
type job struct {
	msg     jetstream.Msg // nil where it was read directly: then there is nothing to acknowledge
	seq     uint64        // of a message that was read directly
	tenant  string        // as tenantOf returns it, not checked
	headers nats.Header
	body    []byte
	contexts
	delivery provision.Delivery // once it is decoded; for whoever works on it alone
}

// hand is what this process has in hand. A message counts from its receipt until it is settled.
type hand struct {
	mu      sync.Mutex
	jobs    map[*job]struct{}   // :: job → present while in hand; guarded by mu
	tenants map[string]int      // :: tenant → its jobs, those read directly included; guarded by mu
	direct  map[uint64]struct{} // :: sequence → present while a message that was read directly is in hand; guarded by mu
	wanted  []chan struct{}     // closed when there are no jobs; guarded by mu
	freed   chan struct{}       // holds a value when a delivered message was settled
}

func newHand() hand {
	return hand{jobs: map[*job]struct{}{}, tenants: map[string]int{}, direct: map[uint64]struct{}{}, freed: make(chan struct{}, 1)}
}

func (h *hand) take(j *job) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.jobs[j] = struct{}{}
	h.tenants[j.tenant]++
	if j.msg == nil {
		h.direct[j.seq] = struct{}{}
	}
}

func (h *hand) drop(j *job) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.jobs, j)
	if h.tenants[j.tenant]--; h.tenants[j.tenant] == 0 {
		delete(h.tenants, j.tenant)
	}
	if j.msg == nil {
		delete(h.direct, j.seq)
	} else {
		select {
		case h.freed <- struct{}{}:
		default:
		}
	}
	if len(h.jobs) > 0 {
		return
	}
	for _, ch := range h.wanted {
		close(ch)
	}
	h.wanted = nil
}

// awaitRoom waits until a batch of delivered messages is worth asking for, at least an eighth of most, and returns
// how many more may be in hand then. Where there is no room yet it calls full. When ctx ends it returns what there is
// room for at once.
func (h *hand) awaitRoom(ctx context.Context, most int, full func()) int {
	for {
		h.mu.Lock()
		room := most - (len(h.jobs) - len(h.direct))
		h.mu.Unlock()
		if room >= max(1, most/8) || ctx.Err() != nil {
			return room
		}
		full()
		select {
		case <-h.freed:
		case <-ctx.Done():
		}
	}
}

func (h *hand) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.jobs)
}

// all returns the messages in hand that were delivered.
func (h *hand) all() []jetstream.Msg {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]jetstream.Msg, 0, len(h.jobs))
	for j := range h.jobs {
		if j.msg != nil {
			all = append(all, j.msg)
		}
	}
	return all
}

// idle returns a channel that is closed when nothing is in hand.
func (h *hand) idle() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	ch := make(chan struct{})
	if len(h.jobs) == 0 {
		close(ch)
	} else {
		h.wanted = append(h.wanted, ch)
	}
	return ch
}

// beat tells the broker, at a third of the consumer's actual ack wait, that what is in hand is being
// worked on.
func (c *Consumer) beat(ctx context.Context) {
	for {
		timer := time.NewTimer(c.state.beatEvery())
		select {
		case <-timer.C:
		case <-c.state.ackWaitChanged():
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
		c.beatOnce()
	}
}

func (c *Consumer) beatOnce() {
	var failed error
	n := 0
	for _, msg := range c.hand.all() {
		// It may be settled by now; then the broker ignores this.
		if err := msg.InProgress(); err != nil {
			failed = err
			n++
		}
	}
	if failed != nil {
		c.Log.Debug("heartbeats not sent", "messages", n, "error", failed)
	}
}
