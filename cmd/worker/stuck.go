package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

// openStates are those of requests that have not ended.
var openStates = []provision.State{provision.StateClaimed, provision.StatePosting, provision.StateUnknown, provision.StateWaiting}

// mayBeStuck reports whether a request in one of these states can be stuck; none means every state.
func mayBeStuck(states []provision.State) bool {
	return len(states) == 0 || slices.ContainsFunc(states, func(s provision.State) bool { return slices.Contains(openStates, s) })
}

// stuck returns those of recs that nobody is at work on and no message carries any more.
func stuck(ctx context.Context, client *requester.Client, js jetstream.JetStream, recs []provision.Record) ([]provision.Record, error) {
	queue, err := consumer.OpenQueue(ctx, js, &event.Decoder{})
	if err != nil {
		return nil, err
	}
	var found []provision.Record
	for _, rec := range recs {
		is, err := queue.Stuck(ctx, rec, client.Load)
		if err != nil {
			return found, err
		}
		if is {
			found = append(found, rec)
		}
	}
	return found, nil
}

// listStuck prints the stuck ones among the requests that match f.
func (c *cli) listStuck(ctx context.Context, client *requester.Client, js jetstream.JetStream, f requester.Filter, asJSON bool) error {
	if len(f.States) == 0 {
		f.States = openStates
	}
	limit := f.Limit
	f.Limit = 0 // of those that are stuck, not of those that are looked at
	recs, unreadable := client.List(ctx, f)
	recs, err := stuck(ctx, client, js, recs)
	if err != nil {
		return err
	}
	if over := len(recs) - limit; limit > 0 && over > 0 {
		recs = recs[over:]
		c.leftOut(over)
	}
	rows := [][]string{{"TENANT", "SOURCE", "ID", "STATE", "UNTOUCHED", "POSTS", "NAME"}}
	for _, r := range recs {
		if asJSON {
			if err := c.printJSON(r); err != nil {
				return err
			}
		}
		rows = append(rows, []string{r.Key.Tenant, r.Key.Source, r.Key.ID, story.Outcome(r), age(r.UpdatedAt), strconv.Itoa(r.Posts), r.Name})
	}
	switch {
	case len(recs) == 0:
		fmt.Fprintln(c.stderr, "no request is stuck")
	case !asJSON:
		if err := c.printList(rows...); err != nil {
			return err
		}
		fmt.Fprintf(c.stderr, "\nNo message carries these any more: %s.\n", consumer.StuckRemedy)
	}
	return unreadable
}
