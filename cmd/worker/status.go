package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/story"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// statusQuery is the status command with its flags.
type statusQuery struct {
	*cli
	tenant, source string
	asJSON, watch  bool
}

func (c *cli) statusCommand() *cobra.Command {
	q := &statusQuery{cli: c}
	cmd := &cobra.Command{
		Use:   "status ID",
		Short: "Tell the story of a request, attempt by attempt",
		Args:  cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	f.StringVar(&q.tenant, "tenant", "", "its tenant, where the id alone is ambiguous")
	f.StringVar(&q.source, "source", "", "its source, where the id alone is ambiguous")
	f.BoolVar(&q.asJSON, "json", false, "print the ledger's record as JSON")
	f.BoolVar(&q.watch, "watch", false, "go on with what happens, until the request has ended")
	load := c.settingsOf(cmd, settings.NATS)
	cmd.RunE = work(func(ctx context.Context, args []string) error {
		set, err := load()
		if err != nil {
			return err
		}
		client, stop, err := c.client(ctx, set.Settings, "status")
		if err != nil {
			return err
		}
		defer stop()
		return q.run(ctx, client, args[0])
	})
	return cmd
}

// client connects a command that reads the ledger.
func (c *cli) client(ctx context.Context, s settings.Settings, command string) (*requester.Client, func(), error) {
	nc, err := connect(s, command)
	if err != nil {
		return nil, nil, err
	}
	client, err := requester.New(ctx, nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return client, nc.Close, nil
}

func (q *statusQuery) run(ctx context.Context, client *requester.Client, id string) error {
	recs, err := client.Find(ctx, requester.Filter{Filter: ledger.Filter{ID: id, Tenant: q.tenant, Source: q.source}})
	switch {
	case errors.Is(err, requester.ErrUnknown):
		return fmt.Errorf("no worker has taken up a request with id %q yet, or its record has expired; check the id, --tenant and --source", id)
	case errors.Is(err, requester.ErrAmbiguous):
		return q.candidates(recs)
	case err != nil:
		return err
	case q.watch:
		return q.follow(ctx, client, recs[0])
	default:
		return q.print(recs[0])
	}
}

func (q *statusQuery) candidates(recs []provision.Record) error {
	rows := [][]string{{"TENANT", "SOURCE", "STATE", "NAME"}}
	for _, r := range recs {
		rows = append(rows, []string{r.Key.Tenant, r.Key.Source, story.Outcome(r), r.Name})
	}
	if err := printRows(q.stderr, rows); err != nil {
		return err
	}
	return usagef("%d requests have this id; say which by --tenant and --source", len(recs))
}

func (q *statusQuery) print(rec provision.Record) error {
	if q.asJSON {
		return q.printJSON(rec)
	}
	if err := q.printTable(story.Head(rec)...); err != nil {
		return err
	}
	fmt.Fprintln(q.stdout)
	return q.printTable(story.Attempts(rec)...)
}

// follow prints the record and then its news; with --json every version of it.
func (q *statusQuery) follow(ctx context.Context, client *requester.Client, rec provision.Record) error {
	if err := q.print(rec); err != nil {
		return err
	}
	var err error
	follow := func(now provision.Record) bool {
		if now.Nonce != rec.Nonce && q.asJSON {
			err = q.printJSON(now)
		} else if !q.asJSON {
			for _, l := range story.News(rec, now) {
				_, err = fmt.Fprintln(q.stdout, l.At.UTC().Format("15:04:05.000"), "", l.Text)
			}
		}
		rec = now
		return err == nil && now.Final == nil
	}
	if rec.Final != nil {
		return nil
	}
	return errors.Join(client.Follow(ctx, rec.Key, follow), err)
}
