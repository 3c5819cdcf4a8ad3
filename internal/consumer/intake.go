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

// recreateAfter is ObjectsConfig.RecreateAfter once the objects were there: many times as long as a server takes to
// delete one.
const recreateAfter = time.Second

// gateWait bounds the wait for a gate that is shut, should it forget to say when it opens.
const gateWait = 5 * time.Second

// intake pulls until ctx ends or the connection is closed for good. Whatever else goes wrong, it looks
// at the objects again and goes on.
func (c *Consumer) intake(ctx context.Context, cx contexts) error {
	waits := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(bindWaitMin), backoff.WithMaxInterval(bindWaitMax), backoff.WithMaxElapsedTime(0))
	for ctx.Err() == nil {
		began := time.Now()
		from, err := c.bind(ctx)
		if err == nil {
			err = c.pull(ctx, from, cx)
		}
		if err == nil {
			continue
		}
		if c.nc.IsClosed() {
			return ErrConnectionClosed
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was the caller who ended the intake
		}
		c.health.update(func(s *Status) { s.Bound, s.Problem = false, err.Error() })
		c.Log.Warn("no messages are taken for now", "error", err)
		if time.Since(began) > 2*bindWaitMax { // it went well meanwhile: this is a new trouble
			waits.Reset()
		}
		sleep(ctx, waits.NextBackOff())
	}
	return nil
}

// bind makes sure of the objects, as Config.Objects says, and returns the consumer.
func (c *Consumer) bind(ctx context.Context) (jetstream.Consumer, error) {
	if !c.nc.IsConnected() {
		return nil, fmt.Errorf("consumer: %w", nats.ErrDisconnected)
	}
	objects := c.Objects
	if c.bound {
		objects.RecreateAfter = max(objects.RecreateAfter, recreateAfter)
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
	case <-c.recheck: // from before this look
	default:
	}
	c.setAckWait(from.CachedInfo().Config.AckWait)
	c.bound = true
	c.health.update(func(s *Status) { s.Bound, s.Problem = true, "" })
	c.look(ctx)
	return from, nil
}

// pull takes messages until ctx ends, and then returns nil, or until a pull fails or Recheck was called for a missing
// object.
//
// Each pull is a request of its own, for as many messages as there is room for, and ends by itself after
// PullExpires. So one that is lost, with its connection or its server, hurts only itself. An iterator over many
// requests (Messages, Consume of nats.go 1.55) counts what is open across them: it asks for its next batch when its
// reader comes back, but not while the goroutine of the last request has yet to say that it is done, and with small
// batches nobody looks again before a heartbeat is missed. "go run ./bench stall" shows such gaps.
func (c *Consumer) pull(ctx context.Context, from jetstream.Consumer, cx contexts) error {
	ctx, cancel := context.WithCancel(ctx)
	var reads sync.WaitGroup
	defer reads.Wait()
	defer cancel()
	if c.Room != nil {
		reads.Go(func() { c.readDirect(ctx, from, cx) })
	}
	var waiting []*job // in flight, but not begun, because the gate shut behind their pull
	defer func() {
		for _, j := range waiting {
			c.giveBack(j.msg, c.PullExpires)
			c.inFlight.remove(j)
		}
	}()
	for {
		n := len(waiting)
		if n == 0 {
			n = c.inFlight.awaitRoom(ctx, c.Concurrency, func() { c.backlog.Store(true) })
		}
		select {
		case err := <-c.recheck:
			return fmt.Errorf("consumer: the intake: %w", err)
		default:
		}
		if ctx.Err() != nil {
			return nil
		}
		permitted, wake := c.Gate(n)
		permitted = min(permitted, n)
		if permitted < 1 {
			gate, stop := context.WithTimeout(ctx, gateWait)
			select {
			case <-wake:
			case <-gate.Done():
			}
			stop()
			continue
		}
		if len(waiting) > 0 {
			for _, j := range waiting[:permitted] {
				c.begin(j)
			}
			waiting = waiting[permitted:]
			continue
		}
		var err error
		if waiting, err = c.fetch(ctx, from, cx, permitted, wake); err != nil && ctx.Err() == nil {
			return fmt.Errorf("consumer: the intake: %w", err)
		}
	}
}

// fetch takes up to n messages. What comes after ctx has ended is given back; what comes after the gate has shut
// is in flight and returned.
func (c *Consumer) fetch(ctx context.Context, from jetstream.Consumer, cx contexts, n int, wake <-chan struct{}) (waiting []*job, err error) {
	config := from.CachedInfo().Config
	expires := c.PullExpires
	if config.MaxRequestExpires > 0 {
		expires = min(expires, config.MaxRequestExpires)
	}
	if config.MaxRequestBatch > 0 {
		n = min(n, config.MaxRequestBatch)
	}
	batch, err := from.Fetch(n, jetstream.FetchMaxWait(expires))
	if err != nil {
		return nil, err
	}
	got, shut := 0, false
	for msg := range batch.Messages() {
		got++
		if ctx.Err() != nil {
			c.giveBack(msg, expires)
			continue
		}
		j := &job{msg: msg, tenant: tenantOf(msg.Subject()), headers: msg.Headers(), body: msg.Data(), contexts: cx}
		c.inFlight.add(j)
		select {
		case <-wake:
			shut = true // or it may be, which the next question shows
		default:
		}
		if shut {
			waiting = append(waiting, j)
		} else {
			c.begin(j)
		}
	}
	c.backlog.Store(got == n)
	return waiting, batch.Error()
}

// giveBack returns a message that was not begun. It rests until the pull that brought it has ended, lest it comes
// by the same one again.
func (c *Consumer) giveBack(msg jetstream.Msg, rest time.Duration) {
	settled := settledNak
	if err := msg.NakWithDelay(rest); err != nil {
		settled = settledAbandoned
	}
	c.Metrics.deliveries.WithLabelValues(settled).Inc()
	ctx := context.Background()
	if !c.Log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	if d, err := c.read(msg, tenantOf(msg.Subject())); err == nil {
		c.Log.LogAttrs(ctx, slog.LevelDebug, "message given back before it was begun", append(d.Purpose(0).Attrs(), slog.String("settled", settled))...)
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

// Recheck makes the intake look at the streams, the consumer and the ledger again where err says that
// one of them is not there: it stops, Ready says why, and goes on once Config.Objects are as they must
// be, with growing waits between its looks. Any other error, and nil, change nothing. It does not wait.
func (c *Consumer) Recheck(err error) {
	if !missing(err) {
		return
	}
	select {
	case c.recheck <- fmt.Errorf("an object is gone, or JetStream has no leader for it: %w", err):
	default: // a look is due already
	}
}

// missing knows the errors of calls to streams and buckets that are not there. A server that has no
// leader for one at the moment gives the same.
func missing(err error) bool {
	for _, one := range []error{
		nats.ErrNoResponders, jetstream.ErrNoStreamResponse, jetstream.ErrStreamNotFound, jetstream.ErrBucketNotFound,
	} {
		if errors.Is(err, one) {
			return true
		}
	}
	return false
}
