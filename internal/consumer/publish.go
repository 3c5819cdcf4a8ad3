package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// longestMessage is what is left, in bytes, of a failure's message that makes a result too large.
const longestMessage = 1024

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
		m, ok := c.write(j, form)
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

// publishResult returns nil when the result is stored, or was before.
func (c *Consumer) publishResult(ctx context.Context, res provision.Result) error {
	err := c.publishWhole(ctx, res)
	if tooLarge(err) && res.Error != nil && len(res.Error.Message) > longestMessage {
		short := *res.Error
		short.Message = strings.ToValidUTF8(short.Message[:longestMessage], "") + "…"
		res.Error = &short
		err = c.publishWhole(ctx, res)
	}
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	return nil
}

func (c *Consumer) publishWhole(ctx context.Context, res provision.Result) error {
	body, err := event.EncodeResult(res)
	if err != nil {
		return err
	}
	return c.publish(ctx, StreamResults, event.Message{
		Subject: event.ResultSubject(res), Body: body,
		Headers: map[string][]string{
			event.HeaderContentType: {event.ContentType},
			event.HeaderMsgID:       {res.EventID},
		},
	})
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

func tooLarge(err error) bool {
	return errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum)
}

// confirm calls f, which may be repeated without harm, until it succeeds, PublishElapsed is over or ctx
// ends. Each call has PublishTimeout.
func (c *Consumer) confirm(ctx context.Context, f func(context.Context) error) error {
	waits := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(5*time.Second),
		backoff.WithMaxElapsedTime(c.PublishElapsed))
	return backoff.Retry(func() error {
		if ctx.Err() != nil {
			return backoff.Permanent(context.Cause(ctx))
		}
		ctx, cancel := context.WithTimeout(ctx, c.PublishTimeout)
		defer cancel()
		return f(ctx)
	}, backoff.WithContext(waits, ctx))
}
