package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

// replay is the retry command with its flags.
type replay struct {
	*cli
	tenant, source      string
	reasons             []string
	since               time.Duration
	limit               int
	rate                float64
	yes, dryRun, asJSON bool

	client *requester.Client
	failed int
}

func (c *cli) retryCommand() *cobra.Command {
	r := &replay{cli: c}
	cmd := &cobra.Command{
		Use:   "retry ID…|--reason R",
		Short: "Send failed requests again, from their dead letters",
		Long: `Send requests that failed again, named by their ids or by the reason of their failure. Mend what
made them fail first: a retry begins anew, but looks for its connection before its first POST.

What is about to be sent is shown, and sent after a confirmation. Refused are requests that have not
failed (any more), and those of whose message something had to be redacted.`,
		Example: "  worker retry 9f2c --tenant acme\n  worker retry --reason vault_unavailable,flow_unavailable --since 6h --rate 2 --yes",
	}
	r.addFlags(cmd.Flags())
	var selection requester.Selection
	check := func(ids []string) (err error) {
		selection, err = r.selection(ids)
		return err
	}
	c.withLedger(cmd, check, func(ctx context.Context, client *requester.Client, _ jetstream.JetStream, _ []string) error {
		r.client = client
		return r.run(ctx, selection)
	})
	return cmd
}

func (r *replay) addFlags(f *pflag.FlagSet) {
	f.StringVar(&r.tenant, "tenant", "", "only this tenant")
	f.StringVar(&r.source, "source", "", "only this source")
	f.StringSliceVar(&r.reasons, "reason", nil, "all requests whose latest failure has one of these reasons; may be given again")
	f.DurationVar(&r.since, "since", 0, "only those that failed at most so long ago")
	f.IntVar(&r.limit, "limit", 0, "send at most so many, those that failed first; 0 = all")
	f.Float64Var(&r.rate, "rate", 10, "how many to send in a second")
	f.BoolVar(&r.yes, "yes", false, "don't ask for confirmation")
	f.BoolVar(&r.dryRun, "dry-run", false, "show what would be sent, and send nothing")
	f.BoolVar(&r.asJSON, "json", false, "print JSON lines")
}

// Bounds of --rate: slower, the flag was meant in another unit; faster, nothing is bounded.
const (
	rateMin = 0.001
	rateMax = 1000
)

// selection checks the command line.
func (r *replay) selection(ids []string) (requester.Selection, error) {
	s := requester.Selection{Tenant: r.tenant, Source: r.source, IDs: ids, Limit: r.limit}
	switch err := checkNames(r.tenant, r.source, ids...); {
	case err != nil:
		return s, err
	case len(ids) == 0 && len(r.reasons) == 0:
		return s, usagef("give the ids of the requests, or --reason")
	case len(ids) > 0 && len(r.reasons) > 0:
		return s, usagef("give ids or --reason, not both")
	case r.since < 0:
		return s, usagef("--since is %v; want 0 or more", r.since)
	case r.limit < 0:
		return s, usagef("--limit is %d; want 0 or more", r.limit)
	case !(r.rate >= rateMin && r.rate <= rateMax): // NaN is neither
		return s, usagef("--rate is %v; want %v to %v", r.rate, rateMin, rateMax)
	case !r.yes && !r.dryRun && !isTerminal(r.stdin):
		return s, usagef("there is no terminal to ask for confirmation; give --yes, or --dry-run to see what would be sent")
	}
	if r.since > 0 {
		s.Since = time.Now().Add(-r.since)
	}
	for _, name := range r.reasons {
		if !slices.Contains(provision.Reasons, provision.Reason(name)) {
			return s, usagef("--reason is %q; want some of %v", name, provision.Reasons)
		}
		s.Reasons = append(s.Reasons, provision.Reason(name))
	}
	return s, nil
}

func (r *replay) run(ctx context.Context, s requester.Selection) error {
	found, err := r.client.Retries(ctx, s)
	switch {
	case errors.Is(err, requester.ErrAmbiguous):
		return r.candidates(found.List)
	case err != nil:
		return err
	}
	byReason := len(s.Reasons) > 0
	send, err := r.show(found, byReason)
	if err != nil {
		return err
	}
	if len(send) > 0 && !r.dryRun {
		if err := r.confirmed(ctx, len(send)); err != nil {
			return err
		}
		if err := r.sendAll(ctx, send); err != nil {
			return err
		}
	}
	return r.verdict()
}

// confirmed returns nil if so many requests are to be sent.
func (r *replay) confirmed(ctx context.Context, n int) error {
	if r.yes {
		return nil
	}
	yes, err := r.confirm(ctx, fmt.Sprintf("Send %s again? [y/N] ", requests(n)))
	if err == nil && !yes {
		err = errors.New("nothing was sent")
	}
	return err
}

func (r *replay) candidates(list []requester.Retry) error {
	rows := [][]string{{"TENANT", "SOURCE", "ID", "REASON"}}
	for _, one := range list {
		rows = append(rows, []string{one.Key.Tenant, one.Key.Source, one.Key.ID, string(one.Reason)})
	}
	if err := printRows(r.stderr, rows); err != nil {
		return err
	}
	return usagef("these requests share an id; say which by --tenant and --source")
}

// verdict says whether all that were meant could be sent; what could not be was printed already.
func (r *replay) verdict() error {
	if r.failed > 0 {
		return errReported
	}
	return nil
}

func requests(n int) string {
	if n == 1 {
		return "1 request"
	}
	return strconv.Itoa(n) + " requests"
}

// replayed is one line of retry's --json.
type replayed struct {
	Tenant   string           `json:"tenant"`
	Source   string           `json:"source"`
	ID       string           `json:"id"`
	Status   string           `json:"status"` // "sent", "would_send", "refused", "skipped" (it has not failed any more), "error"
	Reason   provision.Reason `json:"reason,omitempty"`
	FailedAt time.Time        `json:"failedAt,omitzero"`
	Retry    int              `json:"retry,omitempty"` // the number it is sent with
	Seq      uint64           `json:"seq,omitempty"`   // in the stream of requests
	Detail   string           `json:"detail,omitempty"`
}

func lineOf(one requester.Retry, status, detail string) replayed {
	return replayed{Tenant: one.Key.Tenant, Source: one.Key.Source, ID: one.Key.ID, Status: status,
		Reason: one.Reason, FailedAt: one.FailedAt, Retry: one.Number, Detail: detail}
}

// show prints what was found and returns what can be sent. What is over doesn't count as a failure
// where it was only met on the way, by its reason.
func (r *replay) show(found requester.Retries, byReason bool) (send []requester.Retry, err error) {
	rows := [][]string{{"TENANT", "ID", "REASON", "FAILED", "RETRY", "NOTE"}}
	for _, one := range found.List {
		status := "would_send"
		switch {
		case one.Obstacle == "":
			send = append(send, one)
		case one.Over && byReason:
			status = "skipped"
		default:
			status = "refused"
			r.failed++
		}
		note := cmp.Or(one.Obstacle, one.Note)
		if r.asJSON && (r.dryRun || one.Obstacle != "") {
			err = errors.Join(err, r.printJSON(lineOf(one, status, note)))
		}
		rows = append(rows, row(one, status, note))
	}
	if !r.asJSON && len(found.List) > 0 {
		err = errors.Join(err, r.printList(rows...))
	}
	r.remark(found)
	return send, err
}

func row(one requester.Retry, status, note string) []string {
	failed, number := "-", "-"
	if !one.FailedAt.IsZero() {
		failed = age(one.FailedAt) + " ago"
	}
	if one.Number > 0 {
		number = strconv.Itoa(one.Number)
	}
	if status != "would_send" {
		note = status + ": " + note
	}
	return []string{cmp.Or(one.Key.Tenant, "-"), one.Key.ID, cmp.Or(string(one.Reason), "-"), failed, number, note}
}

// remark says what the list doesn't show.
func (r *replay) remark(found requester.Retries) {
	if len(found.List) == 0 {
		fmt.Fprintln(r.stderr, "no failed request matches")
	}
	if found.More > 0 {
		fmt.Fprintf(r.stderr, "--limit leaves out %s\n", requests(found.More))
	}
	if found.Unnamed > 0 {
		fmt.Fprintf(r.stderr, "%d dead letters are of messages on no tenant's subject; these can't be retried\n", found.Unnamed)
	}
}

// hopeless is after how many failures in a row sendAll gives up: NATS is not to be had then.
const hopeless = 3

// sendAll sends at --rate. One that fails is reported and counted, and the next one is sent.
func (r *replay) sendAll(ctx context.Context, send []requester.Retry) error {
	tick := time.NewTicker(time.Duration(float64(time.Second) / r.rate))
	defer tick.Stop()
	inARow := 0
	for i, one := range send {
		if i > 0 {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted after %d of %s", i, requests(len(send)))
		}
		inARow++
		if seq, err := r.client.Requeue(ctx, one); err != nil {
			r.failed++
			r.printResult(one, "error", err.Error(), 0)
		} else {
			inARow = 0
			r.printResult(one, "sent", one.Note, seq)
		}
		if inARow == hopeless {
			return fmt.Errorf("gave up after %d failures in a row; %d of %s were not tried", inARow, len(send)-i-1, requests(len(send)))
		}
	}
	return nil
}

// printResult prints what became of one request; an error of printing it stops nothing.
func (r *replay) printResult(one requester.Retry, status, detail string, seq uint64) {
	line := lineOf(one, status, detail)
	line.Seq = seq
	switch {
	case r.asJSON:
		_ = r.printJSON(line)
	case status == "error":
		fmt.Fprintf(r.stderr, "%s  not sent: %s\n", plain(one.Key.ID), plain(detail))
	default:
		fmt.Fprintf(r.stdout, "%s  sent as retry %d; see: %s\n", plain(one.Key.ID), one.Number, story.CommandLine("status", one.Key, ""))
	}
}
