package event

import (
	"regexp"
	"strings"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

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
