package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

// statusQuery is the status command with its flags.
type statusQuery struct {
	*cli
	tenant, source string
	asJSON, watch  bool
	asTenant       bool // the user is a tenant's
}

func (c *cli) statusCommand() *cobra.Command {
	q := &statusQuery{cli: c}
	cmd := &cobra.Command{
		Use:   "status ID",
		Short: "Tell the story of a request, attempt by attempt",
		Long: `Tell the story of a request in plain words: every attempt with its time and cause, what comes next, and
the commands that act on it. One that no worker has taken up yet is looked for in the queue.

A tenant's own NATS user sees its own requests, and has to give --tenant.`,
		Example: "  worker status 9f2c\n  worker status 9f2c --tenant acme --source /portal/onboarding --watch\n  worker status 9f2c --json",
		Args:    cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	f.StringVar(&q.tenant, "tenant", "", "its tenant, where the id alone is ambiguous")
	f.StringVar(&q.source, "source", "", "its source, where the id alone is ambiguous")
	f.BoolVar(&q.asJSON, "json", false, "print the ledger's record as JSON")
	f.BoolVar(&q.watch, "watch", false, "go on with what happens, until the request has ended")
	c.withSettings(cmd, func(ctx context.Context, set settings.Set, args []string) error {
		if err := checkNames(q.tenant, q.source, args[0]); err != nil {
			return err
		}
		quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}) // what is refused is reported below
		js, err := connectJetStream(set.Settings, "status", quiet)
		if err != nil {
			return err
		}
		defer js.Conn().Close()
		return q.with(ctx, js, args[0])
	}, settings.NATS)
	return cmd
}

// with looks at the ledger, or asks the workers where the user is a tenant's.
func (q *statusQuery) with(ctx context.Context, js jetstream.JetStream, id string) error {
	may, err := requester.MayRead(ctx, js)
	switch {
	case err != nil:
		return err
	case !may && !provision.ValidTenant(q.tenant):
		return usagef("this NATS user may not look at the ledger; if it is a tenant's, give --tenant with its name")
	case !may:
		q.asTenant = true
		return q.run(ctx, requester.NewAsker(js.Conn()), nil, id)
	}
	client, err := requester.New(ctx, js)
	if err != nil {
		return err
	}
	return q.run(ctx, client, js, id)
}

// run prints the story. Without a js the queue can't be looked at.
func (q *statusQuery) run(ctx context.Context, client requester.Reader, js jetstream.JetStream, id string) error {
	recs, err := client.Find(ctx, requester.Filter{Filter: ledger.Filter{ID: id, Tenant: q.tenant, Source: q.source}})
	switch {
	case errors.Is(err, requester.ErrUnknown) && js == nil:
		return fmt.Errorf("no worker has taken up a request of %s with id %q: it waits in the queue, its record has expired, or it was never sent; check the id and --source", q.tenant, id)
	case errors.Is(err, requester.ErrUnknown):
		return q.queued(ctx, client, js, id)
	case errors.Is(err, requester.ErrAmbiguous):
		rows := [][]string{{"TENANT", "SOURCE", "STATE", "NAME"}}
		for _, r := range recs {
			rows = append(rows, []string{r.Key.Tenant, r.Key.Source, story.Outcome(r), r.Name})
		}
		return q.ambiguous(rows)
	case err != nil:
		return err
	}
	if err := q.print(recs[0]); err != nil || !q.watch || recs[0].Final != nil {
		return err
	}
	return q.follow(ctx, client, recs[0])
}

func (q *statusQuery) print(rec provision.Record) error {
	if q.asJSON {
		return q.printJSON(rec)
	}
	head := story.Head(rec)
	if next := story.WhatNext(rec, time.Now()); rec.Final == nil {
		head = append(head, []string{"next", next.Text + due(next.At)})
	}
	if err := q.printTable(head...); err != nil {
		return err
	}
	fmt.Fprintln(q.stdout)
	if err := q.printTable(timeline(rec)...); err != nil {
		return err
	}
	return q.printCommands(rec)
}

// timeline returns a request's story as rows with a header.
func timeline(rec provision.Record) [][]string {
	rows := [][]string{{"AT", "RETRY", "TOOK", "WHAT HAPPENED"}}
	for _, e := range story.Timeline(rec) {
		took, text := "-", e.Text
		if e.Took > 0 {
			took = e.Took.Round(time.Millisecond).String()
		}
		if e.Detail != "" {
			text += " (" + e.Detail + ")"
		}
		rows = append(rows, []string{e.At.UTC().Format("2006-01-02 15:04:05.000Z"), strconv.Itoa(e.Retry), took, text})
	}
	return rows
}

// due says when something comes, nothing where that isn't known.
func due(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return ", at " + at.UTC().Format("2006-01-02 15:04:05Z")
}

// printCommands prints what can be done about a request that has failed; to a tenant, in words only.
func (q *statusQuery) printCommands(rec provision.Record) error {
	if rec.Final == nil || rec.Final.Result.Error == nil {
		return nil
	}
	if remedy := story.Remedy(rec.Final.Result.Error); remedy != "" {
		fmt.Fprintf(q.stdout, "\n%s\n", remedy)
	}
	if q.asTenant { // who can't act
		return nil
	}
	rows := [][]string{}
	for _, c := range story.Commands(rec) {
		if !strings.HasPrefix(c.Line, "worker status ") { // this very one
			rows = append(rows, []string{c.Line, c.Does})
		}
	}
	return q.printTable(rows...)
}

// follow prints what happens after rec, until the request has ended; with --json every version of it.
func (q *statusQuery) follow(ctx context.Context, client requester.Reader, rec provision.Record) error {
	var err error
	follow := func(now provision.Record) bool {
		if !now.UpdatedAt.Equal(rec.UpdatedAt) && q.asJSON {
			err = q.printJSON(now)
		} else if !q.asJSON {
			for _, l := range story.News(rec, now) {
				_, err = fmt.Fprintln(q.stdout, l.At.UTC().Format("15:04:05.000"), "", plain(l.Text))
			}
		}
		rec = now
		return err == nil && now.Final == nil
	}
	return errors.Join(client.Follow(ctx, rec.Key, follow), err)
}

// How far status looks into the queue for a request that the ledger doesn't know. Messages are asked
// for one by one, so it must have an end.
const (
	queueDepth   = 2000
	queueTimeout = 5 * time.Second
)

// queuedRequest is what status --json prints of a request that no worker has taken up.
type queuedRequest struct {
	Key         provision.Key `json:"key"`
	State       string        `json:"state"` // "queued"
	RequestedAt time.Time     `json:"requestedAt"`
	Seq         uint64        `json:"seq"` // in the stream of requests
	Note        string        `json:"note,omitempty"`
}

// queued reports a request that the ledger doesn't know: perhaps its message waits in the queue.
func (q *statusQuery) queued(ctx context.Context, client requester.Reader, js jetstream.JetStream, id string) error {
	found, all := q.search(ctx, js, id)
	switch {
	case len(found) == 0 && all:
		return fmt.Errorf("no worker has taken up a request with id %q, nor is it in the queue; its record may have expired: check the id, --tenant and --source", id)
	case len(found) == 0:
		return fmt.Errorf("no worker has taken up a request with id %q yet, and it is not among the first in the queue; check the id, --tenant and --source", id)
	}
	first := found[0]
	for _, d := range found {
		if d.Request.Key != first.Request.Key {
			return usagef("several requests with this id wait in the queue; say which by --tenant and --source")
		}
	}
	view := queuedRequest{first.Request.Key, "queued", first.EnteredAt, first.Seq, queueNote(ctx, js)}
	if err := q.printQueued(view); err != nil || !q.watch {
		return err
	}
	return q.follow(ctx, client, provision.Record{Key: view.Key})
}

func (q *statusQuery) printQueued(v queuedRequest) error {
	if q.asJSON {
		return q.printJSON(v)
	}
	return q.printTable(story.Queued(v.Key, v.RequestedAt, v.Note)...)
}

// search looks for the id in the queue, as far as that is allowed and quick. It reports whether it saw
// the whole queue.
func (q *statusQuery) search(ctx context.Context, js jetstream.JetStream, id string) ([]provision.Delivery, bool) {
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	queue, err := consumer.OpenQueue(ctx, js, &event.Decoder{})
	if err != nil {
		return nil, false
	}
	found, all, err := queue.Find(ctx, q.tenant, queueDepth, func(d provision.Delivery) bool {
		return d.Request.Key.ID == id && (q.source == "" || d.Request.Key.Source == q.source)
	})
	return found, all && err == nil
}

// queueNote says why a request may have to wait, nothing if that is not known.
func queueNote(ctx context.Context, js jetstream.JetStream) string {
	from, err := js.Consumer(ctx, consumer.StreamRequests, consumer.ConsumerName)
	if err != nil {
		return ""
	}
	switch info := from.CachedInfo(); {
	case info.Paused:
		return "the intake of all workers is paused" + remaining(info.PauseRemaining) + `; "worker resume" ends it`
	case info.NumWaiting == 0 && info.NumAckPending == 0:
		return "no worker asks for requests; is one running?"
	}
	return ""
}
