package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
)

// objectsTimeout bounds the work on NATS objects; a cluster takes a while to place replicas.
const objectsTimeout = time.Minute

func (c *cli) initCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "init",
		Short:   "Create or upgrade the NATS objects",
		Long:    "Create the streams, the ledger and the consumer, or upgrade them. What exists is never shrunk,\nso it can be run as often as you like.",
		Example: "  worker init\n  worker init --worker-replicas 3 --json",
		Args:    cobra.NoArgs,
	}
	asJSON := cmd.Flags().Bool("json", false, "print JSON lines")
	load := c.settingsOf(cmd, settings.NATS, settings.Streams)
	cmd.RunE = work(func(ctx context.Context, _ []string) error {
		set, err := load()
		if err != nil {
			return err
		}
		c.warn(set)
		ctx, refusal := endsIfRefused(ctx, initsOnly, aboutObjects)
		js, err := connectJetStream(set.Settings, "init", refusal)
		if err != nil {
			return err
		}
		defer js.Conn().Close()
		ctx, cancel := context.WithTimeout(ctx, objectsTimeout)
		defer cancel()
		set.Settings.ManageStreams = true // that is what init is for
		objects, err := app.EnsureObjects(ctx, js, set.Settings)
		return errors.Join(c.printObjects(objects.Report, *asJSON), orRefusal(ctx, err))
	})
	return cmd
}

const initsOnly = "this NATS user may not see to the NATS objects; use that of init (deploy/nats/accounts.conf)"

// aboutObjects is what a refusal has to be about to end init at once. Without the rights to the note in the
// ledger it can do its work: the workers write that, too.
func aboutObjects(refusal string) bool {
	return (strings.Contains(refusal, ".STREAM.") || strings.Contains(refusal, ".CONSUMER.")) && !strings.Contains(refusal, ".MSG.GET.")
}

func (c *cli) printObjects(objects []app.Object, asJSON bool) error {
	var rows [][]string
	for _, o := range objects {
		if asJSON {
			if err := c.printJSON(o); err != nil {
				return err
			}
		}
		did := "unchanged"
		switch {
		case o.Created:
			did = "created"
		case len(o.Changed) > 0:
			did = "upgraded: " + strings.Join(o.Changed, ", ")
		}
		if len(o.Kept) > 0 {
			did += fmt.Sprintf(" (kept: %s)", strings.Join(o.Kept, ", "))
		}
		rows = append(rows, []string{o.Name, did})
	}
	if asJSON {
		return nil
	}
	return c.printTable(rows...)
}
