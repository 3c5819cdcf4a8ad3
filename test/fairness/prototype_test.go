//go:build soak && linux

package fairness

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
)

// prototype is the intake of the two designs that were not built: several consumers that share the
// slots. Its work on a request is to wait as long as the Flow Service would take, so its figures are
// about the order of the queue and about the broker, not about the worker.
type prototype struct {
	js    jetstream.JetStream
	slots chan struct{}
	done  atomic.Int64
	told  chan told // gets what was asked by others than the big tenant
	stop  context.CancelFunc
	all   sync.WaitGroup
}

// told is the end of the work on a request.
type told struct {
	tenant string
	at     time.Time
}

func newPrototype(ctx context.Context, t *testing.T, js jetstream.JetStream) (*prototype, context.Context) {
	t.Helper()
	p := &prototype{js: js, slots: make(chan struct{}, slots), told: make(chan told, 1000)}
	ctx, p.stop = context.WithCancel(ctx)
	t.Cleanup(func() {
		p.stop()
		p.all.Wait()
	})
	return p, ctx
}

// follow pulls from one consumer, one message per free slot. A slot is held only while a message is
// there, so that idle consumers take none from busy ones: the price is a message that waits, pulled,
// for its slot.
func (p *prototype) follow(ctx context.Context, from jetstream.Consumer) {
	p.all.Go(func() {
		messages, err := from.Messages(jetstream.PullMaxMessages(1), jetstream.PullThresholdMessages(1), jetstream.PullExpiry(30*time.Second))
		if err != nil {
			return
		}
		defer messages.Stop()
		for {
			msg, err := messages.Next(jetstream.NextContext(ctx))
			if err != nil {
				return
			}
			select {
			case p.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			p.all.Go(func() { p.work(ctx, msg) })
		}
	})
}

func (p *prototype) work(ctx context.Context, msg jetstream.Msg) {
	defer func() { <-p.slots }()
	if pass(ctx, latency); ctx.Err() != nil || msg.Ack() != nil {
		return
	}
	p.done.Add(1)
	if tenant := msg.Subject()[strings.LastIndexByte(msg.Subject(), '.')+1:]; tenant != big {
		p.told <- told{tenant, time.Now()}
	}
}

// await returns how long after began the tenant's request was worked on, or false if not within patience.
func (p *prototype) await(ctx context.Context, tenant string, began time.Time, patience time.Duration) (time.Duration, bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		select {
		case done := <-p.told:
			if done.tenant == tenant {
				return done.at.Sub(began), true
			}
		case <-ctx.Done():
			return patience, false
		}
	}
}

// requestsStream is the worker's own stream with some changes.
func requestsStream(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: consumer.StreamRequests, Subjects: []string{"connections.requests.*"}, Retention: jetstream.WorkQueuePolicy,
		Duplicates: 100 * time.Millisecond, Discard: jetstream.DiscardNew, Replicas: replicas,
	}
}

func filtered(name, filter string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: name, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: 30 * time.Second, MaxDeliver: -1, MaxAckPending: -1,
	}
}

// refusal returns the broker's words.
func refusal(err error) string {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return "accepted"
	case errors.As(err, &api):
		return api.Description
	}
	return err.Error()
}

// quickly publishes a tenant's request and returns when.
func (p *prototype) quickly(ctx context.Context, t *testing.T, msg *nats.Msg) time.Time {
	t.Helper()
	began := time.Now()
	_, err := p.js.PublishMsg(ctx, msg)
	must(t, err)
	return began
}
