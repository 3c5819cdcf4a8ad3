package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

// resolution is the resolve command with its flags.
type resolution struct {
	*cli
	tenant, source string
	said           provision.Resolution
	absent         bool
	timeout        time.Duration
	yes, asJSON    bool

	client *requester.Client
}

func (c *cli) resolveCommand() *cobra.Command {
	r := &resolution{cli: c}
	cmd := &cobra.Command{
		Use:   "resolve ID --connection ID|--absent --reason TEXT",
		Short: "Settle a request that ended as outcome_unknown, by what you found out",
		Long: `Settle a request that ended as outcome_unknown: name the connection that its POST made, or say that it
made none. Look in the sandbox first; the failure's message tells what for.

A worker checks it before it counts: a connection with this request's mark is adopted whatever you say,
one that you name must be there and not carry another request's mark. Nothing is ever posted by this.
The outcome is told as that of a retry; who said what, when and why is kept in the request's story.
After --absent, "worker retry" has the connection made.`,
		Example: "  worker resolve 9f2c --tenant acme --connection 0b9ae6e5-7c3a-4f0b-9d1d-4f1f5f6b8c11 --reason \"found it in the UI, its description was edited\"\n" +
			"  worker resolve 9f2c --tenant acme --absent --reason \"CHG-4711: looked in sandbox prod, not there\" --by ada --yes",
		Args: cobra.ExactArgs(1),
	}
	r.addFlags(cmd.Flags())
	check := func(args []string) error { return r.check(args[0]) }
	c.withLedger(cmd, check, func(ctx context.Context, client *requester.Client, _ jetstream.JetStream, args []string) error {
		r.client = client
		return r.run(ctx, args[0])
	})
	return cmd
}

func (r *resolution) addFlags(f *pflag.FlagSet) {
	f.StringVar(&r.tenant, "tenant", "", "its tenant, where the id alone is ambiguous")
	f.StringVar(&r.source, "source", "", "its source, where the id alone is ambiguous")
	f.StringVar(&r.said.Connection, "connection", "", "the POST made the connection with this id")
	f.BoolVar(&r.absent, "absent", false, "the POST made no connection")
	f.StringVar(&r.said.Why, "reason", "", "how you know, for whoever reads the story later (required)")
	f.StringVar(&r.said.By, "by", r.user(), "who says so")
	f.DurationVar(&r.timeout, "timeout", time.Minute, "how long to wait for a worker to check it")
	f.BoolVar(&r.yes, "yes", false, "don't ask for confirmation")
	f.BoolVar(&r.asJSON, "json", false, "print one line of JSON")
}

// user returns who runs the command, as far as the environment says.
func (c *cli) user() (name string) {
	for _, kv := range c.environ {
		if key, value, _ := strings.Cut(kv, "="); key == "USER" || key == "LOGNAME" && name == "" {
			name = value
		}
	}
	return name
}

func (r *resolution) check(id string) error {
	switch err := checkNames(r.tenant, r.source, id); {
	case err != nil:
		return err
	case r.absent == (r.said.Connection != ""):
		return usagef("say what became of the POST: either --connection with the id of the connection that it made, or --absent")
	case r.timeout <= 0:
		return usagef("--timeout is %v; want a positive duration", r.timeout)
	case r.said.By == "":
		return usagef("--by: say who you are; USER is not set")
	case !r.yes && !isTerminal(r.stdin):
		return usagef("there is no terminal to ask for confirmation; give --yes")
	}
	if _, err := event.ResolveHeader(r.said); err != nil {
		part, want, _ := strings.Cut(err.Error(), ": ")
		flag := cmp.Or(map[string]string{"why": "reason"}[part], part)
		return usagef("--%s: %s", flag, want)
	}
	return nil
}

func (r *resolution) run(ctx context.Context, id string) error {
	found, rec, err := r.client.Unsettled(ctx, r.tenant, r.source, id)
	switch {
	case errors.Is(err, requester.ErrAmbiguous):
		rows := [][]string{{"TENANT", "SOURCE", "ID"}}
		for _, one := range found {
			rows = append(rows, []string{one.Key.Tenant, one.Key.Source, one.Key.ID})
		}
		return r.ambiguous(rows)
	case err != nil:
		return err
	case found[0].Obstacle != "":
		return fmt.Errorf("request %s can't be settled: %s", id, found[0].Obstacle)
	}
	if err := r.confirmed(ctx, rec); err != nil {
		return err
	}
	if _, err := r.client.Resolve(ctx, found[0], r.said); err != nil {
		return err
	}
	return r.await(ctx, rec.Key, found[0].Number)
}

// confirmed returns nil if the request is to be settled so.
func (r *resolution) confirmed(ctx context.Context, rec provision.Record) error {
	if r.yes {
		return nil
	}
	says := "that its POST made no connection; a retry may then send another"
	if r.said.Connection != "" {
		says = "that its POST made connection " + r.said.Connection
	}
	rows := append(story.Head(rec), []string{"mark", rec.Key.Mark()}, []string{"you say", says})
	if err := printRows(r.stderr, rows); err != nil {
		return err
	}
	yes, err := r.confirm(ctx, "Settle it so? [y/N] ")
	if err == nil && !yes {
		err = errors.New("nothing was sent")
	}
	return err
}

// settledView is what resolve --json prints.
type settledView struct {
	Tenant     string             `json:"tenant"`
	Source     string             `json:"source"`
	ID         string             `json:"id"`
	Retry      int                `json:"retry"`
	Status     string             `json:"status"` // "created", "absent" or "not_resolved"
	Connection string             `json:"connection,omitempty"`
	Error      *provision.Failure `json:"error,omitempty"`
}

// await waits for a worker's verdict and prints it.
func (r *resolution) await(ctx context.Context, key provision.Key, number int) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	rec, err := r.client.Settled(ctx, key, number)
	see := story.CommandLine("status", key, "")
	switch {
	case err != nil:
		return fmt.Errorf("it was sent, but what became of it can't be read: %w; see: %s", err, see)
	case rec.Retry < number || rec.Final == nil:
		return fmt.Errorf("it was sent, but no worker has settled it yet; it goes on, see: %s", story.CommandLine("status", key, "--watch"))
	case rec.Retry > number || rec.Resolution == nil || *rec.Resolution != r.said:
		return fmt.Errorf("somebody else retried or settled this request first; see: %s", see)
	}
	return r.verdict(rec)
}

func (r *resolution) verdict(rec provision.Record) error {
	v := settledView{Tenant: rec.Key.Tenant, Source: rec.Key.Source, ID: rec.Key.ID, Retry: rec.Retry, Status: "created", Error: rec.Final.Result.Error}
	text := story.Ending(rec.Final.Result).Text
	switch {
	case v.Error == nil:
		v.Connection = rec.Final.Result.Connection.ID
		if v.Connection != r.said.Connection {
			text += ", which carries this request's mark; what was said did not count"
		}
	case v.Error.Reason == provision.ReasonFlowUnavailable:
		v.Status, text = "absent", "settled: its POST made no connection; to have one made: "+story.CommandLine("retry", rec.Key, "")
	default:
		v.Status, text = "not_resolved", v.Error.Message
	}
	if r.asJSON {
		if err := r.printJSON(v); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(r.stdout, "%s  %s\n", plain(rec.Key.ID), plain(text))
	}
	if v.Status == "not_resolved" {
		return errReported
	}
	return nil
}
