package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
)

// configView is what "config --json" prints.
type configView struct {
	Settings []settings.Value   `json:"settings"`
	Problems []settings.Problem `json:"problems"`
	Warnings []string           `json:"warnings"`
}

func (c *cli) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "Print the settings in effect, secrets masked, and where each comes from",
		Long:    "Print the settings that run would use, secrets masked, and where each comes from.\nExits 2 if any of them is wrong, and says what would be right.",
		Example: "  worker config\n  worker config --json",
		Args:    cobra.NoArgs,
	}
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	load := c.settingsOf(cmd, settings.All...)
	cmd.RunE = work(func(context.Context, []string) error {
		set, err := load()
		invalid := (*settings.Invalid)(nil)
		if errors.As(err, &invalid) && invalid.OnlyMissing() {
			err = nil // nothing that was set is wrong
		}
		if *asJSON {
			return errors.Join(c.printJSON(viewOf(set, invalid)), err)
		}
		if perr := c.printSettings(set.Values); perr != nil {
			return perr
		}
		c.warn(set)
		if err == nil && invalid != nil {
			c.printMissing(invalid)
		}
		return err
	})
	return cmd
}

func (c *cli) printSettings(values []settings.Value) error {
	rows := [][]string{{"NAME", "VALUE", "FROM"}}
	for _, v := range values {
		rows = append(rows, []string{v.Name, cmp.Or(v.Value, "-"), string(v.Origin)})
	}
	return c.printTable(rows...)
}

func (c *cli) printMissing(invalid *settings.Invalid) {
	fmt.Fprintf(c.stderr, "\nrun still needs:\n")
	for _, p := range invalid.Problems {
		fmt.Fprintf(c.stderr, "  %s: %s\n", p.Name, p.Text)
	}
}

func viewOf(set settings.Set, invalid *settings.Invalid) configView {
	view := configView{set.Values, []settings.Problem{}, append([]string{}, set.Warnings...)}
	if invalid != nil {
		view.Problems = invalid.Problems
	}
	return view
}

// warn prints the warnings of set for people.
func (c *cli) warn(set settings.Set) {
	for _, w := range set.Warnings {
		fmt.Fprintln(c.stderr, "warning: "+w)
	}
}

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
	c.withSettings(cmd, func(ctx context.Context, set settings.Set, _ []string) error {
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
	}, settings.NATS, settings.Streams)
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
