package consumer

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// How often tenants are looked for while messages wait.
const (
	directIdle   = 250 * time.Millisecond // where the last look found nothing more to read
	directBusy   = 50 * time.Millisecond  // where it did
	directFactor = 10                     // a look takes a tenth of the time at the most
	directMax    = 5 * time.Second
)

// direct is what is remembered between direct reads.
type direct struct {
	cursors map[string]uint64 // :: tenant → the sequence to go on from; used by readDirect alone

	mu    sync.Mutex
	rests map[string]map[uint64]time.Time // :: tenant → sequence → when the message may be read again; guarded by mu
}

func newDirect() direct {
	return direct{cursors: map[string]uint64{}, rests: map[string]map[uint64]time.Time{}}
}

// How long a message is left alone that was read.
const (
	tillDelivered = 30 * 24 * time.Hour // its outcome is published: longer than it can take to come to it
	othersRest    = time.Minute         // its record is somebody else's
)

// rest keeps a message that was read directly from being read again for d.
func (c *Consumer) rest(j *job, d time.Duration) {
	c.direct.mu.Lock()
	defer c.direct.mu.Unlock()
	if c.direct.rests[j.tenant] == nil {
		c.direct.rests[j.tenant] = map[uint64]time.Time{}
	}
	c.direct.rests[j.tenant][j.seq] = time.Now().Add(d)
}

// resting returns how many messages of a tenant are not to be read yet.
func (c *Consumer) resting(tenant string) (n int) {
	c.direct.mu.Lock()
	defer c.direct.mu.Unlock()
	now := time.Now()
	for _, until := range c.direct.rests[tenant] {
		if now.Before(until) {
			n++
		}
	}
	return n
}

// rests reports whether a message is not to be read yet.
func (c *Consumer) rests(tenant string, seq uint64) bool {
	c.direct.mu.Lock()
	defer c.direct.mu.Unlock()
	return time.Now().Before(c.direct.rests[tenant][seq])
}

// readDirect looks for tenants that have fewer requests in flight than their share while more messages wait than
// there is room for, and reads theirs from the stream, until ctx ends. So nobody waits behind another tenant's
// backlog, and no backlog is looked through.
//
// What is read so is worked on before its delivery, which is still to come. The ledger is the fence: whoever else
// reads or gets the same message finds its record. Its delivery finds the outcome published, and is acknowledged.
func (c *Consumer) readDirect(ctx context.Context, from jetstream.Consumer, cx contexts) {
	var stream jetstream.Stream
	wait := directIdle
	for {
		sleep(ctx, jitter(wait))
		if ctx.Err() != nil {
			return
		}
		wait = directIdle
		if !c.backlog.Load() {
			continue
		}
		var more bool
		var took time.Duration
		var err error
		if stream == nil {
			stream, err = c.JS.Stream(ctx, StreamRequests)
		}
		if err == nil {
			more, took, err = c.readOnce(ctx, from, stream, cx)
		}
		if err != nil {
			c.Log.Debug("the stream can't be read ahead of deliveries", "error", err)
		} else if more {
			wait = directBusy
		}
		wait = min(max(wait, directFactor*took), directMax)
	}
}

// readOnce goes once through the tenants that have messages waiting. more says that some have more than was read,
// and took how long it was to find out who has any.
func (c *Consumer) readOnce(ctx context.Context, from jetstream.Consumer, stream jetstream.Stream, cx contexts) (more bool, took time.Duration, err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, c.PublishTimeout)
	defer cancel()
	queue, err := from.Info(ctx)
	if err != nil || queue.NumPending == 0 || queue.Paused {
		return false, time.Since(began), err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(patternRequests))
	took = time.Since(began)
	if err != nil {
		return false, took, err
	}
	c.forget(queue.Delivered.Stream)
	tenants := make([]string, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		if tenant := tenantOf(subject); provision.ValidTenant(tenant) {
			tenants = append(tenants, tenant)
		}
	}
	rand.Shuffle(len(tenants), func(i, j int) { tenants[i], tenants[j] = tenants[j], tenants[i] })
	share := max(1, c.Concurrency/max(1, len(tenants)))
	for _, tenant := range tenants {
		room, held := c.inFlight.directRoom(c.Concurrency, tenant)
		if room < 1 {
			return true, took, nil
		}
		waiting := int(min(info.State.Subjects[subjectRequests+tenant], 1<<20)) //nolint:gosec // bounded
		waiting -= held + c.resting(tenant)
		n := min(waiting, share-held, c.Room(tenant), room)
		if n < 1 {
			continue
		}
		more = more || waiting > n
		if err := c.readTenant(ctx, stream, tenant, n, queue.Delivered.Stream+1, info.State.LastSeq, cx); err != nil {
			return false, took, err
		}
	}
	return more, took, nil
}

// readTenant reads up to n messages of a tenant that were not delivered yet, those from first to last. It goes on
// where it left off, and begins at a random place, so that several workers don't read the same ones.
func (c *Consumer) readTenant(ctx context.Context, stream jetstream.Stream, tenant string, n int, first, last uint64, cx contexts) error {
	if first > last {
		return nil
	}
	seq := c.direct.cursors[tenant]
	if seq < first {
		seq = first + rand.Uint64N(last-first+1)
	}
	start, wrapped := seq, false
	for reads := 0; n > 0 && reads < 2*n+8; reads++ {
		msg, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subjectRequests+tenant))
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound) && !wrapped:
			seq, wrapped = first, true
			continue
		case errors.Is(err, jetstream.ErrMsgNotFound):
			n = 0
		case err != nil:
			return err
		case wrapped && msg.Sequence >= start:
			n = 0
		default:
			seq = msg.Sequence + 1
			if !c.rests(tenant, msg.Sequence) && !c.inFlight.holds(msg.Sequence) {
				c.beginDirect(msg, tenant, cx)
				n--
			}
		}
	}
	c.direct.cursors[tenant] = seq
	return nil
}

// beginDirect works on a message that was read, not delivered.
func (c *Consumer) beginDirect(msg *jetstream.RawStreamMsg, tenant string, cx contexts) {
	j := &job{seq: msg.Sequence, tenant: tenant, headers: msg.Header, body: msg.Data, contexts: cx}
	j.delivery = decode(c.Codec, c.Log, tenant, msg.Header, msg.Data, event.Meta{Seq: msg.Sequence, Timestamp: msg.Time})
	j.delivery.Direct = true
	c.inFlight.add(j)
	c.begin(j)
}

// forget drops what is remembered of messages that were delivered by now.
func (c *Consumer) forget(delivered uint64) {
	c.direct.mu.Lock()
	defer c.direct.mu.Unlock()
	for tenant, rests := range c.direct.rests {
		maps.DeleteFunc(rests, func(seq uint64, _ time.Time) bool { return seq <= delivered })
		if len(rests) == 0 {
			delete(c.direct.rests, tenant)
		}
	}
	for tenant, next := range c.direct.cursors {
		if next <= delivered {
			delete(c.direct.cursors, tenant)
		}
	}
}
