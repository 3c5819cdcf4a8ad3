package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

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
			c.tellMissing(invalid)
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

func (c *cli) tellMissing(invalid *settings.Invalid) {
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
