package requester

import (
	"context"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/consumer"
)

// read has the server push the messages of a stream on a subject to this client, in order and without
// gaps, until the subscription ends, which the caller has to see to. handle gets the messages; without
// one they are to be fetched from the subscription.
//
// The client does not pull, on purpose, so that who only reads needs no right to. Who may pull can have
// the answer "no messages", which is empty, sent on a subject of their choice, and one such subject is
// the call that deletes a stream: NATS looks at nobody's permissions there.
func (c *Client) read(ctx context.Context, stream, subject string, handle nats.MsgHandler, from ...nats.SubOpt) (*nats.Subscription, error) {
	if ctx.Err() != nil { // it can't be handed on: nats.go would end the subscription with it, unasked
		return nil, context.Cause(ctx)
	}
	js, err := c.js.Conn().JetStream(nats.MaxWait(askTimeout), nats.APIPrefix(consumer.APISubject(c.js, "")))
	if err != nil {
		return nil, err
	}
	opts := append(from, nats.OrderedConsumer(), nats.BindStream(stream))
	if handle == nil {
		return js.SubscribeSync(subject, opts...)
	}
	return js.Subscribe(subject, handle, opts...)
}
