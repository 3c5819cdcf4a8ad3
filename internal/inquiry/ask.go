package inquiry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Errors of Ask.
var (
	// ErrNobody means that no worker hears the question.
	ErrNobody = errors.New("no worker answers questions: is one running, with WORKER_ANSWER_TENANTS=true?")
	// ErrRefused means that the server doesn't let this user ask.
	ErrRefused = errors.New("NATS does not let this user ask")
)

// Ask asks the workers for a tenant's requests, again every two seconds while there is no answer. Its error is ErrNobody, ErrRefused, the Answer's own, or
// ctx's. Of a connection that others use at the same time a refusal of theirs may be taken for one of this.
func Ask(ctx context.Context, nc *nats.Conn, tenant string, q Question) ([]provision.Record, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("inquiry: %w", err)
	}
	msg, err := request(ctx, nc, Subject(tenant), body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, ErrNobody
	case err != nil:
		return nil, err
	}
	var a Answer
	if err := json.Unmarshal(msg.Data, &a); err != nil {
		return nil, errors.New("the answer is not understood; was it given by a newer worker?")
	}
	if a.Error != "" {
		return nil, fmt.Errorf("a worker answers: %s", a.Error)
	}
	return a.Records, nil
}

// When a question is sent again: it may have been dropped, and a worker that the server cut off comes back.
const (
	askAgain    = 2 * time.Second        // after no answer
	nobodyAgain = 500 * time.Millisecond // after nobody was there
	nobodyTimes = 4                      // so often in a row makes it true
)

// request sends body, again and again, and waits for an answer. Unlike nats.Conn.Request it doesn't wait for
// one where the server has refused the question.
func request(ctx context.Context, nc *nats.Conn, subject string, body []byte) (*nats.Msg, error) {
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only on a connection that is closed
	for nobody := 0; ; {
		if err := send(ctx, nc, subject, inbox, body); err != nil {
			return nil, err
		}
		msg, err := await(ctx, sub, askAgain)
		if errors.Is(err, nats.ErrNoResponders) {
			if nobody++; nobody < nobodyTimes {
				msg, err = await(ctx, sub, nobodyAgain) // of one who had heard it before
			}
		} else {
			nobody = 0
		}
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return msg, err
		}
	}
}

// send publishes a question. Its error is ErrRefused where the server does so.
func send(ctx context.Context, nc *nats.Conn, subject, inbox string, body []byte) error {
	before := nc.LastError()
	if err := nc.PublishRequest(subject, inbox, body); err != nil {
		return err
	}
	if err := nc.FlushWithContext(ctx); err != nil { // a refusal comes ahead of the answer to a ping
		return err
	}
	if after := nc.LastError(); after != before && errors.Is(after, nats.ErrPermissionViolation) { //nolint:errorlint // another one, or the same
		return fmt.Errorf("%w; let it publish on %s and listen to its inbox (%w)", ErrRefused, subject, after)
	}
	return nil
}

// await waits for an answer. Its error is nats.ErrNoResponders, or that it took longer.
func await(ctx context.Context, sub *nats.Subscription, atMost time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	msg, err := sub.NextMsgWithContext(ctx)
	if err == nil && len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
		err = nats.ErrNoResponders
	}
	return msg, err
}
