package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/story"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // the work failed
	exitUsage  = 2 // wrong use or settings
)

// cli is what the commands know of the world outside.
type cli struct {
	environ []string
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
}

// run runs one command line and returns the exit code. When ctx ends, commands that serve drain and
// succeed; the others fail.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &cli{environ: environ, stdin: stdin, stdout: stdout, stderr: stderr}
	root := c.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	return c.report(err)
}

// report prints an error for people and returns its exit code. What did not come out of a command's
// own work is wrong use.
func (c *cli) report(err error) int {
	if errors.Is(err, errReported) {
		return exitFailed
	}
	fmt.Fprintln(c.stderr, "worker: "+story.PrintableLines(err.Error()))
	var failed *workError
	var invalid *settings.Invalid
	if errors.As(err, &failed) && !errors.As(err, &invalid) && !errors.As(err, new(*usageError)) {
		return exitFailed
	}
	if errors.As(err, &invalid) {
		fmt.Fprintln(c.stderr, `See "worker config" for the settings in effect and "worker run --help" for all of them.`)
	}
	return exitUsage
}

// errReported means that the command failed and has said so already.
var errReported = errors.New("reported")

// workError is an error of a command's work, as opposed to one of its command line.
type workError struct{ err error }

// Error implements error.
func (e *workError) Error() string { return e.err.Error() }

// Unwrap returns the work's own error.
func (e *workError) Unwrap() error { return e.err }

// usageError is wrong use that only the command itself can see.
type usageError struct{ text string }

// Error implements error.
func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "worker",
		Short: "Make Databricks connections at Adobe Experience Platform, exactly once per request",
		Long: `worker makes Databricks base connections at Adobe Experience Platform's Flow Service.
Requests come from NATS JetStream, secrets from Vault; one request makes at most one
connection and exactly one final outcome, whatever crashes.

New here? Run "worker demo": it needs nothing installed.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(c.stdin)
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(
		c.runCommand(), c.demoCommand(), c.initCommand(), c.submitCommand(), c.statusCommand(), c.listCommand(),
		c.retryCommand(), c.resolveCommand(), c.pauseCommand(), c.resumeCommand(), c.doctorCommand(), c.emulatorCommand(),
		c.configCommand(), c.versionCommand(), c.healthcheckCommand(),
	)
	return root
}

// loader returns the settings of a command. Warnings go to the log or to stderr, as told.
type loader func() (settings.Set, error)

// settingsOf adds the groups' flags to cmd and returns what loads them.
func (c *cli) settingsOf(cmd *cobra.Command, groups ...settings.Group) loader {
	given := settings.AddFlags(cmd.Flags(), groups...)
	return func() (settings.Set, error) {
		return settings.Load(settings.Source{Environ: c.environ, Flags: given(), Terminal: isTerminal(c.stderr)}, groups...)
	}
}

// work makes f a command's RunE; its errors mean that the work failed.
func work(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := f(cmd.Context(), args); err != nil {
			return &workError{err}
		}
		return nil
	}
}

// withSettings has cmd do f with the groups' settings, which must be right. It is the way of most commands.
func (c *cli) withSettings(cmd *cobra.Command, f func(ctx context.Context, set settings.Set, args []string) error, groups ...settings.Group) {
	load := c.settingsOf(cmd, groups...)
	cmd.RunE = work(func(ctx context.Context, args []string) error {
		set, err := load()
		if err != nil {
			return err
		}
		return f(ctx, set, args)
	})
}

// withLedger has cmd do f with a client that reads the ledger, once check finds its command line right.
func (c *cli) withLedger(cmd *cobra.Command, check func(args []string) error, f func(ctx context.Context, client *requester.Client, js jetstream.JetStream, args []string) error) {
	c.withSettings(cmd, func(ctx context.Context, set settings.Set, args []string) error {
		if err := check(args); err != nil {
			return err
		}
		refusing, refusal := endsIfRefused(ctx, operatorsOnly, anything)
		js, err := connectJetStream(set.Settings, cmd.Name(), refusal)
		if err != nil {
			return err
		}
		defer js.Conn().Close()
		client, err := requester.New(refusing, js)
		if err != nil {
			return orRefusal(refusing, err)
		}
		return f(ctx, client, js, args)
	}, settings.NATS)
}

// logger returns a logger to stderr.
func (c *cli) logger(s settings.Settings) *slog.Logger {
	opts := &slog.HandlerOptions{Level: s.LogLevel}
	if s.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(c.stderr, opts))
	}
	return slog.New(slog.NewJSONHandler(c.stderr, opts))
}

// wanted says what a flag of a type wants, in words.
var wanted = map[string]string{ // :: type as pflag names it → words
	"int": "a whole number", "float64": "a number", "duration": "a duration, as 90s, 10m or 24h", "bool": "true or false",
}

// flagError says of a flag's value that can't be read what would be right, not what a parser says.
func flagError(_ *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	want, known := wanted[invalid.GetFlag().Value.Type()]
	if !known {
		return err
	}
	return usagef("--%s is %.80q; want %s", invalid.GetFlag().Name, invalid.GetValue(), want)
}
