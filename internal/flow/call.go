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
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v4"

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

// get asks the Flow Service once, and returns the answer if it is 200 and complete. What was asked for is named in
// an error. The address comes from a link of upstream's at times.
func (c *Client) get(ctx context.Context, via http.RoundTripper, url, what string, limit int64, as provision.Account, g grant, s scrubber) (answer, *provision.CallError) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := c.request(ctx, http.MethodGet, url, nil, as, g)
	if err != nil {
		return answer{}, unreadable(what, "its address is unusable")
	}
	a, err := exchange(via, req, limit)
	switch {
	case err != nil:
		return answer{}, unanswered(provision.TargetFlow, provision.VerdictUnknown, err, s)
	case a.status != http.StatusOK:
		return answer{}, judge(a, s)
	case a.bodyErr != nil:
		cerr := unanswered(provision.TargetFlow, provision.VerdictUnknown, a.bodyErr, s)
		cerr.Status = a.status
		return answer{}, cerr
	}
	return a, nil
}

// unreadable is the error of an answer that says success, but not what was asked for. That stays unknown.
func unreadable(what, why string) *provision.CallError {
	return &provision.CallError{
		Verdict: provision.VerdictUnknown, Target: provision.TargetFlow, Cause: provision.CauseStatus,
		Status: http.StatusOK, Message: "can't read " + what + ": " + why,
	}
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

// logCall logs a call's outcome. Bodies are never logged.
func (c *Client) logCall(ctx context.Context, op operation, as provision.Account, began time.Time, err *provision.CallError) {
	if !c.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{slog.String("tenant", as.Tenant)}
	if e := provision.PurposeOf(ctx); e != nil {
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

const (
	maxTries = 4                // of a call that may be repeated
	maxPause = 30 * time.Second // longest Retry-After that is waited for here
)

// waits are the bounds of the pauses between tries.
type waits struct{ initial, max time.Duration }

// repeat makes a call up to maxTries times: see repeatUpTo.
func (c *Client) repeat(ctx context.Context, call func() *provision.CallError) *provision.CallError {
	return c.repeatUpTo(ctx, maxTries, call)
}

// repeatUpTo makes a call until it succeeds, fails for good, was tried so many times, or ctx ends. It
// returns the last error of the call itself, also where ctx ended during a pause. A call whose
// context ended already is not made. A longer Retry-After wins over the backoff; one that can't be waited
// for here ends the tries, for the caller to wait.
func (c *Client) repeatUpTo(ctx context.Context, tries int, call func() *provision.CallError) *provision.CallError {
	if err := ctx.Err(); err != nil {
		return unanswered(provision.TargetFlow, provision.VerdictNotSent, err, scrubber{})
	}
	pauses := backoff.NewExponentialBackOff( // full jitter: anything from 0 to twice the mean
		backoff.WithInitialInterval(c.waits.initial), backoff.WithMultiplier(2), backoff.WithRandomizationFactor(1),
		backoff.WithMaxInterval(c.waits.max), backoff.WithMaxElapsedTime(0))
	for try := 1; ; try++ {
		err := call()
		if err == nil || try == tries || !repeatable(err) {
			return err
		}
		pause := max(pauses.NextBackOff(), err.RetryAfter)
		if end, ok := ctx.Deadline(); pause > maxPause || ok && time.Now().Add(pause).After(end) {
			return err
		}
		c.onRetry(err.Target, err.Cause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

func repeatable(err *provision.CallError) bool {
	if errors.Is(err.Err, context.Canceled) {
		return false
	}
	switch err.Verdict {
	case provision.VerdictUnknown, provision.VerdictNotSent, provision.VerdictThrottled:
		return true
	}
	return false
}

// scrubber takes the secrets of one call out of what upstream says about it. The zero value knows no
// secret but still recognizes what looks like a token. What it searches for is made when it is first needed, for
// most calls succeed.
type scrubber struct {
	secrets []provision.Sensitive
	make    func() scrub.Scrubber // nil in the zero value
}

func newScrubber(secrets ...provision.Sensitive) scrubber {
	return scrubber{secrets, sync.OnceValue(func() scrub.Scrubber {
		texts := make([]string, len(secrets))
		for i, v := range secrets {
			texts[i] = v.Reveal()
		}
		return scrub.New(texts...)
	})}
}

func (s scrubber) known() scrub.Scrubber {
	if s.make == nil {
		return scrub.Scrubber{}
	}
	return s.make()
}

// ids are what the Flow Service's own ids and etags look like: there is no room in them for a secret but as it is.
var ids = regexp.MustCompile(`^"?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"?$`)

// clean reports whether t holds none of the secrets.
func (s scrubber) clean(t string) bool {
	if !ids.MatchString(t) {
		return s.known().Clean(t)
	}
	return !slices.ContainsFunc(s.secrets, func(v provision.Sensitive) bool {
		return len(v.Reveal()) >= scrub.Shortest && strings.Contains(t, strings.ToLower(v.Reveal()))
	})
}

// scrubberOf returns a scrubber for a call on behalf of as, with the secrets that are in it beside the
// account's own. API key and client id are half a secret, and nobody needs to read them in an error; but a short
// one may be a word of every error.
func scrubberOf(cr provision.Credentials, more ...provision.Sensitive) scrubber {
	own := append(cr.Secrets(), cr.AccessToken)
	for _, id := range []string{cr.APIKey, cr.ClientID} {
		if len(id) >= scrub.Part {
			own = append(own, provision.NewSensitive(id))
		}
	}
	return newScrubber(append(more, own...)...)
}

// message returns t without secrets, on one line, with at most maxMessage characters.
func (s scrubber) message(t string) string { return s.known().Line(t, maxMessage) }

// id returns t if it is a plain identifier of at most limit bytes and holds no secret, else "".
func (s scrubber) id(t string, limit int) string {
	if len(t) > limit || !identifier.MatchString(t) || !s.clean(t) {
		return ""
	}
	return t
}
