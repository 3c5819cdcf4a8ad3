package requester

import (
	"context"
	"iter"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// DeadLetterStream is the name of the stream of dead letters.
const DeadLetterStream = "CONNECTION_DEADLETTERS"

// DeadLetter is a message that failed, as the stream of dead letters keeps it, without its body.
type DeadLetter struct {
	Key      provision.Key // zero where the message named no request
	Reason   provision.Reason
	FailedAt time.Time
	Retry    int    // the number of the try that failed, -1 where the message gave none that can be read
	Redacted bool   // something was removed
	seq      uint64 // in the stream of dead letters
}

// deadLetters yields the dead letters that entered their stream at since or later, oldest first, up to
// the last one that was there at the start. Zero means all; an empty tenant means every tenant. After
// an error it ends.
func (c *Client) deadLetters(ctx context.Context, tenant string, since time.Time) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		const what = "the stream of dead letters (" + DeadLetterStream + ")"
		letters, left, err := c.openDeadLetters(ctx, tenant, since)
		if err != nil {
			yield(DeadLetter{}, explain(err, what))
			return
		}
		defer func() { _ = letters.Unsubscribe() }()
		for left > 0 {
			msg, meta, err := nextMessage(ctx, letters)
			if err != nil {
				yield(DeadLetter{}, explain(err, what))
				return
			}
			left = meta.NumPending
			if !yield(deadLetterOf(msg.Header, meta.Sequence.Stream), nil) {
				return
			}
		}
	}
}

// openDeadLetters begins to read, headers only, and says how many there are.
func (c *Client) openDeadLetters(ctx context.Context, tenant string, since time.Time) (*nats.Subscription, uint64, error) {
	from := []nats.SubOpt{nats.HeadersOnly()}
	if !since.IsZero() {
		from = append(from, nats.StartTime(since))
	}
	letters, err := c.read(ctx, DeadLetterStream, deadLetterSubject(tenant), nil, from...)
	if err != nil {
		return nil, 0, err
	}
	left, err := letters.InitialConsumerPending()
	return letters, left, err
}

func nextMessage(ctx context.Context, from *nats.Subscription) (*nats.Msg, *nats.MsgMetadata, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	msg, err := from.NextMsgWithContext(ctx)
	if err != nil {
		return nil, nil, err
	}
	meta, err := msg.Metadata()
	return msg, meta, err
}

// deadLetterSubject is built like the worker's own; no tenant means the wildcard.
func deadLetterSubject(tenant string) string {
	const prefix = "connections.deadletters."
	if tenant == "" {
		return prefix + "*"
	}
	return prefix + tenant
}

func deadLetterOf(h nats.Header, seq uint64) DeadLetter {
	l := DeadLetter{Reason: provision.Reason(h.Get(event.HeaderReason)), Redacted: h.Get(event.HeaderRedacted) == "true", seq: seq}
	if key, err := provision.ParseKey(h.Get(event.HeaderRequestKey)); err == nil {
		l.Key = key
	}
	if at, err := time.Parse(time.RFC3339Nano, h.Get(event.HeaderFailedAt)); err == nil {
		l.FailedAt = at
	}
	if given := h.Values(event.HeaderRetry); len(given) > 0 {
		n, err := strconv.Atoi(given[0])
		if err != nil || n < 0 || len(given) > 1 {
			n = -1
		}
		l.Retry = n
	}
	return l
}
