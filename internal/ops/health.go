package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// checkTimeout is how long a check may take. Probes give up after a few seconds themselves, and the
// answer must say which check was slow.
const checkTimeout = 2 * time.Second

// CheckFunc returns nil if all is well, else why not, in few words and without secrets. It is called
// at every probe, so it must be cheap, and it should heed its context, which outlives the probe's.
type CheckFunc func(ctx context.Context) error

// Health knows what the worker needs to consume. Add all checks before it is used; after that it is
// safe for concurrent use.
type Health struct {
	Paused func() bool // whether the intake is paused; nil means never

	checks []*check // in the order they were added
}

// check is one named check. Callers at the same time share one call, so that probes of a check that
// hangs don't pile up.
type check struct {
	name   string
	call   CheckFunc
	flight singleflight.Group
}

// CheckResult is how one check went.
type CheckResult struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"` // why it is not ok
}

// Report is the answer of /readyz.
type Report struct {
	Ready  bool          `json:"ready"`  // all checks are ok; a paused worker is ready
	Paused bool          `json:"paused"` // the intake is stopped on purpose
	Note   string        `json:"note,omitempty"`
	Checks []CheckResult `json:"checks"`
}

// pausedNote explains why a paused worker does nothing.
const pausedNote = "PAUSED: no requests are taken in; `worker resume` starts the intake again"

// Add adds a check under a name that is shown with its result.
func (h *Health) Add(name string, call CheckFunc) {
	h.checks = append(h.checks, &check{name: name, call: call})
}

// Report runs all checks at the same time and waits for them, for two seconds at most.
func (h *Health) Report(ctx context.Context) Report {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	report := Report{Ready: true, Checks: make([]CheckResult, len(h.checks))}
	var all sync.WaitGroup
	for i, c := range h.checks {
		all.Go(func() { report.Checks[i] = c.run(ctx) })
	}
	all.Wait()
	for _, c := range report.Checks {
		report.Ready = report.Ready && c.OK
	}
	if report.Paused = h.Paused != nil && h.Paused(); report.Paused {
		report.Note = pausedNote
	}
	return report
}

// run returns by the end of ctx even if the check does not. The call itself goes on without the caller,
// for others may wait for it.
func (c *check) run(ctx context.Context) CheckResult {
	done := c.flight.DoChan("", func() (_ any, err error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
		defer cancel()
		defer func() {
			if recover() != nil { // it must not end the process
				err = errors.New("the check panicked")
			}
		}()
		return nil, c.call(ctx)
	})
	var err error
	select {
	case result := <-done:
		err = result.Err
	case <-ctx.Done():
		err = fmt.Errorf("no answer: %w", ctx.Err())
	}
	if err != nil {
		return CheckResult{Name: c.name, Reason: shorten(err.Error(), maxReasonLen)}
	}
	return CheckResult{Name: c.name, OK: true}
}

const maxReasonLen = 400 // bytes

// shorten returns the text on one line, cut to at most limit bytes and an ellipsis.
func shorten(text string, limit int) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "\uFFFD")), " ")
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, "the answer cannot be written as JSON", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n'))
}
