package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Between tries to get at the broker's objects again.
const (
	bindWaitMin = 200 * time.Millisecond
	bindWaitMax = 10 * time.Second
)

// gateWait bounds the wait for a gate that is shut, should it forget to say when it opens.
const gateWait = 5 * time.Second

// intake pulls until ctx ends or the connection is closed for good. Whatever else goes wrong, it looks
// at the objects again and goes on.
func (c *Consumer) intake(ctx context.Context, cx contexts) error {
	waits := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(bindWaitMin), backoff.WithMaxInterval(bindWaitMax), backoff.WithMaxElapsedTime(0))
	var from jetstream.Consumer
	for ctx.Err() == nil {
		var err error
		if from == nil {
			from, err = c.bind(ctx)
		}
		if err == nil {
			if err = c.pull(ctx, from, cx); err == nil {
				waits.Reset()
				continue
			}
		}
		if c.nc.IsClosed() {
			return ErrConnectionClosed
		}
		if ctx.Err() != nil {
			break
		}
		from = nil
		c.state.setProblem(err)
		c.Log.Warn("no messages are taken for now", "error", err)
		sleep(ctx, waits.NextBackOff())
	}
	return nil
}

// bind makes sure of the objects, as Config.Objects says, and returns the consumer.
func (c *Consumer) bind(ctx context.Context) (jetstream.Consumer, error) {
	if !c.nc.IsConnected() {
		return nil, fmt.Errorf("consumer: %w", nats.ErrDisconnected)
	}
	report, err := EnsureObjects(ctx, c.JS, c.Objects)
	for _, change := range report {
		if change.Created || len(change.Changed)+len(change.Kept) > 0 {
			c.Log.Info("NATS object", "name", change.Name, "created", change.Created, "changed", change.Changed, "kept", change.Kept)
		}
	}
	if err != nil {
		return nil, err
	}
	from, err := c.JS.Consumer(ctx, StreamRequests, ConsumerName)
	if err != nil {
		return nil, fmt.Errorf("consumer: consumer %s on %s: %w", ConsumerName, StreamRequests, err)
	}
	c.state.setAckWait(from.CachedInfo().Config.AckWait)
	c.state.setBound()
	c.look(ctx)
	return from, nil
}

// pull takes free slots, asks for as many messages as the gate lets through, and hands out what comes.
func (c *Consumer) pull(ctx context.Context, from jetstream.Consumer, cx contexts) error {
	free := c.reserve(ctx)
	if free == 0 {
		return nil
	}
	n, wake := c.Gate(free)
	n = min(max(n, 0), free)
	if most := from.CachedInfo().Config.MaxRequestBatch; most > 0 {
		n = min(n, most)
	}
	c.release(free - n)
	if n == 0 {
		ctx, cancel := context.WithTimeout(ctx, gateWait)
		defer cancel()
		select {
		case <-wake:
		case <-ctx.Done():
		}
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if wake != nil {
		c.loops.Go(func() {
			select {
			case <-wake:
				cancel()
			case <-ctx.Done():
			}
		})
	}
	got, err := c.batch(ctx, from, n, cx)
	c.release(n - got)
	return err
}

// reserve waits for a free slot, and takes all that are free then. It returns 0 when ctx ends.
func (c *Consumer) reserve(ctx context.Context) int {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return 0
	}
	for n := 1; ; n++ {
		select {
		case c.slots <- struct{}{}:
		default:
			return n
		}
	}
}

func (c *Consumer) release(n int) {
	for range n {
		<-c.slots
	}
}

// batch pulls up to n messages and begins each of them as it comes; the broker is never asked for more
// than that, since the ack wait of a message runs from its delivery. It returns how many it began.
func (c *Consumer) batch(ctx context.Context, from jetstream.Consumer, n int, cx contexts) (int, error) {
	expires := c.PullExpires
	if most := from.CachedInfo().Config.MaxRequestExpires; most > 0 {
		expires = min(expires, most)
	}
	messages, err := from.Messages(
		jetstream.PullMaxMessages(n), jetstream.PullThresholdMessages(1), jetstream.PullExpiry(expires),
		jetstream.PullHeartbeat(min(expires/2, 5*time.Second)))
	if err != nil {
		return 0, fmt.Errorf("consumer: pull: %w", err)
	}
	// What the broker sends beyond n, or after ctx, is received all the same and given back.
	defer c.tails.Go(func() { c.giveBackTail(messages) })
	for got := range n {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		switch {
		case ctx.Err() != nil && err != nil:
			return got, nil
		case err != nil:
			return got, fmt.Errorf("consumer: pull: %w", err)
		}
		c.begin(msg, cx)
	}
	return n, nil
}

// giveBackTail ends a pull and gives back what it still brought.
func (c *Consumer) giveBackTail(messages jetstream.MessagesContext) {
	ctx, cancel := context.WithTimeout(context.Background(), c.PublishTimeout)
	defer cancel()
	messages.Drain()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		switch {
		case err == nil:
			c.giveBack(msg)
		case errors.Is(err, jetstream.ErrMsgIteratorClosed), ctx.Err() != nil:
			return
		}
	}
}

// giveBack returns a message that was not begun.
func (c *Consumer) giveBack(msg jetstream.Msg) {
	settled := settledNak
	if err := msg.Nak(); err != nil {
		settled = settledAbandoned
	}
	c.Metrics.deliveries.WithLabelValues(settled).Inc()
	c.Log.Debug("message given back before it was begun", "subject", msg.Subject(), "settled", settled)
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
