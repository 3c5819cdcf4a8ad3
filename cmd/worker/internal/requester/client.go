// Package requester is the requester's side of the worker: it makes requests of what people write,
// publishes them, waits for their results, and looks into the ledger.
//
// It only reads the ledger and never touches the worker's consumer, so it needs no more NATS
// permissions than to publish for its tenant and to read results and ledger.
package requester

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/ledger"
)

// The names of the streams that a requester needs.
const (
	RequestStream = "CONNECTION_REQUESTS"
	ResultStream  = "CONNECTION_RESULTS"
)

// Client publishes requests and reads results, dead letters and ledger. It makes no consumers, on purpose: who may
// make one can have it deliver to whatever the workers' own listens to, and so take their requests from them. It is
// safe for concurrent use.
type Client struct {
	js     jetstream.JetStream
	ledger *ledger.Ledger // nil where the user may not look at it; see NewSubmitter
}

// askTimeout bounds one question to NATS.
const askTimeout = 10 * time.Second

// New returns a client of the JetStream that has the worker's objects; its connection stays the caller's. It fails with words on what to do
// where NATS has no JetStream or not yet the worker's objects.
func New(ctx context.Context, js jetstream.JetStream) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	records, err := ledger.Open(ctx, js, ledger.Config{ByMessage: true})
	if err != nil {
		return nil, explain(err, "the ledger ("+ledger.DefaultBucket+")")
	}
	return &Client{js: js, ledger: records}, nil
}

// explain turns what NATS says into what to do.
func explain(err error, what string) error {
	switch {
	case errors.Is(err, jetstream.ErrBucketNotFound), errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, nats.ErrStreamNotFound), errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf(`NATS does not have %s; run "worker init", or start a worker`, what)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders):
		return errors.New("JetStream is not enabled at this NATS server, or not for this account or domain; enable it (nats-server -js), or set NATS_JS_DOMAIN to the domain that has it")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("NATS does not answer about %s; JetStream may have no leader at the moment, or this user lacks the permission: %w", what, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// publishTries bounds how often a message is sent that the broker takes for a repeat.
const publishTries = 3

// ErrSwallowed means that NATS confirmed a message as the repeat of another one and stored nothing.
var ErrSwallowed = errors.New("NATS took the request for a repeat of somebody else's message and did not store it")

// Publish sends m and returns its sequence once the stream has it. After an error it may be there or
// not; sending it again is safe, for a worker recognizes repeats. Its error is ErrSwallowed where it is not
// there.
//
// Each try has a message id of its own, never used before. All tenants share the window in which the
// broker takes equal ids for repeats, so one that it calls a repeat was swallowed by another's message,
// and the sequence is that one's. It is sent again, at once, for the next id has met no window yet.
func (c *Client) Publish(ctx context.Context, m Message) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for range publishTries {
		msg := nats.NewMsg(event.RequestSubject(m.Key.Tenant))
		msg.Data, msg.Header = m.wire.Body, maps.Clone(m.wire.Headers)
		ack, err := c.js.PublishMsg(ctx, msg, jetstream.WithMsgID(NewID()))
		if err != nil {
			return 0, explain(err, "the stream of requests ("+RequestStream+")")
		}
		if !ack.Duplicate {
			return ack.Sequence, nil
		}
	}
	return 0, fmt.Errorf("%w, %d times, each under a new id: somebody between here and the server knows or changes message ids; see who may publish on %s",
		ErrSwallowed, publishTries, event.RequestSubject("*"))
}
