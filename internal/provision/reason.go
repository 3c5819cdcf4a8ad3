package provision

import "slices"

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
