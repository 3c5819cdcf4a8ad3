package main

import "github.com/spf13/cobra"

// commands lists all commands.
func (c *cli) commands() []*cobra.Command {
	return []*cobra.Command{
		c.runCommand(),
		c.demoCommand(),
		c.initCommand(),
		c.submitCommand(),
		c.statusCommand(),
		c.listCommand(),
		c.retryCommand(),
		c.resolveCommand(),
		c.pauseCommand(),
		c.resumeCommand(),
		c.doctorCommand(),
		c.emulatorCommand(),
		c.configCommand(),
		c.versionCommand(),
		c.healthcheckCommand(),
	}
}
