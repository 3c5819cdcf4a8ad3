package provision

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Reason says why a request failed. The set is closed: the settle decision, the result event, the
// metric label and the log all read it.
type Reason string

// The reasons, as the contract lists them.
const (
	ReasonInvalidRequest   Reason = "invalid_request"   // not JSON, not a CloudEvent, schema violated, too large
	ReasonPlaintextSecret  Reason = "plaintext_secret"  // accessToken is not a reference
	ReasonSecretForbidden  Reason = "secret_forbidden"  // reference outside the tenant, or domain mismatch
	ReasonSecretNotFound   Reason = "secret_not_found"  // no such path, field or version
	ReasonTenantUnknown    Reason = "tenant_unknown"    // no usable Adobe credentials for the tenant
	ReasonIDReused         Reason = "id_reused"         // same identity, other data
	ReasonNameExists       Reason = "name_exists"       // ifExists forbids to create
	ReasonFlowRejected     Reason = "flow_rejected"     // the Flow Service refused the request
	ReasonFlowDenied       Reason = "flow_denied"       // the Flow Service or IMS refused the tenant
	ReasonFlowUnavailable  Reason = "flow_unavailable"  // no POST is open and the Flow Service did not bear one
	ReasonVaultUnavailable Reason = "vault_unavailable" // Vault unreachable, sealed, failing, or it denies the worker
	ReasonOutcomeUnknown   Reason = "outcome_unknown"   // a POST is open and cannot be settled
	ReasonExpired          Reason = "expired"           // past its deadline when first seen
	ReasonCrashLoop        Reason = "crash_loop"        // workers died of it
	ReasonInternal         Reason = "internal"          // a bug: see the log by its id
)

// Reasons lists every reason, in the contract's order.
var Reasons = []Reason{
	ReasonInvalidRequest, ReasonPlaintextSecret, ReasonSecretForbidden, ReasonSecretNotFound,
	ReasonTenantUnknown, ReasonIDReused, ReasonNameExists, ReasonFlowRejected, ReasonFlowDenied,
	ReasonFlowUnavailable, ReasonVaultUnavailable, ReasonOutcomeUnknown, ReasonExpired,
	ReasonCrashLoop, ReasonInternal,
}

// Retryable reports whether the very same request may well succeed later, without being changed.
func (r Reason) Retryable() bool {
	return slices.Contains([]Reason{ReasonFlowUnavailable, ReasonVaultUnavailable, ReasonOutcomeUnknown,
		ReasonExpired, ReasonCrashLoop, ReasonInternal}, r)
}

// Failure is the error of a failed request, as it is published. Message is for people: it never
// holds a secret, and says what to do where that is known.
type Failure struct {
	Reason            Reason `json:"reason"`
	Message           string `json:"message"`
	Retryable         bool   `json:"retryable"`                   // worth sending again unchanged
	HTTPStatus        int    `json:"httpStatus,omitempty"`        // upstream's, 0 where it did not answer
	Code              string `json:"code,omitempty"`              // upstream's own code, such as "FLOW-1413-400"
	UpstreamRequestID string `json:"upstreamRequestId,omitempty"` // for Adobe's support
}

// Fail returns a Failure with the given reason and message; Retryable follows from the reason.
func Fail(r Reason, message string) *Failure {
	return &Failure{Reason: r, Message: message, Retryable: r.Retryable()}
}

// Error returns "<reason>: <message>".
func (f *Failure) Error() string { return string(f.Reason) + ": " + f.Message }

// What errors amount to.

// strains reports whether the answer to a POST shows that the Flow Service bears no more of the tenant's.
func strains(err error) bool {
	if err == nil || errors.Is(err, ErrNotAsked) {
		return false
	}
	v := asCallError(err).Verdict
	return v == VerdictThrottled || v == VerdictUnknown || v == VerdictNotSent
}

// asCallError treats an error of an unknown kind as the careful verdict.
func asCallError(err error) *CallError {
	var ce *CallError
	if errors.As(err, &ce) {
		return ce
	}
	return &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Cause: CauseNetwork, Err: err}
}

// refusal returns the failure that a refusal amounts to, nil for what is none.
func refusal(ce *CallError) *Failure {
	switch ce.Verdict {
	case VerdictDenied, VerdictUnauthorized:
		return flowFailure(ReasonFlowDenied, ce)
	case VerdictRejected:
		if ce.Target == TargetIMS {
			return flowFailure(ReasonFlowDenied, ce)
		}
		return flowFailure(ReasonFlowRejected, ce)
	}
	return nil
}

// flowFailure turns upstream's refusal into the request's failure.
func flowFailure(r Reason, ce *CallError) *Failure {
	f := Fail(r, text(ce))
	f.HTTPStatus, f.Code, f.UpstreamRequestID = ce.Status, ce.Code, ce.RequestID
	return f
}

const maxText = 600

// text returns err's message, shortened for a record.
func text(err error) string {
	return shorten(err.Error(), maxText)
}

// shorten returns at most the first limit bytes of s.
func shorten(s string, limit int) string {
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// causeOf returns why a call must be repeated, and how long its target asked to be left alone.
func causeOf(err error) (Cause, time.Duration) {
	var se *SecretError
	var ce *CallError
	switch {
	case errors.As(err, &ce):
		return orNetwork(ce.Cause), ce.RetryAfter
	case errors.As(err, &se):
		return orNetwork(se.Cause), se.RetryAfter
	}
	return CauseNetwork, 0
}

func orNetwork(c Cause) Cause {
	if c == "" {
		return CauseNetwork
	}
	return c
}

// closedError says that the gate keeps callers from a target.
func closedError(target Target, wait time.Duration) error {
	return &CallError{Verdict: VerdictNotSent, Target: target, Cause: CauseNetwork, RetryAfter: wait, Err: ErrCircuitOpen}
}

// flowEnd says what a call with this error showed of the Flow Service. Trouble with a token is IMS's,
// and what the worker itself refused to send nobody's.
func flowEnd(err error) CallEnd {
	var ce *CallError
	switch {
	case err == nil:
		return CallServed
	case !errors.As(err, &ce):
		return CallFailed
	case ce.Target != TargetFlow || errors.Is(err, ErrNotAsked):
		return CallVoid
	case ce.Verdict == VerdictUnknown || ce.Verdict == VerdictNotSent:
		if ce.Status == http.StatusConflict || ce.Exists {
			return CallServed
		}
		return CallFailed
	case ce.Status == 0:
		return CallVoid // a refusal that nobody sent
	}
	return CallServed
}

// targetOf says whose trouble err is.
func targetOf(err error) Target {
	var ce *CallError
	switch {
	case isSecretError(err):
		return TargetVault
	case errors.As(err, &ce):
		return ce.Target
	}
	return TargetFlow
}

func isSecretError(err error) bool {
	var se *SecretError
	return errors.As(err, &se)
}

// vaultEnd says what a read showed of Vault: to refuse the worker is no service.
func vaultEnd(ctx context.Context, cached bool, err error) CallEnd {
	var se *SecretError
	missing := errors.As(err, &se) && se.Problem == SecretMissing
	switch {
	case cached || missing && se.Cached:
		return CallSpared
	case err == nil || missing:
		return CallServed
	case ctx.Err() != nil:
		return CallVoid
	}
	return CallFailed
}

// tenantError is a SecretError about the tenant's Adobe credentials.
type tenantError struct{ *SecretError }

// Unwrap returns the SecretError itself, so that errors.As finds it.
func (e *tenantError) Unwrap() error { return e.SecretError }

// missingSecret returns the failure that a secret's absence amounts to, or nil where err says nothing of the
// kind.
func missingSecret(err error) *Failure {
	if te, ok := errors.AsType[*tenantError](err); ok {
		return Fail(ReasonTenantUnknown, "the tenant's Adobe credentials cannot be used: "+text(te.Err)+
			"; write what Adobe's console exports, or orgId with clientId and clientSecret, or with accessToken and apiKey, to its secret \"adobe\"")
	}
	if se, ok := errors.AsType[*SecretError](err); ok && se.Problem == SecretMissing {
		return Fail(ReasonSecretNotFound, "the secret that auth.params.accessToken refers to cannot be used: "+text(se.Err))
	}
	return nil
}

// otherCredentials reports whether the tenant's credentials are others than those that were used.
func otherCredentials(used, now Credentials) bool {
	return used.Version != now.Version || now.Version == 0 &&
		!(slices.EqualFunc(used.Secrets(), now.Secrets(), Sensitive.Equal) && used.AccessToken.Equal(now.AccessToken))
}

// otherVersion reports whether a secret is another than the one that was used. Where the store has no
// versions, its value tells, as far as this delivery knows the one that was used.
func otherVersion(used, now int, usedValue, nowValue Sensitive) bool {
	return used != now || now == 0 && !usedValue.Equal(nowValue)
}

// How many POSTs it takes to believe what their answers say.
const (
	// promisesBelieved is how many POSTs may be answered with success and yet be believed to have made
	// nothing. After that it is more likely that the list doesn't show them.
	promisesBelieved = 3
	// takenBelieved is how many POSTs must have been refused because such a connection exists already, and have
	// been settled as absent, until that is believed to be another's connection and not our own.
	takenBelieved = 2
)

// takenFailure is the failure of a request whose POST is refused because such a connection exists already.
func takenFailure(last *Failure) *Failure {
	f := Fail(ReasonFlowRejected, "the Flow Service says that such a connection exists already, and it is none of this request's; choose another name")
	if last != nil {
		f.Message += ": " + last.Message
		f.HTTPStatus, f.Code, f.UpstreamRequestID = last.HTTPStatus, last.Code, last.UpstreamRequestID
	}
	return f
}

// cutShort returns f, of a refusal that can pass, as it ends a request whose deadline comes before it is believed.
func cutShort(f *Failure) *Failure {
	early := *f
	early.Retryable = true
	early.Message += "; the deadline came before it had been refused for " + refusalLasts.String() + ", so it may pass: retry it then"
	return &early
}

// notBelieved returns f, of a missing secret, as it ends a request whose deadline comes before the end of the
// grace: the secret may be on its way.
func notBelieved(f *Failure, grace time.Duration) *Failure {
	early := *f
	early.Retryable = true
	early.Message += "; the deadline came before it had been missing for WORKER_SECRET_GRACE (" + grace.String() + "), so it may be there by now: retry it then"
	return &early
}

func retryRefusal(rec Record, n int) string {
	if rec.State == StateFailed {
		return fmt.Sprintf("Flow-Worker-Retry is %d, but the last retry of this request was %d: send %d", n, rec.Retry, rec.Retry+1)
	}
	return fmt.Sprintf("Flow-Worker-Retry is %d, but retry %d of this request has not ended yet: wait for its result", n, rec.Retry)
}
