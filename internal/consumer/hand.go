package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// job is one message in hand.
type job struct {
	msg    jetstream.Msg
	tenant string // as tenantOf returns it, not checked
	contexts
	delivery provision.Delivery // once it is decoded; for whoever works on it alone
}

// hand is what this process has in hand. A message counts from its receipt until it is settled.
type hand struct {
	mu     sync.Mutex
	jobs   map[*job]struct{} // :: job → present while in hand; guarded by mu
	wanted []chan struct{}   // closed when there are no jobs; guarded by mu
}

func (h *hand) take(j *job) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.jobs[j] = struct{}{}
}

func (h *hand) drop(j *job) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.jobs, j)
	if len(h.jobs) > 0 {
		return
	}
	for _, ch := range h.wanted {
		close(ch)
	}
	h.wanted = nil
}

func (h *hand) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.jobs)
}

func (h *hand) all() []*job {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*job, 0, len(h.jobs))
	for j := range h.jobs {
		all = append(all, j)
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
	for _, j := range c.hand.all() {
		// A job may be settled by now; then the broker ignores this.
		if err := j.msg.InProgress(); err != nil {
			failed = err
			n++
		}
	}
	if failed != nil {
		c.Log.Debug("heartbeats not sent", "messages", n, "error", failed)
	}
}
