package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/consumer"
)

func (c *cli) pauseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pause",
		Short: "Stop the intake of all workers; what is in hand is finished",
		Long: `Stop the intake of all workers; what is in hand is finished, and nothing is lost. "worker resume" ends it.
It needs NATS 2.11 or later.`,
		Example: "  worker pause\n  worker pause --for 1h",
		Args:    cobra.NoArgs,
	}
	length := cmd.Flags().Duration("for", 0, "resume by itself after so long (default: not before \"worker resume\")")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("for") && *length <= 0 { // 0 would be a pause without an end
			return usagef("--for is %v; want a positive duration, as 30m, or leave it out", *length)
		}
		return nil
	}
	c.onIntake(cmd, func(ctx context.Context, js jetstream.JetStream) (consumer.Pauses, error) {
		var until time.Time
		if *length > 0 {
			until = time.Now().Add(*length)
		}
		return consumer.Pause(ctx, js, until)
	})
	return cmd
}

// onIntake makes cmd change the intake of all workers by f, and print how it stands then.
func (c *cli) onIntake(cmd *cobra.Command, f func(context.Context, jetstream.JetStream) (consumer.Pauses, error)) {
	c.withSettings(cmd, func(ctx context.Context, set settings.Set, _ []string) error {
		ctx, quiet := endsIfRefused(ctx, operatorsOnly, anything)
		js, err := connectJetStream(set.Settings, cmd.Name(), quiet)
		if err != nil {
			return err
		}
		defer js.Conn().Close()
		ctx, cancel := context.WithTimeout(ctx, objectsTimeout)
		defer cancel()
		p, err := f(ctx, js)
		if err != nil {
			return orRefusal(ctx, err)
		}
		fmt.Fprintln(c.stdout, intake(p))
		return nil
	}, settings.NATS)
}

func intake(p consumer.Pauses) string {
	if !p.Paused {
		return "the workers take requests"
	}
	return "the intake of all workers is paused" + remaining(p.Remaining) + `; "worker resume" ends it`
}

// remaining says how long a pause lasts; one of years was asked to last until somebody resumes.
func remaining(d time.Duration) string {
	if d > 365*24*time.Hour {
		return ""
	}
	return " for another " + d.Round(time.Second).String()
}

func (c *cli) resumeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "resume", Short: "Let all workers take requests again", Example: "  worker resume", Args: cobra.NoArgs}
	c.onIntake(cmd, consumer.Resume)
	return cmd
}
