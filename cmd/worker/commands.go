package main

import "github.com/spf13/cobra"

// commands lists all commands.
func (c *cli) commands() []*cobra.Command {
	return []*cobra.Command{
		c.submitCommand(),
		c.statusCommand(),
		c.listCommand(),
		c.configCommand(),
		c.versionCommand(),
		c.healthcheckCommand(),
	}
}
