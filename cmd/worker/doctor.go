package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/doctor"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func (c *cli) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check all that a worker needs, one line each, with the remedy",
		Long: `Check NATS, its objects and this user's rights, the intake, Vault and its login, the tenants' Adobe
secrets, the Flow Service, clocks, and whether anything is stuck. Nothing is changed anywhere.

Give it the worker's own settings; without those of Vault, all else is looked at. With --tenant, that
tenant's credentials are tried at Adobe's token service, else only whether that answers; with --sandbox
too, its connections there are listed. Exits 1 if any check fails.`,
		Example: "  worker doctor\n  worker doctor --tenant acme --sandbox prod",
		Args:    cobra.NoArgs,
	}
	cfg := doctor.Config{}
	f := cmd.Flags()
	f.StringVar(&cfg.Tenant, "tenant", "", "try this tenant's credentials (default: read those of all tenants seen)")
	f.StringVar(&cfg.Sandbox, "sandbox", "", "list connections in this sandbox of the tenant's")
	asJSON := f.Bool("json", false, "print JSON lines")
	load := c.settingsOf(cmd, settings.NATS, settings.Vault, settings.Secrets, settings.Flow, settings.Streams)
	cmd.RunE = work(func(ctx context.Context, _ []string) error {
		set, err := load()
		if cfg.NoVault = onlyVault(err); cfg.NoVault != "" {
			err = nil // the rest can be looked at
		}
		switch {
		case err != nil:
			return err
		case cfg.Tenant != "" && !provision.ValidTenant(cfg.Tenant):
			return usagef("--tenant is %q; want a tenant's name: lower-case letters, digits, \"_\" and \"-\", at most 63", cfg.Tenant)
		case cfg.Sandbox != "" && cfg.Tenant == "":
			return usagef("--sandbox needs --tenant: whose sandbox is it?")
		}
		c.warn(set)
		cfg.Settings = set.Settings
		return c.examine(ctx, cfg, *asJSON)
	})
	return cmd
}

// onlyVault says which settings are missing, if nothing else is wrong and all of them are Vault's: as a rule
// an operator has none of these.
func onlyVault(err error) string {
	invalid := (*settings.Invalid)(nil)
	if !errors.As(err, &invalid) || !invalid.OnlyMissing() {
		return ""
	}
	var texts []string
	for _, p := range invalid.Problems {
		if !strings.HasPrefix(p.Name, "VAULT_") {
			return ""
		}
		texts = append(texts, p.Name+" "+p.Text)
	}
	return strings.Join(texts, "; ")
}

// examine prints what the doctor finds.
func (c *cli) examine(ctx context.Context, cfg doctor.Config, asJSON bool) error {
	failed := false
	var broken error
	cfg.Connect = func() (*nats.Conn, error) {
		quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}) // what is refused is a finding
		return connect(cfg.Settings, "doctor", quiet)
	}
	cfg.Report = func(f doctor.Finding) {
		failed = failed || f.Status == doctor.Fail
		if asJSON {
			broken = errors.Join(broken, c.printJSON(f))
		} else {
			broken = errors.Join(broken, c.printFinding(f))
		}
	}
	doctor.Run(ctx, cfg)
	switch {
	case broken != nil:
		return broken
	case ctx.Err() != nil:
		return errors.New("interrupted; not all was looked at")
	case failed:
		return errReported
	}
	return nil
}

// printFinding prints one line. What is wrong stands out without colours, too.
func (c *cli) printFinding(f doctor.Finding) error {
	status := map[doctor.Status]string{doctor.OK: "ok", doctor.Warn: "warn", doctor.Fail: "FAIL"}[f.Status]
	line := fmt.Sprintf("%-4s  %-15s  %s", status, f.Check, f.What)
	if f.Remedy != "" {
		line += " → " + f.Remedy
	}
	_, err := fmt.Fprintln(c.stdout, plain(line))
	return err
}
