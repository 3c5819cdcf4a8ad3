package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

func (c *cli) listCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List requests by state, tenant and age",
		Long: `List the requests that the ledger knows, by state, tenant, source and age: of those that match the latest
100, oldest first. Requests that no worker has taken up yet are in the queue only: see "worker status ID".`,
		Example: "  worker list --state failed --ended-within 24h\n  worker list --tenant acme --state open --older-than 10m\n  worker list --stuck",
		Args:    cobra.NoArgs,
	}
	var filter requester.Filter
	f := cmd.Flags()
	states := f.StringSlice("state", nil, "only these: "+strings.Join(stateNames(), ", "))
	f.StringVar(&filter.Tenant, "tenant", "", "only this tenant")
	f.StringVar(&filter.Source, "source", "", "only this source")
	f.DurationVar(&filter.OlderThan, "older-than", 0, "only those that entered the stream at least so long ago")
	f.DurationVar(&filter.NewerThan, "newer-than", 0, "only those that entered the stream at most so long ago")
	f.DurationVar(&filter.EndedWithin, "ended-within", 0, "only those that ended, well or not, at most so long ago")
	f.IntVar(&filter.Limit, "limit", 100, "at most so many, the latest; 0 = all")
	asJSON := f.Bool("json", false, "print the ledger's records as JSON lines")
	onlyStuck := f.Bool("stuck", false, "only those that have not ended and that no message carries any more")
	check := func([]string) error {
		if err := setStates(&filter, *states); err != nil {
			return err
		}
		if err := checkFilter(filter); err != nil {
			return err
		}
		if *onlyStuck && filter.EndedWithin > 0 {
			return usagef("--stuck shows only what has not ended; leave --ended-within out")
		}
		if *onlyStuck && !mayBeStuck(filter.States) {
			return usagef("--stuck shows only what has not ended; leave --state out, or give some of %s", strings.Join(stateNames()[:1+len(openStates)], ", "))
		}
		return nil
	}
	c.withLedger(cmd, check, func(ctx context.Context, client *requester.Client, js jetstream.JetStream, _ []string) error {
		if *onlyStuck {
			return c.listStuck(ctx, client, js, filter, *asJSON)
		}
		recs, more, err := client.ListSome(ctx, filter)
		err = errors.Join(c.printRecords(recs, *asJSON), err)
		c.leftOut(more)
		return err
	})
	return cmd
}

func checkFilter(f requester.Filter) error {
	switch err := checkNames(f.Tenant, f.Source); {
	case err != nil:
		return err
	case f.OlderThan < 0 || f.NewerThan < 0 || f.EndedWithin < 0:
		return usagef("--older-than, --newer-than and --ended-within want 0 or more, as 10m or 24h")
	case f.EndedWithin > 0 && len(f.States) > 0 && !slices.ContainsFunc(f.States, provision.State.Final):
		return usagef("--ended-within shows only what has ended; leave --state out, or give some of %s", strings.Join(stateNames()[1+len(openStates):], ", "))
	case f.Limit < 0:
		return usagef("--limit is %d; want 0 or more", f.Limit)
	}
	return nil
}

// leftOut says how many requests --limit left out, if any.
func (c *cli) leftOut(n int) {
	if n > 0 {
		fmt.Fprintf(c.stderr, "--limit leaves out %s that are earlier; --state, --tenant, --newer-than and --ended-within narrow it\n", requests(n))
	}
}

// Names that --state takes beside those of the ledger's states.
const (
	stateOpen    = "open"    // all of those that have not ended
	stateAdopted = "adopted" // of those created, the ones that were found rather than made
)

// stateNames returns what --state takes.
func stateNames() []string {
	names := []string{stateOpen}
	for _, s := range provision.States {
		names = append(names, string(s))
	}
	return append(names, stateAdopted)
}

// setStates makes f let through what --state names.
func setStates(f *requester.Filter, names []string) error {
	for _, n := range names {
		switch {
		case !slices.Contains(stateNames(), n):
			return usagef("--state is %q; want some of %s, separated by commas", n, strings.Join(stateNames(), ", "))
		case n == stateOpen:
			f.States = append(f.States, openStates...)
		case n != stateAdopted:
			f.States = append(f.States, provision.State(n))
		}
	}
	if slices.Contains(names, stateAdopted) && !slices.Contains(f.States, provision.StateCreated) {
		f.States, f.AdoptedOnly = append(f.States, provision.StateCreated), true
	}
	return nil
}

func (c *cli) printRecords(recs []provision.Record, asJSON bool) error {
	rows := [][]string{{"TENANT", "ID", "STATE", "AGE", "POSTS", "NAME"}}
	for _, r := range recs {
		if asJSON {
			if err := c.printJSON(r); err != nil {
				return err
			}
		}
		rows = append(rows, []string{r.Key.Tenant, r.Key.ID, story.Outcome(r), age(r.RequestedAt), strconv.Itoa(r.Posts), r.Name})
	}
	switch {
	case asJSON:
		return nil
	case len(recs) == 0:
		fmt.Fprintln(c.stderr, "no request matches")
		return nil
	}
	return c.printList(rows...)
}

// age writes how long ago t was, in two units at most.
func age(t time.Time) string {
	d := time.Since(t)
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	case d >= time.Minute:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return d.Round(time.Second).String()
	}
}

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
