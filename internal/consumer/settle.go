package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

const (
	// delayMin is the shortest rest of a message that goes back, so that it can't spin.
	delayMin = 100 * time.Millisecond
	// unpublishedDelay is how long a message rests whose outcome could not be published: the ledger has
	// it, and the next delivery publishes it.
	unpublishedDelay = 30 * time.Second
)

// verdict is what became of a message.
type verdict struct {
	settled string        // a value of the label "settled"
	delay   time.Duration // how long a message that goes back rests
	err     error         // what prevented better
}

// settle is the one place that acts on an outcome:
//
//	result, failed   dead letter confirmed, result confirmed, ack
//	result, created  result confirmed, ack
//	silent           ack
//	no result        nak with the outcome's delay
//
// What can't be confirmed sends the message back, to be published by a later delivery. For a message that was read
// directly there is neither ack nor nak: that its outcome is published is recorded, and what has no outcome yet rests.
func (c *Consumer) settle(j *job, d provision.Delivery, out provision.Outcome) verdict {
	switch {
	case out.Silent && d.Direct:
		c.rest(j, othersRest)
		return verdict{settled: settledDirect}
	case out.Silent:
		return c.ack(j)
	case out.Result == nil:
		return c.nak(j, out.Delay)
	}
	var err error
	if out.Result.Outcome == provision.OutcomeFailed {
		err = c.publishDeadLetter(j, letterOf(j, d, out), unread(d))
	}
	if err == nil {
		err = c.publishResult(j.settle, *out.Result)
	}
	if err != nil {
		v := c.nak(j, unpublishedDelay)
		v.err = fmt.Errorf("the outcome could not be told and is told by a later delivery: %w", err)
		return v
	}
	if out.Published != nil {
		out.Published(j.settle)
	}
	return c.ack(j)
}

func letterOf(j *job, d provision.Delivery, out provision.Outcome) event.Letter {
	res := *out.Result
	l := event.Letter{
		Headers: j.headers, Body: j.body,
		Key: d.Request.Key, Retry: d.Request.Retry, Fingerprint: d.Request.Fingerprint,
		Salt: d.EventSalt, Detached: d.Detached || out.Detached, FailedAt: res.CompletedAt,
	}
	if res.Error != nil {
		l.Reason = res.Error.Reason
	}
	return l
}

// settleInvalid ends a message whose subject names no tenant. Nobody would get a result.
func (c *Consumer) settleInvalid(j *job, d provision.Delivery) {
	l := letterOf(j, d, provision.Outcome{Result: &provision.Result{CompletedAt: time.Now()}})
	l.Reason, l.Detached = provision.ReasonInvalidRequest, true
	v := verdict{settled: settledTerm, err: errors.New("the subject's last token is no tenant; want ^[a-z0-9][a-z0-9_-]{0,62}$")}
	if err := c.publishDeadLetter(j, l, unread(d)); err != nil {
		back := c.nak(j, unpublishedDelay)
		back.err = errors.Join(v.err, err)
		v = back
	} else if err := j.msg.TermWithReason("no tenant"); err != nil {
		v = verdict{settled: settledAbandoned, err: errors.Join(v.err, err)}
	}
	c.report(d, provision.Outcome{Why: "no tenant"}, v)
}

// nak gives the message back to rest for d, within bounds and with a tenth of jitter.
func (c *Consumer) nak(j *job, d time.Duration) verdict {
	d = max(d, delayMin)
	if j.msg == nil {
		c.rest(j, d)
		return verdict{settled: settledDirect, delay: d}
	}
	d = min(d+time.Duration(rand.Float64()*float64(d)/10), max(c.DelayMax, delayMin))
	if err := j.msg.NakWithDelay(d); err != nil {
		return verdict{settled: settledAbandoned}
	}
	return verdict{settled: settledNak, delay: d}
}

// ack acknowledges the message and waits for the broker to confirm it.
func (c *Consumer) ack(j *job) verdict {
	if j.msg == nil {
		c.rest(j, tillDelivered)
		return verdict{settled: settledDirect}
	}
	err := c.confirm(j.settle, func(ctx context.Context) error {
		err := j.msg.DoubleAck(ctx)
		c.wrote(ConsumerName, err)
		return err
	})
	if err != nil {
		return verdict{settled: settledAbandoned, err: fmt.Errorf("the acknowledgement is not confirmed: %w", err)}
	}
	return verdict{settled: settledAck}
}

// longestMessage is what is left, in bytes, of a failure's message that makes a result too large.
const longestMessage = 1024

// cutMark stands at the end of such a message.
const cutMark = "…"

// publishDeadLetter returns nil when the dead letter is stored. One that is too large for the server
// or the stream, or that can't be written, is stored without its body, and if need be without its
// headers; an unread message's never has its body.
func (c *Consumer) publishDeadLetter(j *job, l event.Letter, unread bool) error {
	bare := &event.Decoder{MaxBytes: 1} // to this one, every body is over the limit
	headless := l
	headless.Headers = nil
	forms := []func() event.Message{
		func() event.Message { return c.Codec.DeadLetter(l) },
		func() event.Message { return bare.DeadLetter(l) },
		func() event.Message { return bare.DeadLetter(headless) },
	}
	if unread {
		forms = forms[1:]
	}
	err := errors.New("a bug kept it from being written")
	for _, form := range forms {
		m, ok := c.render(j, form)
		if !ok {
			continue
		}
		if err = c.publish(j.settle, StreamDeadLetters, m); !tooLarge(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	return nil
}

// render returns a form of a dead letter, or false where that panics.
func (c *Consumer) render(j *job, form func() event.Message) (m event.Message, ok bool) {
	defer func() {
		if p := recover(); p != nil {
			c.Log.LogAttrs(context.Background(), slog.LevelError, "panic while writing a dead letter; less of the message is kept",
				append(j.delivery.Purpose(0).Attrs(), panicked(p)...)...)
		}
	}()
	return form(), true
}

// publishResult returns nil when the result is stored, or was before. One that is too large loses the end of its
// failure's message.
func (c *Consumer) publishResult(ctx context.Context, res provision.Result) error {
	for {
		body, err := event.EncodeResult(res)
		if err == nil {
			err = c.publish(ctx, StreamResults, event.Message{
				Subject: event.ResultSubject(res), Body: body,
				Headers: map[string][]string{
					event.HeaderContentType: {event.ContentType},
					event.HeaderMsgID:       {res.EventID},
				},
			})
		}
		switch {
		case err == nil:
			return nil
		case tooLarge(err) && res.Error != nil && len(res.Error.Message) > longestMessage+len(cutMark):
			short := *res.Error
			short.Message = strings.ToValidUTF8(short.Message[:longestMessage], "") + cutMark
			res.Error = &short
		default:
			return fmt.Errorf("result: %w", err)
		}
	}
}

// publish returns nil when the stream has confirmed the message. A message that the stream has already
// counts as confirmed.
func (c *Consumer) publish(ctx context.Context, stream string, m event.Message) error {
	end := c.Tracer.Publish(ctx, stream, m.Subject)
	err := c.confirm(ctx, func(ctx context.Context) error {
		msg := &nats.Msg{Subject: m.Subject, Header: nats.Header(m.Headers), Data: m.Body}
		ack, err := c.JS.PublishMsg(ctx, msg, jetstream.WithExpectStream(stream))
		if err != nil || !ack.Duplicate {
			c.wrote(stream, err)
		}
		switch {
		case tooLarge(err):
			return backoff.Permanent(err)
		case err != nil:
			err = fmt.Errorf("stream %s: %w", stream, err)
			c.Recheck(err)
		}
		return err
	})
	end(err)
	return err
}

// wrote calls Config.OnWrite for what says something of the object.
func (c *Consumer) wrote(object string, err error) {
	if !tooLarge(err) && !errors.Is(err, context.Canceled) {
		c.OnWrite(object, err)
	}
}

func tooLarge(err error) bool {
	return errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum)
}

// confirm calls f, which may be repeated without harm, until it succeeds, PublishElapsed is over or ctx
// ends. Each call has PublishTimeout.
func (c *Consumer) confirm(ctx context.Context, f func(context.Context) error) error {
	once := func() error {
		if ctx.Err() != nil {
			return backoff.Permanent(context.Cause(ctx))
		}
		ctx, cancel := context.WithTimeout(ctx, c.PublishTimeout)
		defer cancel()
		return f(ctx)
	}
	waits := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(5*time.Second),
		backoff.WithMaxElapsedTime(c.PublishElapsed))
	return backoff.Retry(once, backoff.WithContext(waits, ctx))
}
