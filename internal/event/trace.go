package event

import (
	"regexp"
	"strings"

	"github.com/flow-worker/flow-worker/internal/provision"
)

var (
	traceParent = regexp.MustCompile(`^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?$`)
	traceState  = regexp.MustCompile(`^[\x20-\x7e\t]{1,512}$`)
)

// validTraceParent follows W3C Trace Context: version ff and all-zero ids are invalid, and only
// versions after 00 may have more parts.
func validTraceParent(s string) bool {
	m := traceParent.FindStringSubmatch(s)
	if m == nil || len(s) > 512 || strings.HasPrefix(s, "ff") || strings.HasPrefix(s, "00") && m[3] != "" {
		return false
	}
	return strings.Trim(m[1], "0") != "" && strings.Trim(m[2], "0") != "" && traceState.MatchString(s)
}

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
	case !traceState.MatchString(state):
		return provision.Trace{Parent: parent}
	}
	return provision.Trace{Parent: parent, State: state}
}
