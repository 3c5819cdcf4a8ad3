package inquiry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

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

// Ask asks the workers for a tenant's requests. Its error is ErrNobody, ErrRefused, the Answer's own, or
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

// request sends body and waits for its answer. Unlike nats.Conn.Request it doesn't wait for one where the
// server has refused the question.
func request(ctx context.Context, nc *nats.Conn, subject string, body []byte) (*nats.Msg, error) {
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only on a connection that is closed
	before := nc.LastError()
	if err := nc.PublishRequest(subject, inbox, body); err != nil {
		return nil, err
	}
	if err := nc.FlushWithContext(ctx); err != nil { // a refusal comes ahead of the answer to a ping
		return nil, err
	}
	if after := nc.LastError(); after != before && errors.Is(after, nats.ErrPermissionViolation) { //nolint:errorlint // another one, or the same
		return nil, fmt.Errorf("%w; let it publish on %s and listen to its inbox (%w)", ErrRefused, subject, after)
	}
	msg, err := sub.NextMsgWithContext(ctx)
	if err == nil && len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
		err = nats.ErrNoResponders
	}
	return msg, err
}
