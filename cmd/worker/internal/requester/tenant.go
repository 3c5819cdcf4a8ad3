package requester

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/inquiry"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// NewSubmitter is New for who only submits. Where the user may not look at the ledger, as one of a
// tenant may not, the client can only publish and wait for results: all other methods are not to be
// called. The connection must be a new one.
func NewSubmitter(ctx context.Context, js jetstream.JetStream) (*Client, error) {
	may, err := MayRead(ctx, js)
	switch {
	case err != nil:
		return nil, err
	case may:
		return New(ctx, js)
	}
	return &Client{js: js}, nil
}

// refused reports whether the server refuses what do has just sent: it says so before it answers the
// next ping.
func refused(ctx context.Context, nc *nats.Conn, do func() error) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	before := nc.LastError()
	if err := do(); err != nil {
		return false, err
	}
	if err := nc.FlushWithContext(ctx); err != nil {
		return false, err
	}
	after := nc.LastError()
	return after != before && errors.Is(after, nats.ErrPermissionViolation), nil //nolint:errorlint // another one, or the same
}

// listen gets the tenant's results as they are told, which needs no right but to their subjects. What
// is told while the connection is down is missed.
func (c *Client) listen(ctx context.Context, tenant string) (<-chan provision.Result, func(), error) {
	nc, subject := c.js.Conn(), resultSubjects(tenant)
	results := make(chan provision.Result)
	var sub *nats.Subscription
	denied, err := refused(ctx, nc, func() (err error) {
		sub, err = nc.Subscribe(subject, func(msg *nats.Msg) { pass(ctx, msg.Data, results) })
		return err
	})
	switch {
	case err != nil:
		return nil, nil, err
	case denied:
		return nil, nil, fmt.Errorf("this user may not read the results: grant it to subscribe to %s, or leave --wait out", subject)
	}
	return results, func() { _ = sub.Unsubscribe() }, nil
}

// pass decodes a result and passes it on. What is no result is not ours to judge.
func pass(ctx context.Context, body []byte, results chan<- provision.Result) {
	r, err := event.DecodeResult(body)
	if err != nil {
		return
	}
	select {
	case results <- r:
	case <-ctx.Done():
	}
}

// submitBlind publishes m and waits for the next result of its identity. Where workers answer questions it
// asks, too, for news and for a result that was missed.
func (c *Client) submitBlind(ctx context.Context, w *waiters, m Message) error {
	results := w.enter(m.Key)
	waiting := &wait{client: c, w: w, m: m}
	if err := waiting.publish(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	ask := tick.C
	settled := 0 // ticks since the outcome could be told without an event
	for {
		select {
		case r := <-results:
			return waiting.done(r)
		case <-ask:
			r, over, err := waiting.asked(ctx)
			if errors.Is(err, inquiry.ErrRefused) || errors.Is(err, inquiry.ErrNobody) {
				ask = nil
			}
			if !over {
				continue
			}
			if settled++; settled > 1 {
				return waiting.done(r)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// askAgain is how often a tenant's own user asks after a request that it waits for.
const askAgain = 3 * time.Second

// asked asks the workers how the message's request stands, and returns its outcome if it has one.
func (t *wait) asked(ctx context.Context) (provision.Result, bool, error) {
	f := Filter{Filter: ledger.Filter{Tenant: t.m.Key.Tenant, Source: t.m.Key.Source, ID: t.m.Key.ID}}
	recs, err := NewAsker(t.client.js.Conn()).Find(ctx, f)
	if err != nil {
		return provision.Result{}, false, err
	}
	t.news(recs[0])
	if t.rec.Final == nil || t.rec.Fingerprint != t.m.Fingerprint {
		return provision.Result{}, false, nil
	}
	return outcomeOf(t.rec.Final), true, nil
}
