package flow

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// object is a JSON object by the exact names of its members.
type object map[string]json.RawMessage

// readObject reads one JSON object. It refuses names that stand twice, anywhere in it: readers differ about
// which of the two counts.
func readObject(body []byte) (object, bool) {
	var o object
	valid := jsontext.Value(body).IsValid(jsontext.AllowInvalidUTF8(true))
	return o, valid && json.Unmarshal(body, &o) == nil && o != nil
}

// misspelled returns a member that has one of the names but for its case, "" if there is none.
func (o object) misspelled(names ...string) string {
	for name := range o {
		if !slices.Contains(names, name) && slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) }) {
			return name
		}
	}
	return ""
}

// text returns a member that is a string; "" for anything else.
func (o object) text(name string) string {
	var s string
	if json.Unmarshal(o[name], &s) != nil {
		return ""
	}
	return s
}

// only reports whether the object has no members but these.
func (o object) only(names ...string) bool {
	for name := range o {
		if !slices.Contains(names, name) {
			return false
		}
	}
	return true
}

// saysFailure reports whether one of the members does so.
func (o object) saysFailure(states []string) bool {
	for name, raw := range o {
		var value any
		if json.Unmarshal(raw, &value) != nil || saysFailure(name, value, states) {
			return true
		}
	}
	return false
}

var nameMarks = strings.NewReplacer("_", "", "-", "", "@", "", ".", "")

// folded returns a name without what its spellings differ in: hasMore, has_more and HAS-MORE.
func folded(name string) string {
	return strings.ToLower(nameMarks.Replace(name))
}

// failureMembers are what a success has no use for, folded.
var failureMembers = []string{"error", "errors", "errorcode", "errormessage", "errordetails", "errordescription", "errortype", "exception",
	"fault", "faults", "failure", "failures", "failed", "message", "detail", "details"}

// saysFailure reports whether a member says that something failed, whatever the HTTP status. States are the
// words that a status may be.
func saysFailure(name string, value any, states []string) bool {
	switch name = folded(name); {
	case slices.Contains(failureMembers, name):
		return !empty(value)
	case name == "success" || name == "ok":
		return value == false
	case name == "status" || name == "statuscode" || name == "httpstatus" || name == "state" || name == "code":
		return !empty(value) && !goodStatus(value, states)
	}
	return false
}

// goodStatus reports whether it is an HTTP status of success, or one of the words.
func goodStatus(value any, words []string) bool {
	switch v := value.(type) {
	case float64:
		return v < http.StatusMultipleChoices
	case string:
		if n, err := strconv.ParseFloat(v, 64); err == nil {
			return n < http.StatusMultipleChoices
		}
		return slices.Contains(words, strings.ToLower(v))
	}
	return false
}

// empty reports whether a value of JSON says nothing: null, false, 0, and what has nothing in it.
func empty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case bool:
		return !v
	case float64:
		return v == 0
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// text is a JSON string that upstream may also send as a number; anything else reads as empty.
type text string

// UnmarshalJSON never fails.
func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	var n json.Number
	switch {
	case json.Unmarshal(b, &s) == nil:
		*t = text(s)
	case b[0] != '"' && json.Unmarshal(b, &n) == nil:
		*t = text(n)
	default:
		*t = ""
	}
	return nil
}

// written is a text that is known to have been there.
type written struct {
	text  text
	there bool
}

// UnmarshalJSON never fails.
func (w *written) UnmarshalJSON(b []byte) error {
	w.there = b[0] == '"'
	return w.text.UnmarshalJSON(b)
}

// lenient is a part of an answer that must not spoil the rest if its type is not the expected one.
type lenient[T any] struct{ value T }

// UnmarshalJSON never fails; what it cannot read is the zero value.
func (l *lenient[T]) UnmarshalJSON(b []byte) error {
	var v T
	if json.Unmarshal(b, &v) == nil {
		l.value = v
	}
	return nil
}

// instant is a time as milliseconds since 1970, as a number or as a string, or in RFC 3339. A number that is
// too small or too large for them is of seconds, microseconds or nanoseconds: in the wrong unit every time
// would be long ago.
type instant struct{ time.Time }

// UnmarshalJSON never fails; what it cannot read is the zero time.
func (i *instant) UnmarshalJSON(b []byte) error {
	s := string(bytes.Trim(b, `"`))
	if n, err := strconv.ParseFloat(s, 64); err == nil && n > 0 && n < 1e20 {
		for n >= 1e14 {
			n /= 1000
		}
		if n < 1e11 {
			n *= 1000
		}
		i.Time = time.UnixMilli(int64(n)).UTC()
	} else if t, err := time.Parse(time.RFC3339, s); err == nil {
		i.Time = t.UTC()
	}
	return nil
}
