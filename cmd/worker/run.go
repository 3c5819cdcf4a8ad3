package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
)

func (c *cli) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the worker",
		Long: `Run the worker until SIGTERM or SIGINT; then it finishes what is in hand and exits 0. A second
signal ends it at once; requests it had in hand are taken up by another worker, or after a restart.`,
		Example: "  NATS_URL=nats://nats:4222 VAULT_ADDR=https://vault:8200 VAULT_AUTH=kubernetes VAULT_ROLE=flow-worker worker run\n  worker run --worker-concurrency 16 --log-level debug",
		Args:    cobra.NoArgs,
	}
	load := c.settingsOf(cmd, settings.All...)
	cmd.RunE = work(func(ctx context.Context, _ []string) error {
		set, err := load()
		if err != nil {
			return err
		}
		log := c.logger(set.Settings)
		for _, w := range set.Warnings {
			log.Warn("odd setting", "warning", w)
		}
		host, _ := os.Hostname() // without one, the instance has a random name
		return app.Run(ctx, set.Settings, app.Deps{Log: log, Instance: host, Build: build(), NATSRemedy: natsRemedy})
	})
	return cmd
}

func build() app.Build {
	v := readVersion()
	return app.Build{Version: v.Version, Commit: v.Commit, Go: v.Go}
}
