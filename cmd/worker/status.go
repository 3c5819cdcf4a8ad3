package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
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
		client, js, err := c.client(ctx, set.Settings, "status")
		if err != nil {
			return err
		}
		defer js.Conn().Close()
		return q.run(ctx, client, js, args[0])
	})
	return cmd
}

// client connects a command that reads the ledger. The caller has to close the connection.
func (c *cli) client(ctx context.Context, s settings.Settings, command string) (*requester.Client, jetstream.JetStream, error) {
	js, err := connectJetStream(s, command)
	if err != nil {
		return nil, nil, err
	}
	client, err := requester.New(ctx, js.Conn())
	if err != nil {
		js.Conn().Close()
		return nil, nil, err
	}
	return client, js, nil
}

func (q *statusQuery) run(ctx context.Context, client *requester.Client, js jetstream.JetStream, id string) error {
	recs, err := client.Find(ctx, requester.Filter{Filter: ledger.Filter{ID: id, Tenant: q.tenant, Source: q.source}})
	switch {
	case errors.Is(err, requester.ErrUnknown):
		return q.queued(ctx, client, js, id)
	case errors.Is(err, requester.ErrAmbiguous):
		return q.candidates(recs)
	case err != nil:
		return err
	}
	if err := q.print(recs[0]); err != nil || !q.watch || recs[0].Final != nil {
		return err
	}
	return q.follow(ctx, client, recs[0])
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

// follow prints what happens after rec, until the request has ended; with --json every version of it.
func (q *statusQuery) follow(ctx context.Context, client *requester.Client, rec provision.Record) error {
	var err error
	follow := func(now provision.Record) bool {
		if now.Nonce != rec.Nonce && q.asJSON {
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
