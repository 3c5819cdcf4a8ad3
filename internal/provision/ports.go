package provision

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Ledger keeps one Record per Key, durably. Implementations do not retry: the hub does. All methods
// are safe for concurrent use.
type Ledger interface {
	// Load returns the record and its revision, or ErrNoRecord. Any other error means that nothing
	// is known.
	Load(ctx context.Context, key Key) (Record, uint64, error)
	// Store writes the record if its revision is still rev (0: if there is none) and returns the new
	// revision. ErrConflict means that it very probably was not; any error may hide a write that was
	// stored all the same, so the hub reads again and compares nonces.
	Store(ctx context.Context, key Key, rec Record, rev uint64) (uint64, error)
}

// Errors of a Ledger.
var (
	ErrNoRecord = errors.New("ledger: no record")
	ErrConflict = errors.New("ledger: the record was changed by another")
)

// Secrets reads a tenant's secrets, and can't be made to read another tenant's. Errors are
// *SecretError. Implementations may retry and cache; fresh asks them to read past their cache. All
// methods are safe for concurrent use.
type Secrets interface {
	// Credentials returns the tenant's Adobe credentials.
	Credentials(ctx context.Context, tenant string, fresh bool) (Credentials, error)
	// Resolve returns the value that ref names.
	Resolve(ctx context.Context, tenant string, ref SecretRef, fresh bool) (Secret, error)
}

// Secret is one resolved reference.
type Secret struct {
	Value   Sensitive
	Version int    // of the secret, 0 where the store has no versions
	Domain  string // the secret's own "domain" field; empty if it has none
	Cached  bool   // it was read earlier: the store was not asked
}

// Credentials are a tenant's Adobe credentials: either ClientID and ClientSecret for OAuth
// server-to-server, or AccessToken and APIKey.
type Credentials struct {
	OrgID        string
	ClientID     string
	ClientSecret Sensitive
	OtherSecrets []Sensitive // others that may be good in its place, as during a rotation, in the order to try them
	Scopes       string      // comma-separated, as IMS wants them
	AccessToken  Sensitive
	APIKey       string
	Version      int  // of the secret they came from
	Cached       bool // they were read earlier: the store was not asked
}

// Secrets returns ClientSecret and the others, in the order to try them.
func (c Credentials) Secrets() []Sensitive {
	return append([]Sensitive{c.ClientSecret}, c.OtherSecrets...)
}

// SecretProblem says what kind of trouble a SecretError is.
type SecretProblem string

// The kinds of trouble.
const (
	SecretMissing     SecretProblem = "not_found"   // no such path, field or version, or not usable
	SecretUnavailable SecretProblem = "unavailable" // may go away: unreachable, sealed, 5xx, throttled
	SecretDenied      SecretProblem = "denied"      // the store refuses the worker itself
)

// SecretError is the error of Secrets. Err never holds a secret.
type SecretError struct {
	Problem    SecretProblem
	Cause      Cause         // why it is unavailable
	RetryAfter time.Duration // how long the store asked to be left alone, 0 if it did not
	Cached     bool          // the store said so earlier and was not asked again
	Err        error
}

// Error returns the problem and its cause.
func (e *SecretError) Error() string { return fmt.Sprintf("secret %s: %v", e.Problem, e.Err) }

// Unwrap returns the cause.
func (e *SecretError) Unwrap() error { return e.Err }

// Connections speaks to the Flow Service on behalf of one tenant. Errors are *CallError. All methods
// are safe for concurrent use.
type Connections interface {
	// Authorize makes sure that a token is at hand, so that Create need only post. It may repeat its
	// calls. With a Verdict of VerdictDenied the tenant's credentials are no good.
	Authorize(ctx context.Context, as Account) error
	// Create sends exactly one POST, never a second one, and nothing at all after notAfter. Where it
	// can't tell what became of the POST its error's Verdict is VerdictUnknown.
	Create(ctx context.Context, as Account, conn NewConnection, notAfter time.Time) (Connection, error)
	// Find returns every connection that q asks for, over all pages, or an error: never a part. It may
	// return others, too, and it may repeat its calls.
	Find(ctx context.Context, as Account, q Query) ([]Found, error)
	// Get returns one connection by its id, with what a list may leave out. It may repeat its calls.
	// Where the service itself says that there is none, the error's Status is 404 and its Verdict
	// VerdictRejected.
	Get(ctx context.Context, as Account, id string) (Found, error)
}

// Account says on whose behalf a call is made.
type Account struct {
	Tenant      string
	Sandbox     string // sent as x-sandbox-name with every call
	Credentials Credentials
	Trace       Trace
}

// NewConnection is what Create posts.
type NewConnection struct {
	Name           string
	Description    string // with the request's mark at its end
	SpecName       string
	Params         Params    // AccessToken in here is not sent,
	AccessToken    Sensitive // this is
	ConnectionSpec ConnectionSpec
}

// Query says which connections Find is to return. The zero value asks for all.
//
// Names and SpecID are compared by the service with what it has stored, which may be otherwise than it was
// sent: what they don't show may be there all the same.
type Query struct {
	Names  []string // any of them; none means all
	SpecID string   // empty means all
	// Since asks for connections that are as new as that or newer. Older ones may be left out where the
	// list is seen to be in the order of creation. It means nothing beside Names or SpecID.
	Since time.Time
	// Newest asks for no more than the newest ones, as many as come at once: enough to find one, never
	// enough to tell that there is none.
	Newest bool
	// Want chooses what is returned. Nil means everything.
	Want func(Found) bool
}

// Found is a connection as the Flow Service shows it, without its secrets. What it leaves out is empty.
type Found struct {
	Connection
	Undescribed bool // the description was left out, or is no text
	Name        string
	Description string
	CreatedAt   time.Time
	State       string
	SpecID      string
	SpecVersion string
	Domain      string
	ClusterID   string
	Database    string
	Catalog     string
}

// Verdict says what an error means for the question whether a POST made a connection. The zero value
// is the careful one.
type Verdict int

// The verdicts.
const (
	VerdictUnknown      Verdict = iota // it may have: look it up
	VerdictNotSent                     // it did not: nothing was written to the network, or a token could not be had for now
	VerdictThrottled                   // it did not: refused for now
	VerdictNotReady                    // it did not: the tenant's cluster does not run; worth a slow retry
	VerdictUnauthorized                // it did not: the token was refused; the token is dropped already
	VerdictDenied                      // it did not, and won't with these rights
	VerdictRejected                    // it did not, and won't with this request
)

// String returns the verdict's short name.
func (v Verdict) String() string {
	names := [...]string{"unknown", "not_sent", "throttled", "not_ready", "unauthorized", "denied", "rejected"}
	if v < 0 || int(v) >= len(names) {
		return names[VerdictUnknown]
	}
	return names[v]
}

// ErrCircuitOpen in a CallError says that the target was not called, because a Gate keeps callers from
// it. RetryAfter says for how long.
var ErrCircuitOpen = errors.New("it is not being called for now, because it fails")

// ErrNotAsked in a CallError says that the target was not called for a reason of the worker's own, such
// as that the time for the call was over: it shows nothing of the target.
var ErrNotAsked = errors.New("it was not asked")

// Target is a service the worker depends on.
type Target string

// The targets.
const (
	TargetFlow  Target = "flow"
	TargetVault Target = "vault"
	TargetIMS   Target = "ims"
)

// Cause says why a call has to be repeated.
type Cause string

// The causes.
const (
	CauseStatus    Cause = "status"
	CauseTimeout   Cause = "timeout"
	CauseNetwork   Cause = "network"
	CauseThrottled Cause = "throttled"
)

// CallError is the error of Connections. Neither Message nor Err ever holds a secret.
type CallError struct {
	Verdict    Verdict
	Target     Target        // who failed: TargetFlow or TargetIMS
	Cause      Cause         // empty for a final refusal
	Status     int           // the HTTP status, 0 where there was no answer
	Code       string        // upstream's own code, such as "FLOW-1413-400" or "401013"
	Message    string        // upstream's text, redacted and shortened
	RequestID  string        // upstream's request id
	RetryAfter time.Duration // how long upstream asked to be left alone, 0 if it did not
	Err        error         // what the network said; nil where upstream answered
	Passing    bool          // a refusal that can pass: it is believed once it has lasted
	Exists     bool          // upstream says that such a connection exists already: it may be our own
}

// passes reports whether e is a refusal that is believed only once it has lasted.
func (e *CallError) passes() bool { return e.Passing || e.Verdict == VerdictUnauthorized }

// Error returns target, status, code and message.
func (e *CallError) Error() string {
	s := string(e.Target) + ": "
	if e.Status != 0 {
		s += fmt.Sprintf("HTTP %d ", e.Status)
	}
	if e.Code != "" {
		s += e.Code + " "
	}
	if e.Message != "" {
		s += e.Message
	} else if e.Err != nil {
		s += e.Err.Error()
	}
	return s
}

// Unwrap returns what the network said.
func (e *CallError) Unwrap() error { return e.Err }

// Gate says whether a target is worth calling just now. It is safe for concurrent use.
type Gate interface {
	// Allow returns a function that must be called exactly once, whatever becomes of the call, with
	// what it showed of the target, or nil and how long to leave the target alone. The tenant is on
	// whose behalf the call is made: what fails for one only isn't down.
	Allow(t Target, tenant string) (done func(CallEnd), wait time.Duration)
}

// CallEnd says what an allowed call showed of its target's health. The zero value is the careful one.
type CallEnd int

// The ends of a call. Only CallServed closes a circuit that is open, only CallFailed opens one or keeps
// it open.
const (
	CallVoid   CallEnd = iota // nothing: the target was not asked, or the caller left before its answer
	CallServed                // it did its work; refusing a request is work too
	CallFailed                // it failed, or did not answer in time
	CallSpared                // the work was done without asking it, as from a cache
)

// Slots bounds the POSTs under way and shares them among tenants. It is safe for concurrent use.
type Slots interface {
	// Acquire waits until the tenant's next POST may be announced, or until ctx ends, whose cause is its error
	// then.
	Acquire(ctx context.Context, tenant string) (Slot, error)
}

// Slot is a place for one POST. A few more are given out than POSTs may be under way, so that one is announced
// already when another ends.
type Slot interface {
	// Begin waits until the POST may be sent, or until ctx ends, whose cause is its error then.
	Begin(ctx context.Context) error
	// Release gives the slot back. It must be called once, with whether the Flow Service throttled or failed
	// the call.
	Release(strained bool)
}

// Clock is time itself, so that tests can own it.
type Clock interface {
	Now() time.Time
	// Sleep waits for d or until ctx ends, and returns ctx's error in the latter case.
	Sleep(ctx context.Context, d time.Duration) error
}

// Reconciliation is how a look-up ended.
type Reconciliation string

// The ways a look-up ends.
const (
	ReconciledAdopted Reconciliation = "adopted"
	ReconciledAbsent  Reconciliation = "absent"
	ReconciledSeveral Reconciliation = "several"
	ReconciledUnknown Reconciliation = "unknown"
)

// Observer is told what the hub does, for metrics. Its methods must be quick and safe for concurrent
// use.
type Observer interface {
	Retried(target Target, cause Cause)
	Reconciled(how Reconciliation)
}
