package provision

import (
	"fmt"
	"slices"
	"time"
)

// State is where a request stands. The zero value is no state.
type State string

// The states. See the table in decide.go.
const (
	StateClaimed State = "claimed" // taken up; nothing is open at the Flow Service
	StatePosting State = "posting" // a POST may be under way until PostedAt + Lease
	StateUnknown State = "unknown" // a POST has ended and nobody knows how: look it up
	StateWaiting State = "waiting" // the last POST definitely made nothing: go on at once
	StateCreated State = "created" // final
	StateFailed  State = "failed"  // final
)

// States lists every state, in the order of a request's life.
var States = []State{StateClaimed, StatePosting, StateUnknown, StateWaiting, StateCreated, StateFailed}

// Final reports whether s is the end of a request, until somebody asks for a retry.
func (s State) Final() bool { return s == StateCreated || s == StateFailed }

// Record is all that survives of a request between two steps. Every write of it is a
// compare-and-set. It never holds a secret's value.
type Record struct {
	Key         Key    `json:"key"`
	State       State  `json:"state"`
	Retry       int    `json:"retry"`       // the retry number being worked on, 0 for the first try
	Fingerprint string `json:"fingerprint"` // of the request's data
	Nonce       string `json:"nonce"`       // new for every write: tells our own write from another's

	// Who works on it. A record that is not Held is free for whoever gets a delivery of it.
	Owner         string    `json:"owner"`
	Held          bool      `json:"held"`
	HeldSeq       uint64    `json:"heldSeq,omitempty"`       // the message the owner got it by; of a final record: the one that concluded it
	HeldDelivered uint64    `json:"heldDelivered,omitempty"` // and which delivery of it
	Direct        bool      `json:"direct,omitempty"`        // the owner read it from the stream: its delivery says nothing of the owner
	Published     bool      `json:"told,omitempty"`          // of a final record: the result is published
	HeldUntil     time.Time `json:"heldUntil"`               // an owner without a sign of life after that has lost it
	Alone         bool      `json:"alone,omitempty"`         // it is the only suspect, or the only request, that its worker has in hand
	Deaths        int       `json:"deaths,omitempty"`        // workers in a row that vanished with it
	AloneDeaths   int       `json:"aloneDeaths,omitempty"`   // those of them to which it was Alone

	// The POST. PostedAt is taken before the ledger write that announces it.
	FirstPostAt  time.Time     `json:"firstPostAt,omitzero"` // of all retries; zero if there never was one
	PostedAt     time.Time     `json:"postedAt,omitzero"`
	Lease        time.Duration `json:"leaseNs,omitempty"`     // how long after PostedAt the POST may run, in ns
	EndedAt      time.Time     `json:"endedAt,omitzero"`      // when its owner saw it end; zero if no one did
	EndedBy      string        `json:"endedBy,omitempty"`     // whose clock EndedAt is from
	Doubt        bool          `json:"doubt,omitempty"`       // a POST of any retry ended in a way that nobody knows
	LookFirst    bool          `json:"lookFirst,omitempty"`   // look for the mark before the next POST
	Posts        int           `json:"posts"`                 // POSTs tried in this retry
	Promises     int           `json:"promises,omitempty"`    // POSTs answered with a success that named no connection, none of which was found
	Taken        int           `json:"taken,omitempty"`       // POSTs refused because such a connection exists already, none of which was found
	RefusedSince time.Time     `json:"refusedSince,omitzero"` // since when there was nothing but refusals that can pass
	Refused      *Failure      `json:"refused,omitempty"`     // the last POST was refused; the secrets are yet to be read past the cache
	Reread       bool          `json:"reread,omitempty"`      // they were newer, and that POST is spent

	// What was asked, for people who look at the ledger; and when.
	Sandbox        string         `json:"sandbox,omitempty"`
	Name           string         `json:"name,omitempty"`
	ConnectionSpec ConnectionSpec `json:"connectionSpec,omitzero"`
	Trace          Trace          `json:"trace,omitzero"`
	RequestedAt    time.Time      `json:"requestedAt"`
	StartedAt      time.Time      `json:"startedAt"`
	Deadline       time.Time      `json:"deadline"`
	NotBefore      time.Time      `json:"notBefore,omitzero"` // upstream asked to be left alone until then
	Missing        *Missing       `json:"missing,omitempty"`  // a secret that is not there, which is yet to be believed
	RestUntil      time.Time      `json:"restUntil,omitzero"` // its message was given back until then; nobody reads it directly before
	Handbacks      int            `json:"handbacks,omitempty"`
	UpdatedAt      time.Time      `json:"updatedAt"`

	Secrets  map[string]int `json:"secrets,omitempty"` // :: "token" or "adobe" → version used, never the value
	Attempts []Attempt      `json:"attempts,omitempty"`
	LastFail *Failure       `json:"lastFailure,omitempty"` // what stood in the way last
	Final    *FinalResult   `json:"final,omitempty"`

	// What a person said of the unknown POST, where this retry is there to settle it. It sends no POST.
	Resolution *Resolution `json:"resolution,omitempty"`
}

// MaxAttempts is how many of the latest attempts a record keeps.
const MaxAttempts = 50

// Attempt is one line of a request's story: a POST, a look-up or a hindrance, and how it went.
type Attempt struct {
	At      time.Time `json:"at"`
	Retry   int       `json:"retry,omitempty"`
	Owner   string    `json:"owner"`
	Step    string    `json:"step"`   // "claim", "post", "lookup", "secrets", "handback", "resolve", "final"
	Result  string    `json:"result"` // short, from the code, such as "not_sent" or "absent"
	Detail  string    `json:"detail,omitempty"`
	Elapsed float64   `json:"elapsedSeconds,omitempty"`
}

// FinalResult is a Result as the ledger keeps it, with the parts that its wire form leaves out.
type FinalResult struct {
	EventID string `json:"eventId"`
	Outcome string `json:"outcome"`
	Trace   Trace  `json:"trace,omitzero"`
	Result  Result `json:"result"`
}

// leaseEnd returns when the record's last POST can't be running any more, by its owner's clock.
func (r *Record) leaseEnd() time.Time { return r.PostedAt.Add(r.Lease) }

// postEnd returns when the record's last POST ended: as its owner saw it, else the lease's end.
func (r *Record) postEnd() time.Time {
	if !r.EndedAt.IsZero() {
		return r.EndedAt
	}
	return r.leaseEnd()
}

// note appends an attempt. Of more than MaxAttempts the oldest goes that is no POST and no person's word,
// so that waiting for days doesn't wipe out what was tried.
func (r *Record) note(a Attempt) {
	a.Retry, a.Owner = r.Retry, r.Owner
	r.Attempts = append(r.Attempts, a)
	if len(r.Attempts) <= MaxAttempts {
		return
	}
	oldest := max(0, slices.IndexFunc(r.Attempts, func(a Attempt) bool {
		return a.Step != stepPost && a.Step != stepFinal && a.Step != stepResolve
	}))
	r.Attempts = slices.Delete(slices.Clone(r.Attempts), oldest, oldest+1)
}

// Steps of an Attempt that matter to the code.
const (
	stepPost    = "post"
	stepResolve = "resolve"
	stepFinal   = "final"
)

// Resolution is what a person says became of a POST that nobody could settle: that it made the connection
// named, or none.
//
// It comes with a retry of its own, which looks at the Flow Service once more and never POSTs. The word of
// a person decides only what the look-up can't: a connection with the request's mark is adopted whatever
// was said, and one that was named must be there.
type Resolution struct {
	Connection string `json:"connection,omitempty"` // its id; empty means that there is none
	By         string `json:"by"`                   // who says so, as the message has it: whoever may publish for the tenant chooses it
	Why        string `json:"why"`
}

// Results of an Attempt that records a Resolution.
const (
	saysConnection = "named"
	saysAbsent     = "absent"
)

// attempt returns how the record tells of r: as what the message says, for nobody proves who wrote it.
func (r Resolution) attempt(at time.Time) Attempt {
	a := Attempt{At: at, Step: stepResolve, Result: saysAbsent, Detail: fmt.Sprintf("the message says that it made none, said to be by %s: %s", r.By, r.Why)}
	if r.Connection != "" {
		a.Result, a.Detail = saysConnection, fmt.Sprintf("the message says that it made %s, said to be by %s: %s", r.Connection, r.By, r.Why)
	}
	return a
}

// unresolvable returns why nothing of a record can be resolved, nil if it can.
func unresolvable(rec Record) *Failure {
	reason := Reason("")
	if f := rec.Final; f != nil && f.Result.Error != nil {
		reason = f.Result.Error.Reason
	}
	if reason == ReasonOutcomeUnknown {
		return nil
	}
	return Fail(ReasonInvalidRequest, fmt.Sprintf("Flow-Worker-Resolve settles an outcome_unknown only, but this request failed with %s: retry it", reason))
}

// Missing says since when a secret has been missing. A store may lag behind its writer, as a standby server
// does, so that is believed only once it has been so for Config.SecretGrace.
type Missing struct {
	Reason Reason    `json:"reason"` // what it ends the request with if it stays so
	Since  time.Time `json:"since"`  // when a read past the cache said so first
	By     string    `json:"by"`     // whose clock Since is from
}
