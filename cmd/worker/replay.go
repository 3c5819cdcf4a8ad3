package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

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

// sendAll sends at --rate. One that fails is told and counted, and the next one's turn.
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
			r.tell(one, "error", err.Error(), 0)
		} else {
			inARow = 0
			r.tell(one, "sent", one.Note, seq)
		}
		if inARow == hopeless {
			return fmt.Errorf("gave up after %d failures in a row; %d of %s were not tried", inARow, len(send)-i-1, requests(len(send)))
		}
	}
	return nil
}

// tell prints what became of one request; where nobody reads, there is nobody to tell.
func (r *replay) tell(one requester.Retry, status, detail string, seq uint64) {
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
