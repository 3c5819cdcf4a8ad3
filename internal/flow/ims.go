package flow

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
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
	client := &http.Client{Timeout: i.timeout, Transport: finalOnly{i.via}, CheckRedirect: func(*http.Request, []*http.Request) error {
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
		return bearer{}, unusableToken()
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

// refusals are the errors by which a token service refuses a request (RFC 6749), and Adobe's likes of them.
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
		believed := imsRefusal(refused.Body)
		if !believed && !slices.Contains(passingErrors, p.code) {
			e.Message = firstOf(p.message, http.StatusText(status)) + "; this is no answer of IMS itself: look for what stands in its way, such as a proxy or a gateway"
		}
		if !believed {
			break
		}
		e.Verdict, e.Cause, e.Passing = provision.VerdictDenied, "", true
		if _, known := nameRemedies[p.code]; !known {
			e.Message = strings.TrimRight(firstOf(p.message, http.StatusText(status)), ". ") + "; " + remedyClient
		}
	case http.StatusTooManyRequests:
		e.Cause = provision.CauseThrottled
	}
	return e
}

func unusableToken() *provision.CallError {
	return &provision.CallError{
		Verdict: provision.VerdictNotSent, Target: provision.TargetIMS, Cause: provision.CauseStatus,
		Message: "IMS gave a token that can't be sent as a header",
	}
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
	end = imsEnd(ctx, err)
	return b, err
}

// secretRefused reports whether IMS refuses the client secret, so that another one may be good.
func secretRefused(err *provision.CallError) bool {
	return err.Verdict == provision.VerdictDenied && err.Code == "invalid_client" &&
		(err.Status == http.StatusBadRequest || err.Status == http.StatusUnauthorized)
}

// imsEnd says what a token request with this error showed of IMS.
func imsEnd(ctx context.Context, err *provision.CallError) provision.CallEnd {
	switch {
	case err == nil, err.Verdict == provision.VerdictDenied, err.Cause == provision.CauseThrottled:
		return provision.CallServed
	case ctx.Err() != nil: // the client is being closed
		return provision.CallVoid
	}
	return provision.CallFailed
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
