package requester

import (
	"context"
	"errors"
	"fmt"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// Unsettled finds the one request that ended as outcome_unknown which the tenant (empty means any), the
// source (likewise) and the id name, with its record. Its error is ErrAmbiguous, beside the candidates,
// where they name several. What can't be settled has an Obstacle.
func (c *Client) Unsettled(ctx context.Context, tenant, source, id string) ([]Retry, provision.Record, error) {
	found, err := c.Retries(ctx, Selection{Tenant: tenant, Source: source, IDs: []string{id}})
	if err != nil {
		return found.List, provision.Record{}, err
	}
	one := found.List[0]
	if one.Obstacle != "" {
		return found.List, provision.Record{}, nil
	}
	rec, _, err := c.Load(ctx, one.Key)
	switch {
	case errors.Is(err, provision.ErrNoRecord):
		one.Number, one.Obstacle = 0, "its ledger record is gone, so there is nothing to settle; \"worker retry\" looks it up first"
	case err != nil:
		return nil, provision.Record{}, err
	case one.Reason != provision.ReasonOutcomeUnknown:
		one.Number, one.Obstacle = 0, fmt.Sprintf("it failed with %s, and only outcome_unknown can be settled; mend the cause and use \"worker retry\"", one.Reason)
	}
	return []Retry{one}, rec, nil
}

// Resolve sends a request that has no obstacle again, as its dead letter keeps it, with what a person says
// became of its POST. It returns the message's sequence in the stream of requests. A worker checks what was
// said and ends the retry by it; it sends no POST. After an error the message may be there or not; sending
// it again is safe.
func (c *Client) Resolve(ctx context.Context, r Retry, said provision.Resolution) (uint64, error) {
	header, err := event.ResolveHeader(said)
	if err != nil {
		return 0, err
	}
	return c.requeue(ctx, r, map[string][]string{event.HeaderResolve: {header}})
}

// Settled follows a request until its retry with the given number has ended, or a later one, and returns its
// record. It returns an unfinished one where ctx ends before.
func (c *Client) Settled(ctx context.Context, key provision.Key, number int) (rec provision.Record, err error) {
	err = c.Follow(ctx, key, func(now provision.Record) bool {
		rec = now
		return now.Retry < number || now.Final == nil
	})
	return rec, err
}
