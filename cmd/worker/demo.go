package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/demo"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
)

func (c *cli) demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the worker at work, with everything it needs in one process",
		Long: `Run a NATS server, a Vault, a Flow Service emulator and the worker in one process; submit sample
requests, of which two fail on purpose; print what becomes of them, and keep running.`,
		Example: "  worker demo\n  worker demo --once",
		Args:    cobra.NoArgs,
	}
	once := cmd.Flags().Bool("once", false, "end after the samples; exit 0 if every one ended as expected")
	trickle := cmd.Flags().Duration("trickle", 2*time.Second, "between the requests that keep coming after the samples; 0 = none do")
	asJSON := cmd.Flags().Bool("json", false, "print only results, as JSON lines")
	load := c.settingsOf(cmd, settings.Log)
	cmd.RunE = work(func(ctx context.Context, _ []string) error {
		set, err := load()
		if err != nil {
			return err
		}
		cfg := demo.Config{Out: c.stdout, JSON: *asJSON, Colours: c.colours(), Once: *once, Trickle: *trickle, Program: program()}
		if cmd.Flags().Changed("log-level") { // the lines of the demo tell the same in fewer words
			cfg.Log = c.logger(set.Settings)
		}
		return demo.Run(ctx, cfg)
	})
	return cmd
}

// program returns what to type to call this program again.
func program() string {
	exe, err := os.Executable()
	if err != nil {
		return "worker"
	}
	found, err := exec.LookPath(filepath.Base(exe))
	if same, ferr := filepath.Abs(found); err == nil && ferr == nil && same == exe {
		return filepath.Base(exe)
	}
	return exe
}
