package event

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

const (
	// TypeCreate is the type of a request for a connection.
	TypeCreate = "flowworker.connection.create.v1"
	// TypeCreated is the type of the result of a request that has its connection.
	TypeCreated = "flowworker.connection.created.v1"
	// TypeFailed is the type of the result of a request that failed.
	TypeFailed = "flowworker.connection.failed.v1"

	specVersion = "1.0"
	bareSource  = "nats"               // the source of a message that has none
	maxIDLen    = provision.MaxKeyPart // bytes of an id or a source
)

// keptAttributes are those whose value a dead letter may keep. The worker reads all of them but subject, time and
// dataschema; what another one is called and holds costs no request anything.
var keptAttributes = append([]string{"subject", "time", "dataschema"}, readAttributes...)

var readAttributes = []string{"specversion", "id", "source", "type", "datacontenttype", "expirytime", HeaderTraceParent, HeaderTraceState}

func knownAttribute(name string) bool { return slices.Contains(keptAttributes, name) }

func readsAttribute(name string) bool { return slices.Contains(readAttributes, name) }

// checkAttributes checks everything that a CloudEvent of ours must have. A bare message has no
// attributes but those that name it.
func (m *message) checkAttributes() {
	for name, a := range m.attrs {
		switch {
		case a.fault == faultToken && !traceAttribute(name):
			m.bad.addAs(provision.ReasonPlaintextSecret, under("", name), a.fault)
		case a.fault != "" && !traceAttribute(name):
			m.bad.add(under("", name), "%s", a.fault)
		}
	}
	if m.form == formBare || m.form == formStructured && (m.root == nil || m.root.kind != kindObject) {
		return
	}
	for _, name := range []string{"specversion", "type", "id", "source", "expirytime"} {
		a, ok := m.attrs[name]
		wrong := ""
		switch {
		case ok && a.fault == "":
			wrong = wrongAttribute(name, a.value)
		case !ok && name != "expirytime":
			wrong = m.missingAttribute(name)
		}
		if wrong != "" {
			m.bad.add("/"+name, "%s", wrong)
		}
	}
}

// missingAttribute says how an attribute that is required is missing.
func (m *message) missingAttribute(name string) string {
	switch sent := m.root.misspelled(name); {
	case m.form != formStructured:
	case sent != "":
		return fmt.Sprintf("required; it was sent as %q, but names of attributes are in small letters", sent)
	case name == "specversion":
		return `required; it is missing: every event has "specversion":"` + specVersion + `"`
	}
	return "required"
}

// wrongAttribute says what is wrong with an attribute's value, empty if nothing is.
func wrongAttribute(name, value string) string {
	switch {
	case name == "specversion" && value != specVersion:
		return "unsupported version; want " + specVersion
	case name == "type" && value != TypeCreate && strings.HasPrefix(value, "flowworker.connection.create."):
		return "unsupported version of this type; want " + TypeCreate
	case name == "type" && value != TypeCreate:
		return "unsupported type; want " + TypeCreate
	case (name == "id" || name == "source") && !validID(value):
		return fmt.Sprintf("%d bytes long; want 1 to %d", len(value), maxIDLen)
	case name == "expirytime":
		return checkTime(value)
	}
	return ""
}

func validID(v string) bool { return v != "" && len(v) <= maxIDLen }

func checkTime(v string) string {
	if _, err := time.Parse(time.RFC3339, v); err == nil {
		return ""
	}
	wrong := "not a time; want RFC 3339, such as 2026-11-22T03:00:00Z"
	meant := bareOffset.ReplaceAllString(strings.ToUpper(strings.Trim(v, " \t\"'")), "$1:$2")
	meant = dateBlank.ReplaceAllString(meant, "${1}T")
	if t, err := time.Parse(time.RFC3339, meant); err == nil {
		wrong += "; send " + strconv.Quote(t.Format(time.RFC3339Nano))
	}
	return wrong
}

// What is written otherwise than in RFC 3339: an offset without a colon, and a blank between date and time.
var (
	bareOffset = regexp.MustCompile(`([+-][0-9]{2})([0-9]{2})$`)
	dateBlank  = regexp.MustCompile(`^([0-9]{4}-[0-9]{2}-[0-9]{2}) `)
)

// readable returns the attribute if it can be part of an identity.
func (m *message) readable(name string) (string, bool) {
	a, ok := m.attrs[name]
	return a.value, ok && a.fault == "" && validID(a.value)
}

// identity returns the id and source that name the message. Where its own id can't be read, the
// stand-ins of a bare message name it; a readable id keeps its place beside an unreadable source.
func (m *message) identity(meta Meta) (id, source string) {
	id, ok := m.readable("id")
	if !ok {
		return m.standIn(meta), bareSource
	}
	if source, ok = m.readable("source"); !ok {
		source = bareSource
	}
	return strings.Clone(id), strings.Clone(source) // they may be kept longer than the body that they are parts of
}

// standIn returns the Nats-Msg-Id header, else a name made of the message's place in its stream,
// which every delivery of it shares.
func (m *message) standIn(meta Meta) string {
	value, ok, err := m.headers.get(HeaderMsgID)
	a := readAttribute("id", strings.ToValidUTF8(value, "\x00")) // NUL is refused like what is no UTF-8
	switch {
	case ok && err == nil && a.fault == "" && validID(value):
		return value
	case a.fault == faultToken && m.form == formBare:
		m.bad.addAs(provision.ReasonPlaintextSecret, "header "+HeaderMsgID, a.fault)
	case ok && (value != "" || err != nil) && m.form == formBare:
		m.bad.add("header "+HeaderMsgID, "it names the request; want 1 to %d bytes of UTF-8 without control characters", maxIDLen)
	}
	return "seq-" + strconv.FormatInt(meta.Timestamp.UnixNano(), 10) + "-" + strconv.FormatUint(meta.Seq, 10)
}

// expiry returns the expirytime attribute, or zero if there is none that can be read.
func (m *message) expiry() time.Time {
	t, err := time.Parse(time.RFC3339, m.attrs["expirytime"].value)
	if err != nil {
		return time.Time{}
	}
	if t.IsZero() {
		t = t.Add(1) // the zero time would mean that there is none
	}
	return t
}

var (
	traceParent = regexp.MustCompile(`^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-[\x20-\x7e]*)?$`)
	stateMember = regexp.MustCompile(`^[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]$`)
)

const maxTraceLen = 512

// validTraceState follows W3C Trace Context: a list of key=value, which may have empty members. A token is
// never a part of it, for it is carried far.
func validTraceState(s string) bool {
	members := 0
	for each := range strings.SplitSeq(s, ",") {
		if each = strings.Trim(each, " \t"); each == "" {
			continue
		}
		if members++; !stateMember.MatchString(each) {
			return false
		}
	}
	return members > 0 && members <= 32 && len(s) <= maxTraceLen && !scrub.HoldsToken(s)
}

// validTraceParent follows W3C Trace Context: version ff and all-zero ids are invalid, and only
// versions after 00 may have more parts.
func validTraceParent(s string) bool {
	if len(s) > maxTraceLen || scrub.HoldsToken(s) {
		return false
	}
	m := traceParent.FindStringSubmatch(s)
	if m == nil || strings.HasPrefix(s, "ff") || strings.HasPrefix(s, "00") && m[3] != "" {
		return false
	}
	return strings.Trim(m[1], "0") != "" && strings.Trim(m[2], "0") != ""
}

// traceAttribute reports whether name is one of the trace context. A dead letter leaves a malformed one
// out as it does a header that it doesn't keep: the worker never looked at it, so the request is whole
// without it and can be retried.
func traceAttribute(name string) bool { return name == HeaderTraceParent || name == HeaderTraceState }

// trace returns the trace context from the headers, else from the event's attributes. One that is
// malformed is dropped: it is no reason to refuse a request.
func (m *message) trace() provision.Trace {
	parent, _, err := m.headers.get(HeaderTraceParent)
	state := strings.Join(m.headers[HeaderTraceState], ",")
	if err != nil || !validTraceParent(parent) {
		parent, state = m.attrs[HeaderTraceParent].value, m.attrs[HeaderTraceState].value
	}
	switch {
	case !validTraceParent(parent):
		return provision.Trace{}
	case !validTraceState(state):
		return provision.Trace{Parent: parent}
	}
	return provision.Trace{Parent: parent, State: state}
}
