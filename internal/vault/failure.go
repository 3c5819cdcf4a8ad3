package vault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

// failure is a SecretError with what the next seconds need to know of it.
type failure struct {
	*provision.SecretError
	quick   bool     // worth another try at once
	login   bool     // there is no token; Vault was not asked for more
	foreign bool     // something answered in Vault's place
	unknown bool     // what answered does not have the call
	invalid bool     // Vault refuses the token itself
	refusal *refusal // Vault refuses the credential of a login; nil if not
}

// newFailure returns a failure; err must hold no secret.
func newFailure(p provision.SecretProblem, cause provision.Cause, err error) *failure {
	return &failure{SecretError: &provision.SecretError{Problem: p, Cause: cause, Err: err}}
}

func missing(format string, args ...any) *failure {
	return newFailure(provision.SecretMissing, "", fmt.Errorf(format, args...))
}

func unavailable(cause provision.Cause, format string, args ...any) *failure {
	return newFailure(provision.SecretUnavailable, cause, fmt.Errorf(format, args...))
}

// public returns f as the hub knows it; a plain nil for none.
func (f *failure) public() error {
	if f == nil {
		return nil
	}
	return f.SecretError
}

// classify says what an error of Vault's client means. Doing names the call, secrets are what the error must not
// hold.
func classify(op operation, doing string, err error, secrets ...string) *failure {
	var answer *vaultapi.ResponseError
	if errors.As(err, &answer) {
		return classifyStatus(op, doing, answer, secrets)
	}
	for _, known := range []error{errRedirected, errWrapped} {
		if errors.Is(err, known) {
			return unavailable(provision.CauseStatus, "%s: %w", doing, known)
		}
	}
	var foreign *foreignAnswer
	if errors.As(err, &foreign) {
		f := unavailable(provision.CauseStatus, "%s: %w", doing, foreign)
		f.quick, f.foreign = foreign.status == http.StatusOK, true
		return f
	}
	f := unavailable(networkCause(err), "%s: %w", doing, networkError(err, secrets))
	f.quick = !errors.Is(err, context.Canceled)
	return f
}

// classifyStatus is the verdict on every status that Vault's client takes for an error. 404 to a read
// is not here where it means that there is nothing; see getOnce.
func classifyStatus(op operation, doing string, answer *vaultapi.ResponseError, secrets []string) *failure {
	status := answer.StatusCode
	f := unavailable(provision.CauseStatus, "%s: HTTP %d%s", doing, status, messages(answer, secrets))
	switch {
	case decidesNothing(status): // such as 412, a standby that lags, and 503: sealed, or no leader
		f.quick, f.unknown = true, status == http.StatusNotImplemented
		if status == http.StatusTooManyRequests {
			f.Cause = provision.CauseThrottled
		}
	case answer.RawError: // of a proxy, or no Vault at all: it decides nothing
	case status == http.StatusForbidden || op != opRead:
		f.Problem, f.Cause = provision.SecretDenied, ""
		f.invalid = says(answer, "invalid token") // unknown to Vault, or no longer known
	case says(answer, "no handler for route"):
		f.Err = fmt.Errorf("%w; check VAULT_KV_MOUNT", f.Err)
	}
	return f
}

func says(answer *vaultapi.ResponseError, text string) bool {
	return slices.ContainsFunc(answer.Errors, func(m string) bool { return strings.Contains(m, text) })
}

// maxMessage is how much of Vault's messages an error keeps, in characters.
const maxMessage = 300

// messages returns ": " and Vault's own messages in one line, or what stands for them. A body that is
// not Vault's may be anything, such as an echo of the request with its token, so it is left out.
func messages(answer *vaultapi.ResponseError, secrets []string) string {
	if answer.RawError {
		return " and no body of Vault's own; is VAULT_ADDR right?"
	}
	text := scrub.New(secrets...).Line(strings.Join(answer.Errors, "; "), maxMessage)
	if text == "" {
		return ""
	}
	return ": " + text
}

func networkCause(err error) provision.Cause {
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return provision.CauseTimeout
	}
	return provision.CauseNetwork
}

// networkError returns err without the URL, which the message names already in a shorter form.
func networkError(err error, secrets []string) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
	case errors.Is(err, context.Canceled):
		return context.Canceled
	}
	return errors.New(scrub.New(secrets...).Line(scrub.Unquoted(err), maxMessage))
}

// maxRetryAfter bounds how long Vault, or a proxy before it, is believed to want to be left alone.
const maxRetryAfter = 24 * time.Hour

// retryAfter reads the header of that name, in seconds as Vault gives it (with 429 from a rate limit
// quota) or as a date as a proxy may; 0 if there is none, or none that can be read.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), maxRetryAfter)
}

// maxKnown is how many of the worker's own secrets a keyring remembers: the present ones and some that
// are on their way out.
const maxKnown = 8

// keyring remembers the worker's own secrets, tokens and what it logs in with, so that no error holds one: a proxy
// may quote in one call what it heard in another. Its methods are safe for concurrent use.
type keyring struct {
	mu    sync.Mutex
	known []string // oldest first
}

// add remembers a secret, and forgets the oldest where there are too many.
func (k *keyring) add(secret string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if secret == "" || slices.Contains(k.known, secret) {
		return
	}
	k.known = append(k.known, secret)
	if len(k.known) > maxKnown {
		k.known = slices.Delete(k.known, 0, 1)
	}
}

// with returns all that is known, and the secrets of this call.
func (k *keyring) with(secrets ...string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append(secrets, k.known...)
}
