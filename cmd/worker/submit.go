package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

// submission is the submit command with its flags.
type submission struct {
	*cli
	tenant, id, source   string
	wait, dryRun, asJSON bool
	timeout              time.Duration

	messages []requester.Message
	failed   int
}

func (c *cli) submitCommand() *cobra.Command {
	s := &submission{cli: c}
	cmd := &cobra.Command{
		Use:   "submit FILE…|-",
		Short: "Publish requests, and wait for their results if asked to",
		Long: `Publish connection requests. A file holds one or several of them, as JSON values one after
another or in an array, in UTF-8; "-" is the standard input. Each is either the data of a request,
which gets an id of its own, or a whole CloudEvent.

A request whose accessToken is not a reference is not sent, for the stream would keep the secret.`,
		Example: "  worker submit --tenant acme --wait request.json\n  worker submit --tenant acme --dry-run request.json",
		Args:    cobra.MinimumNArgs(1),
	}
	s.addFlags(cmd.Flags())
	c.withSettings(cmd, func(ctx context.Context, set settings.Set, files []string) error {
		if err := s.read(files, set.Settings); err != nil {
			return err
		}
		if s.dryRun {
			return s.validate()
		}
		return s.submit(ctx, set.Settings)
	}, settings.NATS, settings.Requests, settings.Secrets)
	return cmd
}

func (s *submission) addFlags(f *pflag.FlagSet) {
	f.StringVar(&s.tenant, "tenant", "", "tenant to publish for (required)")
	f.StringVar(&s.id, "id", "", "id of a single request (default: a random UUID)")
	f.StringVar(&s.source, "source", "", "source of the requests (default "+requester.DefaultSource+")")
	f.BoolVar(&s.wait, "wait", false, "show progress, print the results; exit 1 if any failed")
	f.DurationVar(&s.timeout, "timeout", 0, "how long --wait waits; 0 = as long as it takes")
	f.BoolVar(&s.dryRun, "dry-run", false, "validate only, and publish nothing")
	f.BoolVar(&s.asJSON, "json", false, "print JSON lines")
}

// read makes requests of all files before the first is published.
func (s *submission) read(files []string, set settings.Settings) error {
	if !provision.ValidTenant(s.tenant) {
		return usagef("--tenant is %q; want a tenant's name: lower-case letters, digits, \"_\" and \"-\", at most 63", s.tenant)
	}
	if s.timeout < 0 {
		return usagef("--timeout is %v; want 0 or more", s.timeout)
	}
	opts := requester.Options{Tenant: s.tenant, ID: s.id, Source: s.source, Decoder: &event.Decoder{
		AllowedDomains: set.AllowedDomains, Secrets: provision.Layout{Mount: set.VaultKVMount, Prefix: set.VaultTenantPrefix},
	}}
	if text := opts.Unreadable(); text != "" {
		return usagef("%s", text)
	}
	if s.id != "" && len(files) > 1 {
		return usagef("--id names one request only, but there are %d files", len(files))
	}
	for _, file := range files {
		messages, err := s.parse(file, opts)
		if err != nil {
			return usagef("%s: %v", nameOf(file), err)
		}
		s.messages = append(s.messages, messages...)
	}
	return nil
}

func (s *submission) parse(file string, opts requester.Options) ([]requester.Message, error) {
	if file == "-" {
		return requester.Parse(s.stdin, opts)
	}
	f, err := os.Open(file)
	if err != nil {
		if perr := (*os.PathError)(nil); errors.As(err, &perr) {
			err = perr.Err
		}
		return nil, err
	}
	defer f.Close()
	return requester.Parse(io.Reader(f), opts)
}

func nameOf(file string) string {
	if file == "-" {
		return "standard input"
	}
	return file
}

// verdict is one line of a dry run with --json.
type verdict struct {
	ID    string             `json:"id"`
	Name  string             `json:"name,omitempty"`
	Valid bool               `json:"valid"`
	Error *provision.Failure `json:"error,omitempty"`
}

func (s *submission) validate() error {
	for _, m := range s.messages {
		if m.Invalid != nil {
			s.failed++
		}
		var err error
		switch {
		case s.asJSON:
			err = s.printJSON(verdict{m.Key.ID, m.Name, m.Invalid == nil, m.Invalid})
		case m.Invalid != nil:
			_, err = fmt.Fprintf(s.stdout, "%s  invalid  %s\n", plain(m.Key.ID), plain(m.Invalid.Error()))
		default:
			_, err = fmt.Fprintf(s.stdout, "%s  valid  %s\n", plain(m.Key.ID), plain(m.Name))
		}
		if err != nil {
			return err
		}
	}
	return s.verdict()
}

// verdict says whether all went well; what did not was printed already.
func (s *submission) verdict() error {
	if s.failed > 0 {
		return errReported
	}
	return nil
}

func (s *submission) submit(ctx context.Context, set settings.Settings) error {
	for _, m := range s.messages {
		if m.Invalid != nil && m.Invalid.Reason == provision.ReasonPlaintextSecret {
			return fmt.Errorf("request %s is not sent, nor any other: %w", m.Key.ID, m.Invalid)
		}
		if m.Unnamed {
			return fmt.Errorf("a request whose id or source can't be read is not sent, nor any other: %w", m.Invalid)
		}
	}
	subject := event.RequestSubject(s.tenant)
	ctx, quiet := endsIfRefused(ctx, "this NATS user may not submit for tenant "+s.tenant+"; let it publish on "+subject,
		func(text string) bool { return strings.Contains(text, `"`+subject+`"`) }) // else the requester reports it
	js, err := connectJetStream(set, "submit", quiet)
	if err != nil {
		return err
	}
	defer js.Conn().Close()
	client, err := requester.NewSubmitter(ctx, js)
	if err != nil {
		return err
	}
	if s.wait {
		err = s.submitAndWait(ctx, client)
	} else {
		err = client.SubmitOnly(ctx, s.messages, s.progress())
	}
	return orRefusal(ctx, err)
}

var errTimeout = errors.New(`not all results are there yet; the requests go on: see "worker status ID"`)

func (s *submission) submitAndWait(ctx context.Context, client *requester.Client) error {
	if s.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.timeout, errTimeout)
		defer cancel()
	}
	err := client.SubmitAndWait(ctx, s.tenant, s.messages, s.progress())
	if errors.Is(err, context.Canceled) {
		return errors.New(`interrupted; the requests go on: see "worker status ID"`)
	}
	if err != nil {
		return err
	}
	return s.verdict()
}

// progress prints to stdout what the command is asked for, and to stderr what happens meanwhile.
func (s *submission) progress() requester.Progress {
	p := requester.Progress{Published: s.published, Result: s.result}
	if !s.asJSON {
		p.News = func(m requester.Message, l story.Line) {
			fmt.Fprintf(s.stderr, "%s  %s\n", plain(m.Key.ID), plain(l.Text))
		}
	}
	return p
}

// receipt is one line of --json without --wait.
type receipt struct {
	ID     string `json:"id"`
	Source string `json:"source"`
	Tenant string `json:"tenant"`
	Seq    uint64 `json:"seq"` // in the stream of requests
}

func (s *submission) published(m requester.Message, seq uint64) {
	switch {
	case s.wait && !s.asJSON:
		fmt.Fprintf(s.stderr, "%s  published for %s\n", plain(m.Key.ID), s.tenant)
	case s.wait:
	case s.asJSON:
		_ = s.printJSON(receipt{m.Key.ID, m.Key.Source, m.Key.Tenant, seq})
	default:
		fmt.Fprintf(s.stdout, "%s  published for %s; see: %s\n", plain(m.Key.ID), s.tenant, story.CommandLine("status", m.Key, ""))
	}
}

// outcome is one line of --json with --wait: the data of the result event and its outcome.
type outcome struct {
	Outcome string `json:"outcome"`
	provision.Result
}

func (s *submission) result(m requester.Message, r provision.Result) {
	if r.Error != nil {
		s.failed++
	}
	if s.asJSON {
		_ = s.printJSON(outcome{r.Outcome, r})
		return
	}
	fmt.Fprintf(s.stdout, "%s  %s\n", plain(m.Key.ID), plain(story.Ending(r).Text))
}
