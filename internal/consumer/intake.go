package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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

// anewAfter is ObjectsConfig.AnewAfter once the objects were there: many times as long as a server takes to
// delete one.
const anewAfter = time.Second

// gateWait bounds the wait for a gate that is shut, should it forget to say when it opens.
const gateWait = 5 * time.Second

// intake pulls until ctx ends or the connection is closed for good. Whatever else goes wrong, it looks
// at the objects again and goes on.
func (c *Consumer) intake(ctx context.Context, cx contexts) error {
	waits := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(bindWaitMin), backoff.WithMaxInterval(bindWaitMax), backoff.WithMaxElapsedTime(0))
	for ctx.Err() == nil {
		began := time.Now()
		err := c.bindAndPull(ctx, cx)
		if err == nil {
			continue
		}
		if c.nc.IsClosed() {
			return ErrConnectionClosed
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the intake was told to end
		}
		c.state.setProblem(err)
		c.Log.Warn("no messages are taken for now", "error", err)
		if time.Since(began) > 2*bindWaitMax { // it went well meanwhile: this is a new trouble
			waits.Reset()
		}
		sleep(ctx, waits.NextBackOff())
	}
	return nil
}

// bindAndPull makes sure of the objects and takes messages until something goes wrong or ctx ends.
func (c *Consumer) bindAndPull(ctx context.Context, cx contexts) error {
	from, err := c.bind(ctx)
	if err != nil {
		return err
	}
	return c.pull(ctx, from, cx)
}

// bind makes sure of the objects, as Config.Objects says, and returns the consumer.
func (c *Consumer) bind(ctx context.Context) (jetstream.Consumer, error) {
	if !c.nc.IsConnected() {
		return nil, fmt.Errorf("consumer: %w", nats.ErrDisconnected)
	}
	objects := c.Objects
	if c.state.wasBound() {
		objects.AnewAfter = max(objects.AnewAfter, anewAfter)
	}
	report, err := EnsureObjects(ctx, c.JS, objects)
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
	select {
	case <-c.suspect: // from before this look
	default:
	}
	c.state.setAckWait(from.CachedInfo().Config.AckWait)
	c.state.setBound()
	c.look(ctx)
	return from, nil
}

// pullers is how many pulls are open at a time. Each asks for one message, so that the broker is never
// asked for more than there are free slots: the ack wait of a message runs from its delivery. Several
// at a time hide the way to the broker and back.
const pullers = 8

// pull takes messages until ctx ends, and then returns nil, or until one of the pullers fails or Recheck
// is told of a missing object.
func (c *Consumer) pull(ctx context.Context, from jetstream.Consumer, cx contexts) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	all.Go(func() {
		select {
		case err := <-c.suspect:
			cancel(pullError{err})
		case <-ctx.Done():
		}
	})
	for range min(pullers, c.Concurrency) {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := c.pullWhileOpen(ctx, from, cx); err != nil {
					cancel(pullError{err})
				}
			}
		})
	}
	all.Wait()
	if failed := (pullError{}); errors.As(context.Cause(ctx), &failed) {
		return fmt.Errorf("consumer: the intake: %w", failed.error)
	}
	return nil
}

// pullError tells a failure from the end of the intake.
type pullError struct{ error }

// pullWhileOpen pulls one message after the other until the gate shuts, which it waits for to change.
// What the broker sends after that is received all the same and given back.
func (c *Consumer) pullWhileOpen(ctx context.Context, from jetstream.Consumer, cx contexts) error {
	var messages jetstream.MessagesContext
	defer func() {
		if messages != nil {
			c.tails.Go(func() { c.giveBackTail(messages) })
		}
	}()
	for c.reserve(ctx) {
		n, wake := c.Gate(1)
		if n < 1 {
			c.release()
			await(ctx, wake)
			return nil
		}
		if messages == nil {
			var err error
			if messages, err = from.Messages(c.pullOptions(from)...); err != nil {
				c.release()
				return err
			}
		}
		msg, err := next(ctx, wake, messages)
		if msg == nil {
			c.release()
			return err
		}
		c.begin(msg, cx)
	}
	return nil
}

// pullOptions keeps to what the consumer allows.
func (c *Consumer) pullOptions(from jetstream.Consumer) []jetstream.PullMessagesOpt {
	expires := c.PullExpires
	if most := from.CachedInfo().Config.MaxRequestExpires; most > 0 {
		expires = min(expires, most)
	}
	return []jetstream.PullMessagesOpt{
		jetstream.PullMaxMessages(1), jetstream.PullThresholdMessages(1), jetstream.PullExpiry(expires),
		jetstream.PullHeartbeat(min(expires/2, 5*time.Second)),
	}
}

// next returns the next message, or nil and no error when ctx ends or the gate may have changed.
func next(ctx context.Context, wake <-chan struct{}, messages jetstream.MessagesContext) (jetstream.Msg, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if wake != nil {
		go func() {
			select {
			case <-wake:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	msg, err := messages.Next(jetstream.NextContext(ctx))
	if err != nil && ctx.Err() != nil {
		return nil, nil
	}
	return msg, err
}

// await waits until the gate may have changed.
func await(ctx context.Context, wake <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, gateWait)
	defer cancel()
	select {
	case <-wake:
	case <-ctx.Done():
	}
}

// reserve waits for a free slot and takes it. It returns false when ctx ends.
func (c *Consumer) reserve(ctx context.Context) bool {
	select {
	case c.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *Consumer) release() { <-c.slots }

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
	ctx := context.Background()
	if !c.Log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	if meta, err := msg.Metadata(); err == nil {
		d := c.decode(msg, tenantOf(msg.Subject()), meta)
		c.Log.LogAttrs(ctx, slog.LevelDebug, "message given back before it was begun", append(d.Errand(0).Attrs(), slog.String("settled", settled))...)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
