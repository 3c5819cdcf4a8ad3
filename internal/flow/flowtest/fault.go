package flowtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Effect says what a fault does.
type Effect string

// The effects.
const (
	// EffectLatency makes the answer wait for Delay, before the work or after it.
	EffectLatency Effect = "latency"
	// EffectStatus answers with Status, Body, Code, Message, Header and RetryAfter: instead of the
	// work, or (StageAfter) although the work was done.
	EffectStatus Effect = "status"
	// EffectReset resets the TCP connection: before the body is read (StageUnread), before the work
	// or after it.
	EffectReset Effect = "reset"
	// EffectHang gives no answer: it waits, before the work (which then is never done) or after it,
	// until the client leaves, at most Delay (0: 10 minutes), then resets the TCP connection.
	EffectHang Effect = "hang"
	// EffectClusterStopped refuses create and explore with 1308-400 and a Databricks-like text; test
	// answers false.
	EffectClusterStopped Effect = "cluster_stopped"
	// EffectBadCredentials is like EffectClusterStopped, its text speaks of an invalid token.
	EffectBadCredentials Effect = "bad_credentials"
	// EffectExpiredToken makes the call's bearer token invalid for good and answers 401013.
	EffectExpiredToken Effect = "expired_token"
	// EffectTruncate cuts the description of a new connection to at most Bytes bytes.
	EffectTruncate Effect = "truncate"
	// EffectRateLimit refuses what exceeds PerSecond calls in a second, per organization, with 429
	// and RetryAfter if set. Only refusals count for Times.
	EffectRateLimit Effect = "rate_limit"
	// EffectListLag hides connections from lists: on create, the new one for Delay after its
	// creation; on list, from this answer, all that are younger than Delay.
	EffectListLag Effect = "list_lag"
	// EffectInitializing leaves a new connection in the state "initializing" for Delay.
	EffectInitializing Effect = "initializing"
	// EffectStore stores a new connection otherwise than it was sent, as Habits say.
	EffectStore Effect = "store"
	// EffectState leaves a new connection in State for good, such as "disabled" or "draft".
	EffectState Effect = "state"
	// EffectUniqueNames refuses to create a connection of a name that its sandbox has already, with
	// Status (0: 409) and Message.
	EffectUniqueNames Effect = "unique_names"
	// EffectOmit leaves Fields out of the connections of a list. GET by id shows them.
	EffectOmit Effect = "omit"
	// EffectUnordered lists connections in the order of their ids, whatever order was asked for.
	EffectUnordered Effect = "unordered"
	// EffectRefuseQuery refuses a list that is asked for with one of the query parameters Fields.
	EffectRefuseQuery Effect = "refuse_query"
	// EffectFoldNames has a list's filter on names mind no case.
	EffectFoldNames Effect = "fold_names"
)

// Stage says when a fault strikes.
type Stage string

// The stages. The empty one means StageBefore.
const (
	StageUnread Stage = "unread" // before the body is read
	StageBefore Stage = "before" // after the headers were checked, before the work is done
	StageAfter  Stage = "after"  // once the work has succeeded, before it is answered
)

// BodyKind says what an EffectStatus has as its body.
type BodyKind string

// The kinds of body. The empty one means BodyFlow, for the token endpoint BodyIMS.
const (
	BodyFlow          BodyKind = "flow"           // the current shape: type, title, status, report
	BodyGateway       BodyKind = "gateway"        // error_code as a string, message
	BodyGatewayNumber BodyKind = "gateway_number" // error_code as a number, message
	BodyLegacy        BodyKind = "legacy"         // errorMessage, errorDetails
	BodyProblem       BodyKind = "problem"        // type, status, title, detail
	BodyIMS           BodyKind = "ims"            // error, error_description
	BodyHTML          BodyKind = "html"
	BodyEmpty         BodyKind = "empty"
	BodyGarbage       BodyKind = "garbage" // says it is JSON, is cut off
	BodyNormal        BodyKind = "normal"  // the true answer with another status; StageAfter only
	BodyNoID          BodyKind = "no_id"   // the true headers (with Location), an answer without id; StageAfter only
)

// Fault is one way to misbehave. All faults that select a call act on it, in the order in which they
// were added, until one of them ends it (all effects do but latency, truncate, list_lag, initializing, the
// habits from store to fold_names, and a rate_limit that still has room).
//
// Its JSON form has the same fields in lower camel case; durations are texts such as "1.5s".
type Fault struct {
	// Operation selects calls. Empty means OpAny: all of Flow Service and IMS.
	Operation Operation `json:"operation,omitempty"`
	// Name and NamePrefix select by the connection's name: of the body (create), of the first filter
	// on it (list), of the stored connection (others).
	Name       string `json:"name,omitempty"`
	NamePrefix string `json:"namePrefix,omitempty"`
	OrgID      string `json:"orgId,omitempty"`
	Sandbox    string `json:"sandbox,omitempty"`
	// Skip lets that many selected calls pass first.
	Skip int `json:"skip,omitempty"`
	// Times is how often the fault strikes before it is spent. 0 means always.
	Times int `json:"times,omitempty"`
	// Probability strikes only that share of the selected calls. 0 means all of them.
	Probability float64 `json:"probability,omitempty"`

	Effect Effect `json:"effect"`
	When   Stage  `json:"when,omitempty"`
	// Delay belongs to latency, hang, list_lag and initializing.
	Delay time.Duration `json:"-"`

	// Status to Header belong to EffectStatus; Message also to cluster_stopped and bad_credentials.
	// An empty Code is one that goes with Status; an empty Message the usual text.
	Status  int               `json:"status,omitempty"`
	Body    BodyKind          `json:"body,omitempty"`
	Code    string            `json:"code,omitempty"`
	Message string            `json:"message,omitempty"`
	Header  map[string]string `json:"header,omitempty"`
	// RetryAfter becomes the header of that name in a status or rate_limit: whole seconds, rounded
	// up, or an HTTP date if RetryAfterDate. 0 means no header.
	RetryAfter     time.Duration `json:"-"`
	RetryAfterDate bool          `json:"retryAfterDate,omitempty"`

	Habits []Habit  `json:"habits,omitempty"` // of store
	State  string   `json:"state,omitempty"`  // of state
	Fields []string `json:"fields,omitempty"` // of omit and refuse_query

	Bytes     int `json:"bytes,omitempty"`     // of truncate, and of store with name_cut
	PerSecond int `json:"perSecond,omitempty"` // of rate_limit
}

// plainFault has the fields of Fault without its methods, wireFault adds what JSON writes differently.
type plainFault Fault

type wireFault struct {
	plainFault
	Delay      string `json:"delay,omitempty"`
	RetryAfter string `json:"retryAfter,omitempty"`
}

// MarshalJSON writes durations as texts such as "1m30s".
func (f Fault) MarshalJSON() ([]byte, error) {
	w := wireFault{plainFault: plainFault(f)}
	if f.Delay != 0 {
		w.Delay = f.Delay.String()
	}
	if f.RetryAfter != 0 {
		w.RetryAfter = f.RetryAfter.String()
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON writes. Unknown fields are an error.
func (f *Fault) UnmarshalJSON(b []byte) error {
	var w wireFault
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil {
		return fmt.Errorf("flowtest: fault: %w", err)
	}
	delay, err := duration("delay", w.Delay)
	if err != nil {
		return err
	}
	retryAfter, err := duration("retryAfter", w.RetryAfter)
	if err != nil {
		return err
	}
	*f = Fault(w.plainFault)
	f.Delay, f.RetryAfter = delay, retryAfter
	return nil
}

func duration(field, s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("flowtest: fault: %s is %q, want a duration such as \"1.5s\"", field, s)
	}
	return d, nil
}

// Validate returns everything that is wrong with f, or nil.
func (f Fault) Validate() error {
	var errs []error
	must := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("flowtest: fault: "+format, args...))
		}
	}
	must(f.Operation == "" || slices.Contains(operations, f.Operation), "operation %q is none of %q", f.Operation, operations)
	stages, known := effectStages[f.Effect]
	must(known, "effect %q is none of %q", f.Effect, effectNames())
	must(!known || slices.Contains(stages, f.When), "effect %q cannot have when %q; it can have %q", f.Effect, f.When, stages)
	must(f.When != StageUnread || f.Name == "" && f.NamePrefix == "", "when %q cannot select by name: the name is not read then", f.When)
	must(f.Skip >= 0 && f.Times >= 0, "skip and times must not be negative")
	must(f.Probability >= 0 && f.Probability <= 1, "probability must be between 0 and 1")
	must(f.Delay >= 0 && f.RetryAfter >= 0, "delay and retryAfter must not be negative")
	errs = append(errs, f.validateEffect()...)
	return errors.Join(errs...)
}

// validateEffect checks the fields that belong to one effect.
func (f Fault) validateEffect() (errs []error) {
	must := func(ok bool, text string) {
		if !ok {
			errs = append(errs, fmt.Errorf("flowtest: fault: effect %q needs %s", f.Effect, text))
		}
	}
	switch f.Effect {
	case EffectLatency, EffectListLag, EffectInitializing:
		must(f.Delay > 0, "a delay")
	case EffectStatus:
		must(f.Status >= 200 && f.Status <= 599, "a status from 200 to 599")
		must(f.Body == "" || slices.Contains(bodyKinds, f.Body), fmt.Sprintf("a body of %q", bodyKinds))
		trueBody := f.Body == BodyNormal || f.Body == BodyNoID
		must(!trueBody || f.When == StageAfter, `when "after" with that body: there is no answer yet`)
		must(f.Body != BodyGatewayNumber || isNumber(f.Code), "a code of digits with that body")
		must(!strings.ContainsAny(fmt.Sprint(f.Header), "\r\n"), "headers without line breaks")
	case EffectRateLimit:
		must(f.PerSecond > 0, "perSecond")
	case EffectTruncate:
		must(f.Bytes >= 0, "bytes of 0 or more")
	case EffectStore:
		must(len(f.Habits) > 0 && within(f.Habits, habitNames()), fmt.Sprintf("habits of %q", habitNames()))
		must(f.Bytes >= 0, "bytes of 0 or more")
	case EffectState:
		must(f.State != "", "a state")
	case EffectUniqueNames:
		must(f.Status == 0 || f.Status >= 400 && f.Status <= 499, "no status, or one from 400 to 499")
	case EffectOmit:
		must(len(f.Fields) > 0 && within(f.Fields, omittable), fmt.Sprintf("fields of %q", omittable))
	case EffectRefuseQuery:
		must(len(f.Fields) > 0 && within(f.Fields, listParams), fmt.Sprintf("fields of %q", listParams))
	default:
	}
	return errs
}

func isNumber(s string) bool { return strings.Trim(s, "0123456789") == "" }

// operations lists what Fault.Operation may be.
var operations = []Operation{
	OpCreate, OpList, OpGet, OpUpdate, OpDelete, OpTest, OpExplore, OpAction, OpSpecs, OpToken, OpOther, OpAny,
}

// bodyKinds lists what Fault.Body may be.
var bodyKinds = []BodyKind{
	BodyFlow, BodyGateway, BodyGatewayNumber, BodyLegacy, BodyProblem, BodyIMS, BodyHTML, BodyEmpty,
	BodyGarbage, BodyNormal, BodyNoID,
}

// effectStages lists the effects, and when each may strike.
var effectStages = map[Effect][]Stage{
	EffectLatency:        {"", StageBefore, StageAfter},
	EffectStatus:         {"", StageBefore, StageAfter},
	EffectReset:          {"", StageUnread, StageBefore, StageAfter},
	EffectHang:           {"", StageBefore, StageAfter},
	EffectClusterStopped: {"", StageBefore},
	EffectBadCredentials: {"", StageBefore},
	EffectExpiredToken:   {"", StageBefore},
	EffectTruncate:       {"", StageBefore},
	EffectRateLimit:      {"", StageBefore},
	EffectListLag:        {"", StageBefore},
	EffectInitializing:   {"", StageBefore},
	EffectStore:          {"", StageBefore},
	EffectState:          {"", StageBefore},
	EffectUniqueNames:    {"", StageBefore},
	EffectOmit:           {"", StageBefore},
	EffectUnordered:      {"", StageBefore},
	EffectRefuseQuery:    {"", StageBefore},
	EffectFoldNames:      {"", StageBefore},
}

// within reports whether all of some are known.
func within[T comparable](some, known []T) bool {
	return !slices.ContainsFunc(some, func(s T) bool { return !slices.Contains(known, s) })
}

func effectNames() []Effect { return slices.Sorted(maps.Keys(effectStages)) }

// statusCodes are the codes that a Fault without a Code gets for its Status, by shape.
var (
	flowCodes = map[int]string{
		400: "1100-400", 403: "2120-403", 404: "1439-404", 412: "1404-412", 500: "1102-500", 503: "1103-503", 504: "1104-504",
	}
	gatewayCodes = map[int]string{400: "400003", 401: "401013", 403: "403025", 429: "429050"}
)
