package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// Queue looks into the stream of requests and takes nothing from it. It is safe for concurrent use.
type Queue struct {
	js     jetstream.JetStream
	codec  Codec
	stream jetstream.Stream
	state  jetstream.StreamState // as it was when opened
}

// OpenQueue returns a Queue that knows the stream as it is now. It fails where the stream is not to be had.
func OpenQueue(ctx context.Context, js jetstream.JetStream, codec Codec) (*Queue, error) {
	stream, err := js.Stream(ctx, StreamRequests)
	if err != nil {
		return nil, fmt.Errorf("consumer: stream %s: %w", StreamRequests, err)
	}
	return &Queue{js: js, codec: codec, stream: stream, state: stream.CachedInfo().State}, nil
}

// Gone reports whether the message that rec was last held by is no longer in the stream. Of a record
// that nobody ever held it is only known where all messages are younger.
func (q *Queue) Gone(ctx context.Context, rec provision.Record) (bool, error) {
	switch {
	case q.state.Msgs == 0:
		return true, nil
	case rec.HeldSeq == 0:
		return rec.RequestedAt.Before(q.state.FirstTime), nil
	case rec.HeldSeq < q.state.FirstSeq:
		return true, nil
	}
	msg, err := q.stream.GetMsg(ctx, rec.HeldSeq)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("consumer: message %d of stream %s: %w", rec.HeldSeq, StreamRequests, err)
	}
	return q.decode(msg).Request.Key != rec.Key, nil // the stream was made again, and this is another one
}

// Stuck reports whether rec is overdue and carried by no message, and still what load finds: else it has
// just gone on. The Queue must have been opened after rec was read.
func (q *Queue) Stuck(ctx context.Context, rec provision.Record, load func(context.Context, provision.Key) (provision.Record, uint64, error)) (bool, error) {
	if !Overdue(rec, time.Now()) {
		return false, nil
	}
	gone, err := q.Gone(ctx, rec)
	if err != nil || !gone {
		return false, err
	}
	now, _, err := load(ctx, rec.Key)
	if errors.Is(err, provision.ErrNoRecord) {
		return false, nil
	}
	return err == nil && now.Nonce == rec.Nonce, err
}

// decode reads a message. What the codec panics over is logged by whoever works on it.
func (q *Queue) decode(msg *jetstream.RawStreamMsg) provision.Delivery {
	return decode(q.codec, nil, tenantOf(msg.Subject), msg.Header, msg.Data, event.Meta{Seq: msg.Sequence, Timestamp: msg.Time, Delivered: 1})
}

// Find returns the messages among the first most ones of a tenant, or of all tenants for "", that match
// approves of, and whether those were all. It asks for one message at a time.
func (q *Queue) Find(ctx context.Context, tenant string, most int, match func(provision.Delivery) bool) (found []provision.Delivery, all bool, err error) {
	subject := patternRequests
	if tenant != "" {
		subject = subjectRequests + tenant
	}
	next := max(q.state.FirstSeq, 1)
	for range most {
		msg, err := q.stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(subject))
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return found, true, nil
		case err != nil:
			return found, false, fmt.Errorf("consumer: messages on %s: %w", subject, err)
		}
		if d := q.decode(msg); match(d) {
			found = append(found, d)
		}
		next = msg.Sequence + 1
	}
	return found, false, nil
}

// Limits of the look for orphans.
const (
	orphanLooks = 5
	orphanGap   = 200 * time.Millisecond
)

// Orphans returns how many messages are in the stream that will never be delivered again: those that
// neither wait for their first delivery nor for an acknowledgement. Stream and consumer can't be asked
// at the same moment, so it looks several times, with gap in between (0 means 200 ms), and believes the
// lowest number. With much traffic even that may be too high once in a while.
func (q *Queue) Orphans(ctx context.Context, gap time.Duration) (uint64, error) {
	consumer, err := q.js.Consumer(ctx, StreamRequests, ConsumerName)
	if err != nil {
		return 0, fmt.Errorf("consumer: consumer %s on %s: %w", ConsumerName, StreamRequests, err)
	}
	least, before := uint64(0), known(consumer.CachedInfo())
	for i := range orphanLooks {
		if i > 0 {
			sleep(ctx, cmp.Or(gap, orphanGap))
		}
		stream, err := q.stream.Info(ctx)
		if err != nil {
			return 0, fmt.Errorf("consumer: stream %s: %w", StreamRequests, err)
		}
		info, err := consumer.Info(ctx)
		if err != nil {
			return 0, fmt.Errorf("consumer: consumer %s on %s: %w", ConsumerName, StreamRequests, err)
		}
		after := known(info)
		over := beyond(stream.State.Msgs, max(before, after))
		if i == 0 || over < least {
			least = over
		}
		if least == 0 {
			break
		}
		before = after
	}
	return least, nil
}

// known returns how many messages the consumer will deliver, or has delivered and not lost sight of.
func known(info *jetstream.ConsumerInfo) uint64 {
	return info.NumPending + uint64(max(info.NumAckPending, 0))
}

func beyond(n, most uint64) uint64 {
	if n <= most {
		return 0
	}
	return n - most
}
