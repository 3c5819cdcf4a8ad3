package main

import (
	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/internal/consumer"
)

func (c *cli) resumeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "resume", Short: "Let all workers take requests again", Example: "  worker resume", Args: cobra.NoArgs}
	c.onIntake(cmd, consumer.Resume)
	return cmd
}
