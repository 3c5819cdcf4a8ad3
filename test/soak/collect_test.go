//go:build soak

package soak

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// collector gathers the results, from their stream and, because that drops repeats, also as they are
// published. It is safe for concurrent use.
type collector struct {
	js jetstream.JetStream

	mu      sync.Mutex
	events  map[provision.Key]map[string]*told // :: request → event id → what it said
	broken  []string                           // what can't be read, and repeats that differ
	notes   int                                // events, each as often as it was read
	changed chan struct{}
}

// told is one result event.
type told struct {
	result provision.Result
	body   []byte
}

func newCollector(js jetstream.JetStream) *collector {
	return &collector{js: js, events: map[provision.Key]map[string]*told{}, changed: make(chan struct{})}
}

// follow reads the results stream until ctx ends, wherever the broker has gone meanwhile.
func (c *collector) follow(ctx context.Context) {
	next := uint64(1)
	for ctx.Err() == nil {
		if err := c.read(ctx, &next); err != nil {
			_ = wait(ctx, 100*time.Millisecond)
		}
	}
}

func (c *collector) read(ctx context.Context, next *uint64) error {
	from, err := c.js.OrderedConsumer(ctx, consumer.StreamResults, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: *next, MaxResetAttempts: 1,
	})
	if err != nil {
		return err
	}
	messages, err := from.Messages(jetstream.PullHeartbeat(time.Second), jetstream.PullExpiry(5*time.Second))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		if meta, err := msg.Metadata(); err == nil {
			*next = meta.Sequence.Stream + 1
		}
		c.note(msg.Data())
	}
}

// note takes in one result event.
func (c *collector) note(body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		close(c.changed)
		c.changed = make(chan struct{})
	}()
	c.notes++
	r, err := event.DecodeResult(body)
	if err != nil {
		c.broken = append(c.broken, fmt.Sprintf("%v: %.300s", err, body))
		return
	}
	key := provision.Key{Tenant: r.Tenant, Source: r.Request.Source, ID: r.Request.ID}
	if c.events[key] == nil {
		c.events[key] = map[string]*told{}
	}
	before := c.events[key][r.EventID]
	if before == nil {
		c.events[key][r.EventID] = &told{r, bytes.Clone(body)}
		return
	}
	if !before.equals(r, body) {
		c.broken = append(c.broken, fmt.Sprintf("one event id, two stories:\n\t%s\n\t%s", before.body, body))
	}
}

// equals compares byte for byte. Only the outcome of a message that may not speak for its request is
// in no ledger, and so has the times of its own delivery.
func (t *told) equals(r provision.Result, body []byte) bool {
	if bytes.Equal(t.body, body) {
		return true
	}
	if r.Error == nil || r.Error.Reason != provision.ReasonIDReused && r.Request.Source != "nats" {
		return false
	}
	a, b := t.result, r
	a.StartedAt, a.CompletedAt, b.StartedAt, b.CompletedAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	aBody, aErr := event.EncodeResult(a)
	bBody, bErr := event.EncodeResult(b)
	return aErr == nil && bErr == nil && bytes.Equal(aBody, bBody)
}

// outcomes returns what was told about a request, and what about other data under its id.
func (c *collector) outcomes(key provision.Key) (own, reused []provision.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.events[key] {
		if t.result.Error != nil && t.result.Error.Reason == provision.ReasonIDReused {
			reused = append(reused, t.result)
		} else {
			own = append(own, t.result)
		}
	}
	return own, reused
}

// missing returns the asks that have not been told everything.
func (c *collector) missing(asks []*ask) (list []*ask) {
	for _, a := range asks {
		if own, reused := c.outcomes(a.key); len(own) == 0 || a.reused && len(reused) == 0 {
			list = append(list, a)
		}
	}
	return list
}

// told returns the asks that have been.
func (c *collector) told(asks []*ask) (list []*ask) {
	for _, a := range asks {
		if own, _ := c.outcomes(a.key); len(own) > 0 {
			list = append(list, a)
		}
	}
	return list
}

// await waits until cond holds, which it asks after every result.
func (c *collector) await(ctx context.Context, cond func() bool) error {
	for {
		c.mu.Lock()
		next := c.changed
		c.mu.Unlock()
		if cond() {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// noted returns how many events were read, repeats included.
func (c *collector) noted() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.notes
}

func (c *collector) complaints() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.broken...)
}
