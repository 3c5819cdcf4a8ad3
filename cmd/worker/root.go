package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/provision"
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

// errReported means that the command failed and has told so already.
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
	root.AddCommand(c.commands()...)
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

// logger returns a logger to stderr.
func (c *cli) logger(s settings.Settings) *slog.Logger {
	opts := &slog.HandlerOptions{Level: s.LogLevel}
	if s.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(c.stderr, opts))
	}
	return slog.New(slog.NewJSONHandler(c.stderr, opts))
}

// colours reports whether stdout takes colours: a terminal, unless NO_COLOR is set.
func (c *cli) colours() bool {
	for _, kv := range c.environ {
		if name, value, _ := strings.Cut(kv, "="); name == "NO_COLOR" && value != "" || kv == "TERM=dumb" {
			return false
		}
	}
	return isTerminal(c.stdout)
}

// isTerminal reports whether a standard stream is one.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// printJSON writes v on one line.
func (c *cli) printJSON(v any) error {
	enc := json.NewEncoder(c.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printTable writes rows aligned in columns.
func (c *cli) printTable(rows ...[]string) error { return printRows(c.stdout, rows) }

// printList is printTable, but on a terminal long values are shortened.
func (c *cli) printList(rows ...[]string) error {
	if isTerminal(c.stdout) {
		rows = fit(rows)
	}
	return c.printTable(rows...)
}

func printRows(to io.Writer, rows [][]string) error {
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = plain(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // a buffer takes all
	for line := range strings.Lines(table.String()) {
		if _, err := io.WriteString(to, strings.TrimRight(line, " \n")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

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

// checkNames checks what somebody typed to name requests. An empty tenant or source means any; an empty id would
// mean every request there is, which nobody says in that way.
func checkNames(tenant, source string, ids ...string) error {
	switch {
	case tenant != "" && !provision.ValidTenant(tenant):
		return usagef("--tenant is %.80q; want a tenant's name: lower-case letters, digits, \"_\" and \"-\", at most 63", tenant)
	case len(source) > provision.MaxKeyPart:
		return usagef("--source has %d bytes; want 1 to %d bytes", len(source), provision.MaxKeyPart)
	}
	for _, id := range ids {
		switch {
		case id == "":
			return usagef("the id is empty; want 1 to %d bytes", provision.MaxKeyPart)
		case len(id) > provision.MaxKeyPart:
			return usagef("the id has %d bytes; want 1 to %d bytes", len(id), provision.MaxKeyPart)
		}
	}
	return nil
}

// plain returns text that others wrote as a terminal may show it, on one line.
func plain(text string) string { return story.Printable(text) }

// columnMax is how many characters of a value a list shows on a terminal.
const columnMax = 40

// fit returns rows with all columns but the last one shortened to columnMax characters.
func fit(rows [][]string) [][]string {
	out := make([][]string, len(rows))
	for i, row := range rows {
		for j, cell := range row {
			if runes := []rune(plain(cell)); j < len(row)-1 && len(runes) > columnMax {
				cell = string(runes[:columnMax-1]) + "…"
			}
			out[i] = append(out[i], cell)
		}
	}
	return out
}
