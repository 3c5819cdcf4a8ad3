package ops

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// DefaultCheckTimeout is how long a check may take where Health has no Timeout. Probes give up after
// a few seconds themselves, and the answer must say which check was slow.
const DefaultCheckTimeout = 2 * time.Second

// CheckFunc returns nil if all is well, else why not, in few words and without secrets. It is called
// at every probe, so it must be cheap, and it should heed its context, which outlives the probe's.
type CheckFunc func(ctx context.Context) error

// Health knows what the worker needs to consume. Add all checks before it is used; after that it is
// safe for concurrent use.
type Health struct {
	Paused  func() bool   // whether the intake is paused; nil means never
	Timeout time.Duration // of one check; DefaultCheckTimeout if zero

	checks []*check // in the order they were added
}

// check is one named check. At most one call of it is under way at a time, which all who ask meanwhile
// share, so that probes of a check that hangs don't pile up.
type check struct {
	name string
	call CheckFunc

	mu  sync.Mutex
	now *flight // the call that is under way, nil if none is; guarded by mu
}

// flight is one call of a check.
type flight struct {
	done chan struct{} // closed when err is set
	err  error
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

// pausedNote says what a paused worker is to whoever looks for why nothing happens.
const pausedNote = "PAUSED: no requests are taken in; `worker resume` starts the intake again"

// Add adds a check under a name that is shown with its result.
func (h *Health) Add(name string, call CheckFunc) {
	h.checks = append(h.checks, &check{name: name, call: call})
}

// Report runs all checks at the same time and waits for them, for the timeout at most. A check that is
// under way for another caller is not called again: its answer counts for both.
func (h *Health) Report(ctx context.Context) Report {
	timeout := cmp.Or(h.Timeout, DefaultCheckTimeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	report := Report{Ready: true, Checks: make([]CheckResult, len(h.checks))}
	var all sync.WaitGroup
	for i, c := range h.checks {
		all.Go(func() { report.Checks[i] = c.run(ctx, timeout) })
	}
	all.Wait()
	for _, each := range report.Checks {
		report.Ready = report.Ready && each.OK
	}
	if report.Paused = h.Paused != nil && h.Paused(); report.Paused {
		report.Note = pausedNote
	}
	return report
}

// run returns by the end of ctx even if the check does not.
func (c *check) run(ctx context.Context, timeout time.Duration) CheckResult {
	f := c.join(ctx, timeout)
	select {
	case <-f.done:
		return c.result(f.err)
	case <-ctx.Done():
		return c.result(fmt.Errorf("no answer: %w", ctx.Err()))
	}
}

// join returns the call that is under way, or a new one. The caller's end is not the call's: others may
// wait for it, too.
func (c *check) join(ctx context.Context, timeout time.Duration) *flight {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now != nil {
		return c.now
	}
	f := &flight{done: make(chan struct{})}
	c.now = f
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		f.err = c.safely(ctx)
		c.mu.Lock()
		c.now = nil // before anybody hears of it: who asks again gets a new answer
		c.mu.Unlock()
		close(f.done)
	}()
	return f
}

// safely keeps a panic of one check from ending the process.
func (c *check) safely(ctx context.Context) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("the check panicked")
		}
	}()
	return c.call(ctx)
}

func (c *check) result(err error) CheckResult {
	if err == nil {
		return CheckResult{Name: c.name, OK: true}
	}
	return CheckResult{Name: c.name, Reason: shorten(err.Error(), maxReasonLen)}
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

// live answers /healthz: a process that can answer lives.
func live(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

// ready answers /readyz.
func (h *Health) ready(w http.ResponseWriter, r *http.Request) {
	report := h.Report(r.Context())
	code := http.StatusOK
	if !report.Ready {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, report)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, "the answer cannot be written as JSON", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n'))
}
