package flow

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Lifetimes of tokens.
const (
	maxTokenTime     = 30 * time.Second // for one call to IMS, where Config.Timeout is longer
	maxTokenLifetime = 24 * time.Hour   // what IMS gives; its older exchange said milliseconds for seconds
	defaultLifetime  = 5 * time.Minute  // where IMS does not say
)

// ims is Adobe's token service.
type ims struct {
	url     string
	timeout time.Duration // of one call
	via     http.RoundTripper
}

// bearer is a token of IMS.
type bearer struct {
	token     provision.Sensitive
	secret    int // which of the client secrets it was got with
	got       time.Time
	expiresAt time.Time
}

// token asks IMS once for a token, by the client credentials grant. The secret is sent in the body.
func (i *ims) token(ctx context.Context, cr provision.Credentials) (bearer, *provision.CallError) {
	s := scrubberOf(cr)
	ctx, cancel := context.WithTimeout(ctx, i.timeout)
	defer cancel()
	client := &http.Client{Timeout: i.timeout, Transport: imsTransport{i.via}, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the secret goes nowhere else
	}}
	cfg := clientcredentials.Config{
		ClientID: cr.ClientID, ClientSecret: cr.ClientSecret.Reveal(), TokenURL: i.url,
		AuthStyle: oauth2.AuthStyleInParams,
	}
	scopes := strings.FieldsFunc(cr.Scopes, func(r rune) bool { return r == ',' || r == ' ' })
	if len(scopes) > 0 {
		cfg.Scopes = []string{strings.Join(scopes, ",")} // one string: the library would join with blanks
	}
	got := time.Now()
	tok, err := cfg.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		return bearer{}, tokenError(err, s)
	}
	if unsendable(tok.AccessToken) != "" {
		return bearer{}, &provision.CallError{
			Verdict: provision.VerdictNotSent, Target: provision.TargetIMS, Cause: provision.CauseStatus,
			Message: "IMS gave a token that can't be sent as a header",
		}
	}
	return bearer{token: provision.NewSensitive(tok.AccessToken), got: got, expiresAt: expiry(got, tok.Expiry)}, nil
}

func expiry(got, said time.Time) time.Time {
	if said.IsZero() {
		return got.Add(defaultLifetime)
	}
	return earlier(said, got.Add(maxTokenLifetime))
}

// passingErrors are what IMS, as any token service, says of trouble of its own.
var passingErrors = []string{"server_error", "temporarily_unavailable", "slow_down"}

// refusals are the errors by which a token service refuses a request (RFC 6749), and those of Adobe that are like them.
var refusals = regexp.MustCompile(`^((invalid|unsupported)_[a-z0-9_]+|unauthorized_client|access_denied|insufficient_scope)$`)

// imsRefusal reports whether a body is a refusal of IMS, or of Adobe's gateway before it. Proxies say "error", too,
// with a status in words.
func imsRefusal(body []byte) bool {
	o, ok := readObject(body)
	var b problemBody
	if !ok || json.Unmarshal(body, &b) != nil {
		return false
	}
	return refusals.MatchString(o.text("error")) || o["error_code"] != nil && gatewayCode.MatchString(string(b.ErrorCode))
}

// tokenError turns a failure of IMS into an error. IMS refuses credentials with 400, 401 or 403 and says
// which error it is; that made nothing and can pass, as where a secret is being rotated. Everything else
// may go away: it is trouble of IMS, or not IMS's answer at all. Its own text is not taken over, for it may
// quote the answer.
func tokenError(err error, s scrubber) *provision.CallError {
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) {
		return unanswered(provision.TargetIMS, provision.VerdictNotSent, err, s)
	}
	status, p := refused.Response.StatusCode, readProblem(refused.Response.Header, refused.Body, s)
	e := &provision.CallError{
		Verdict: provision.VerdictNotSent, Target: provision.TargetIMS, Cause: provision.CauseStatus, Status: status,
		Code: p.code, Message: advise(status, p), RequestID: p.requestID, RetryAfter: p.retryAfter,
	}
	switch status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		said := strings.TrimRight(cmp.Or(p.message, http.StatusText(status)), ". ")
		_, known := nameRemedies[p.code]
		believed := imsRefusal(refused.Body)
		if believed {
			e.Verdict, e.Cause, e.Passing = provision.VerdictDenied, "", true
		}
		switch {
		case believed && !known:
			e.Message = said + "; " + remedyClient
		case !believed && !slices.Contains(passingErrors, p.code):
			e.Message = said + "; this is no answer of IMS itself: look for what stands in its way, such as a proxy or a gateway"
		}
	case http.StatusTooManyRequests:
		e.Cause = provision.CauseThrottled
	}
	return e
}

// fetchToken asks IMS for a token, again and again within reason, unless the gate keeps callers from
// IMS. It tries each client secret, for one that IMS refuses may be withdrawn already, or not known there
// yet. If all are refused, it is as for a single one.
func (c *Client) fetchToken(ctx context.Context, cr provision.Credentials) (b bearer, err *provision.CallError) {
	done, wait := c.gate.Allow(provision.TargetIMS, cr.OrgID)
	if done == nil {
		return b, &provision.CallError{
			Verdict: provision.VerdictNotSent, Target: provision.TargetIMS, Cause: provision.CauseNetwork,
			RetryAfter: wait, Err: provision.ErrCircuitOpen,
		}
	}
	end := provision.CallVoid // of a call that panics
	defer func() { done(end) }()
	for n := range cr.Secrets() {
		err = c.repeat(ctx, func() (cerr *provision.CallError) {
			b, cerr = c.ims.token(ctx, from(cr, n))
			return cerr
		})
		if b.secret = n; err == nil || !secretRefused(err) {
			break
		}
	}
	switch {
	case err == nil, err.Verdict == provision.VerdictDenied, err.Cause == provision.CauseThrottled:
		end = provision.CallServed
	case ctx.Err() == nil: // else the client is being closed
		end = provision.CallFailed
	}
	return b, err
}

// secretRefused reports whether IMS refuses the client secret, so that another one may be good.
func secretRefused(err *provision.CallError) bool {
	return err.Verdict == provision.VerdictDenied && err.Code == "invalid_client" &&
		(err.Status == http.StatusBadRequest || err.Status == http.StatusUnauthorized)
}

// openGate lets every call through.
type openGate struct{}

// Allow implements provision.Gate.
func (openGate) Allow(provision.Target, string) (func(provision.CallEnd), time.Duration) {
	return func(provision.CallEnd) {}, 0
}

// grant is what a call needs to be let in.
type grant struct {
	token  provision.Sensitive
	apiKey string
}

// static reports whether cr hold a ready-made bearer token.
func static(cr provision.Credentials) bool { return !cr.AccessToken.IsZero() }

// grant returns the account's own bearer token, or one of IMS.
func (c *Client) grant(ctx context.Context, as provision.Account) (grant, *provision.CallError) {
	if err := checkAccount(as); err != nil {
		return grant{}, err
	}
	cr := as.Credentials
	if static(cr) {
		return grant{token: cr.AccessToken, apiKey: cr.APIKey}, nil
	}
	t, err := c.tokens.get(ctx, cr)
	if err != nil {
		return grant{}, err
	}
	return grant{token: t, apiKey: cr.ClientID}, nil
}

// drop forgets a bearer token that was refused, and reports whether another can be had.
func (c *Client) drop(as provision.Account, g grant) bool {
	if static(as.Credentials) {
		return false
	}
	c.tokens.forget(as.Credentials, g.token)
	return true
}

const (
	maxTokens    = 4096             // accounts whose token is kept
	refreshPause = 10 * time.Second // after a refresh that failed while the old token was still good
)

// tokenKey identifies an account. It holds no secret.
type tokenKey struct {
	org, client, scopes string
	secret              [sha256.Size]byte // of all client secrets
}

func keyOf(cr provision.Credentials) tokenKey {
	var secrets []byte
	for _, secret := range cr.Secrets() {
		secrets = append(append(secrets, secret.Reveal()...), 0)
	}
	return tokenKey{org: cr.OrgID, client: cr.ClientID, scopes: cr.Scopes, secret: sha256.Sum256(secrets)}
}

type fetchFunc = func(context.Context, provision.Credentials) (bearer, *provision.CallError)

// tokens keeps bearer tokens until shortly before they expire, fetches each only once at a time, and
// fetches the next one while the present one is still good. A fetch belongs to nobody: it goes on if
// the caller that began it gives up.
type tokens struct {
	fetch fetchFunc

	ctx     context.Context // of all fetches; ended by close
	cancel  context.CancelFunc
	fetches sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	entries map[tokenKey]*tokenEntry
}

// tokenEntry is guarded by tokens.mu.
type tokenEntry struct {
	bearer            // zero if there is none
	good    int       // which of the client secrets gave a token last
	used    time.Time // when it was asked for last
	call    *tokenCall
	retryAt time.Time // no refresh before that
}

// tokenCall is a fetch under way. Its other fields may be read once done is closed.
type tokenCall struct {
	done  chan struct{}
	token provision.Sensitive
	err   *provision.CallError
}

func newTokens(fetch fetchFunc) *tokens {
	t := &tokens{fetch: fetch, entries: make(map[tokenKey]*tokenEntry)}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

func (t *tokens) close() {
	t.cancel()
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.fetches.Wait()
}

// get returns a token that is good for some time to come, and begins a fetch where one is due. It waits for IMS if it
// has to, but not longer than ctx.
func (t *tokens) get(ctx context.Context, cr provision.Credentials) (provision.Sensitive, *provision.CallError) {
	t.mu.Lock()
	now := time.Now()
	e := t.entry(keyOf(cr), now)
	usable := !e.token.IsZero() && now.Before(e.expiresAt.Add(-e.margin()/4))
	fresh := usable && now.Before(e.expiresAt.Add(-e.margin()))
	if e.call == nil && !t.closed && !fresh && !(usable && now.Before(e.retryAt)) {
		t.begin(ctx, e, cr)
	}
	token, call := e.token, e.call
	t.mu.Unlock()
	switch {
	case usable:
		return token, nil
	case call == nil:
		return provision.Sensitive{}, &provision.CallError{
			Verdict: provision.VerdictNotSent, Target: provision.TargetIMS, Cause: provision.CauseNetwork,
			Err: errors.New("the client is closed"),
		}
	}
	select {
	case <-call.done:
		return call.token, call.err
	case <-ctx.Done():
		return provision.Sensitive{}, &provision.CallError{
			Verdict: provision.VerdictNotSent, Target: provision.TargetIMS, Cause: causeOf(ctx.Err()),
			Message: "IMS gave no token in time; nothing was sent to the Flow Service", Err: ctx.Err(),
		}
	}
}

// margin is how long before its end a token is renewed: it has to outlive the call it is used for.
func (b bearer) margin() time.Duration {
	return min(500*time.Second, b.expiresAt.Sub(b.got)/10)
}

// entry returns the entry of an account. To make room for a new one, that which was idle longest goes.
func (t *tokens) entry(key tokenKey, now time.Time) *tokenEntry {
	e := t.entries[key]
	if e == nil {
		if len(t.entries) >= maxTokens {
			var oldest tokenKey
			var used time.Time
			for k, e := range t.entries {
				if used.IsZero() || e.used.Before(used) {
					oldest, used = k, e.used
				}
			}
			delete(t.entries, oldest)
		}
		e = &tokenEntry{}
		t.entries[key] = e
	}
	e.used = now
	return e
}

// begin starts a fetch for e. It has the values of ctx, but does not end with it. One that fails leaves a token that is
// still good in its place.
func (t *tokens) begin(ctx context.Context, e *tokenEntry, cr provision.Credentials) {
	call, first := &tokenCall{done: make(chan struct{})}, e.good
	e.call = call
	t.fetches.Go(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(t.ctx, cancel)()
		b, err := t.fetch(ctx, from(cr, first))
		b.secret = (b.secret + first) % len(cr.Secrets())
		t.mu.Lock()
		defer t.mu.Unlock()
		e.call = nil
		if err == nil {
			e.bearer, e.good = b, b.secret
		} else {
			e.retryAt = time.Now().Add(refreshPause)
		}
		call.token, call.err = b.token, err
		close(call.done)
	})
}

// from returns cr with its client secrets in the order that begins with the one at first.
func from(cr provision.Credentials, first int) provision.Credentials {
	all := cr.Secrets()
	all = slices.Concat(all[first:], all[:first])
	cr.ClientSecret, cr.OtherSecrets = all[0], all[1:]
	return cr
}

// forget drops that very token; a newer one stays.
func (t *tokens) forget(cr provision.Credentials, refused provision.Sensitive) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[keyOf(cr)]; e != nil && e.token.Equal(refused) {
		e.bearer = bearer{}
	}
}
