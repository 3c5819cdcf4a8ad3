package requester

import (
	"context"
	"iter"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/jsread"
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

// deadLetters yields the dead letters that entered their stream at since or later, in no order. Zero means all; an
// empty tenant means every tenant. After an error it ends.
func (c *Client) deadLetters(ctx context.Context, tenant string, since time.Time) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		const what = "the stream of dead letters (" + DeadLetterStream + ")"
		stream, err := jsread.Open(ctx, c.js, DeadLetterStream)
		subject, from := deadLetterSubject(tenant), uint64(0)
		if err == nil && !since.IsZero() {
			from, err = jsread.Since(ctx, stream, subject, since)
		}
		if err != nil {
			yield(DeadLetter{}, explain(err, what))
			return
		}
		for msg, err := range jsread.Messages(ctx, stream, subject, from) {
			if err != nil {
				yield(DeadLetter{}, explain(err, what))
				return
			}
			if !yield(deadLetterOf(msg.Header, msg.Sequence), nil) {
				return
			}
		}
	}
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
