package requester

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/jsread"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// Requeue sends a request that has no obstacle again, as its dead letter keeps it, and returns its
// sequence in the stream of requests. After an error it may be there or not; sending it again is safe.
func (c *Client) Requeue(ctx context.Context, r Retry) (uint64, error) {
	return c.requeue(ctx, r, nil)
}

func (c *Client) requeue(ctx context.Context, r Retry, more map[string][]string) (uint64, error) {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	stream, err := jsread.Open(asking, c.js, DeadLetterStream)
	if err != nil {
		return 0, explain(err, "the stream of dead letters ("+DeadLetterStream+")")
	}
	kept, err := stream.GetMsg(asking, r.seq)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, errors.New("its dead letter has just expired")
	case err != nil:
		return 0, explain(err, "dead letter "+strconv.FormatUint(r.seq, 10))
	}
	headers := retryHeaders(kept.Header, r.Key, r.Number)
	maps.Copy(headers, more)
	return c.Publish(ctx, Message{Key: r.Key, wire: event.Message{Headers: headers, Body: kept.Data}})
}

// retryHeaders returns what to send a dead letter with: the headers that it kept, without those that
// made it a dead letter, and with the identity under which it failed, whatever its body says.
func retryHeaders(kept nats.Header, key provision.Key, number int) map[string][]string {
	out := map[string][]string{}
	for name, values := range kept {
		lower := strings.ToLower(name)
		if !strings.HasPrefix(lower, "nats-") && !strings.HasPrefix(lower, "flow-worker-") && lower != headerID && lower != headerSource {
			out[name] = values
		}
	}
	out[event.HeaderRetry] = []string{strconv.Itoa(number)}
	out[headerID], out[headerSource] = []string{event.EncodeHeader(key.ID)}, []string{event.EncodeHeader(key.Source)}
	return out
}

// The headers that name a request.
const (
	headerID     = "ce-id"
	headerSource = "ce-source"
)
