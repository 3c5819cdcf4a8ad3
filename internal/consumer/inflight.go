package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// job is one message in flight.
type job struct {
	msg     jetstream.Msg // nil where it was read directly: then there is nothing to acknowledge
	seq     uint64        // of a message that was read directly
	tenant  string        // as tenantOf returns it, not checked
	headers nats.Header
	body    []byte
	contexts
	delivery provision.Delivery // once it is decoded; for whoever works on it alone
}

// inFlight is what this process is working on. A message counts from its receipt until it is settled.
type inFlight struct {
	mu      sync.Mutex
	jobs    map[*job]struct{}   // :: job → present while in flight; guarded by mu
	tenants map[string]int      // :: tenant → its jobs, those read directly included; guarded by mu
	direct  map[uint64]struct{} // :: sequence → present while a message that was read directly is in flight; guarded by mu
	freed   chan struct{}       // holds a value when a delivered message was settled
}

func newInFlight() inFlight {
	return inFlight{jobs: map[*job]struct{}{}, tenants: map[string]int{}, direct: map[uint64]struct{}{}, freed: make(chan struct{}, 1)}
}

func (f *inFlight) add(j *job) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.jobs[j] = struct{}{}
	f.tenants[j.tenant]++
	if j.msg == nil {
		f.direct[j.seq] = struct{}{}
	}
}

func (f *inFlight) remove(j *job) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.jobs, j)
	if f.tenants[j.tenant]--; f.tenants[j.tenant] == 0 {
		delete(f.tenants, j.tenant)
	}
	if j.msg == nil {
		delete(f.direct, j.seq)
		return
	}
	select {
	case f.freed <- struct{}{}:
	default:
	}
}

func (f *inFlight) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.jobs)
}

// awaitRoom waits until a batch of delivered messages is worth asking for, at least an eighth of most, and returns
// how many more may be in flight then. Where there is no room yet it calls full. When ctx ends it returns what there
// is room for at once.
func (f *inFlight) awaitRoom(ctx context.Context, most int, full func()) int {
	for {
		f.mu.Lock()
		room := most - (len(f.jobs) - len(f.direct))
		f.mu.Unlock()
		if room >= max(1, most/8) || ctx.Err() != nil {
			return room
		}
		full()
		select {
		case <-f.freed:
		case <-ctx.Done():
		}
	}
}

// directRoom returns how many more messages may be read directly, and how many of the tenant's are in flight.
func (f *inFlight) directRoom(most int, tenant string) (room, held int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return most - len(f.direct), f.tenants[tenant]
}

// holds reports whether a message that was read directly is in flight.
func (f *inFlight) holds(seq uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.direct[seq]
	return ok
}

// delivered returns the messages in flight that were delivered.
func (f *inFlight) delivered() []jetstream.Msg {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]jetstream.Msg, 0, len(f.jobs))
	for j := range f.jobs {
		if j.msg != nil {
			all = append(all, j.msg)
		}
	}
	return all
}

// heartbeat extends the ack wait of what is in flight, each time a third of it is over, until ctx ends.
func (c *Consumer) heartbeat(ctx context.Context) {
	for {
		timer := time.NewTimer(max(time.Duration(c.ackWait.Load())/3, time.Millisecond))
		select {
		case <-timer.C:
		case <-c.ackWaitChanged:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
		var failed error
		n := 0
		for _, msg := range c.inFlight.delivered() {
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
}

// setAckWait takes over the consumer's actual one.
func (c *Consumer) setAckWait(d time.Duration) {
	if d <= 0 || time.Duration(c.ackWait.Swap(int64(d))) == d {
		return
	}
	select {
	case c.ackWaitChanged <- struct{}{}:
	default: // a heartbeat is due already
	}
}
