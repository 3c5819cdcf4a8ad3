package flow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

// Limits of what is read of an answer, in bytes.
const (
	maxBody = 1 << 20 // of everything but listings
	maxList = 8 << 20 // of one page of a listing
)

// answer is an HTTP answer that was read to its end, or as far as it came.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	bodyErr error // why body is not complete
}

var errTooLong = errors.New("the answer is too long")

// exchange sends req and reads the answer. It fails only if there is no status; it follows no redirect.
func exchange(via http.RoundTripper, req *http.Request, limit int64) (answer, error) {
	res, err := via.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }() // nothing hangs on it: the body is read, or useless
	if res.StatusCode == http.StatusSwitchingProtocols {
		// Its body is the connection, and reading that may hang for ever.
		return answer{status: res.StatusCode, header: res.Header}, nil
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err == nil && int64(len(body)) > limit {
		body, err = body[:limit], errTooLong
	}
	return answer{status: res.StatusCode, header: res.Header, body: body, bodyErr: err}, nil
}

// request returns a request with the headers that every call to the Flow Service needs. A call
// without x-sandbox-name may act on "prod", so there is none: see checkAccount.
func (c *Client) request(ctx context.Context, method, url string, body []byte, as provision.Account, g grant) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.GetBody = nil // so that net/http can't send the body a second time
	h := req.Header
	h.Set("Authorization", "Bearer "+g.token.Reveal())
	h.Set("X-Api-Key", g.apiKey)
	h.Set("X-Gw-Ims-Org-Id", as.Credentials.OrgID)
	h.Set("X-Sandbox-Name", as.Sandbox)
	h.Set("Accept", "application/json")
	h.Set("User-Agent", c.userAgent)
	as.Trace.Inject(h.Set)
	return req, nil
}

// headerSafe reports whether s is printable ASCII, so that it can be sent as a header's value.
func headerSafe(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// unanswered is the error of a call that got no status.
func unanswered(target provision.Target, v provision.Verdict, err error, s scrubber) *provision.CallError {
	return &provision.CallError{Verdict: v, Target: target, Cause: causeOf(err), Err: newNetError(err, s)}
}

func causeOf(err error) provision.Cause {
	var ne net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errTooLate) || errors.As(err, &ne) && ne.Timeout() {
		return provision.CauseTimeout
	}
	return provision.CauseNetwork
}

// netError is a network error without the secrets of its call, and without what net/http quotes in it
// of a malformed answer, which may echo anything.
type netError struct {
	text string
	kind error // what errors.Is may find: a sentinel, never an error with a text of upstream's
}

func newNetError(err error, s scrubber) *netError {
	e := &netError{text: s.message(scrub.Unquoted(err))}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		e.kind = errno
	}
	for _, kind := range []error{context.DeadlineExceeded, context.Canceled, io.ErrUnexpectedEOF, io.EOF, errTooLate, errSealed, errTooLong} {
		if errors.Is(err, kind) {
			e.kind = kind
			break
		}
	}
	return e
}

// Error returns what the network said.
func (e *netError) Error() string { return e.text }

// Unwrap returns the kind of the error, nil if it has no name.
func (e *netError) Unwrap() error { return e.kind }

// checkAccount refuses what can't be sent, in words that say what to change. Nothing is sent then.
func checkAccount(as provision.Account) *provision.CallError {
	type field struct{ name, value string }
	cr := as.Credentials
	fields := []field{{"orgId", cr.OrgID}, {"clientId", cr.ClientID}}
	for _, secret := range cr.Secrets() {
		fields = append(fields, field{"clientSecret", secret.Reveal()})
	}
	if static(cr) {
		fields = []field{{"orgId", cr.OrgID}, {"apiKey", cr.APIKey}, {"accessToken", cr.AccessToken.Reveal()}}
	}
	for _, r := range fields {
		if problem := unsendable(r.value); problem != "" {
			return refuse(provision.VerdictDenied, "field %s of the tenant's adobe secret %s; write it again", r.name, problem)
		}
	}
	if problem := unsendable(as.Sandbox); problem != "" {
		return refuse(provision.VerdictRejected, "sandbox %s", problem)
	}
	return nil
}

// unsendable says why s can't be a header's value, "" if it can.
func unsendable(s string) string {
	switch {
	case s == "":
		return "is empty"
	case !headerSafe(s) || strings.Contains(s, " "):
		return "holds blanks, line breaks or other characters that can't be sent"
	}
	return ""
}

func refuse(v provision.Verdict, format string, args ...any) *provision.CallError {
	return &provision.CallError{Verdict: v, Target: provision.TargetFlow, Message: fmt.Sprintf(format, args...)}
}

// told logs a call's outcome. Bodies are never logged.
func (c *Client) told(ctx context.Context, op operation, as provision.Account, began time.Time, err *provision.CallError) {
	if !c.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{slog.String("tenant", as.Tenant)}
	if e := provision.ErrandOf(ctx); e != nil {
		attrs = e.Attrs()
	}
	attrs = append(attrs, slog.String("operation", string(op)), slog.String("sandbox", as.Sandbox), slog.Duration("elapsed", time.Since(began)))
	if err == nil {
		c.log.LogAttrs(ctx, slog.LevelDebug, "flow: call succeeded", attrs...)
		return
	}
	c.log.LogAttrs(ctx, slog.LevelDebug, "flow: call failed", append(attrs, slog.String("verdict", err.Verdict.String()), slog.String("target", string(err.Target)), slog.Int("status", err.Status),
		slog.String("code", err.Code), slog.String("upstream_request_id", err.RequestID), slog.String("error", err.Error()))...)
}
