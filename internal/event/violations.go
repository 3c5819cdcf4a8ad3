package event

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

const (
	maxViolations = 50 // told of one message
	maxNameLen    = 64 // bytes of one name in a pointer
)

// violation is one thing wrong with a message. Its text never quotes a value that may be secret.
type violation struct {
	at     string // JSON pointer: /id for an attribute, /data/name for data
	text   string
	reason provision.Reason
}

// violations gathers all that is wrong with one message.
type violations []violation

func (v *violations) add(at, format string, args ...any) {
	v.addAs(provision.ReasonInvalidRequest, at, fmt.Sprintf(format, args...))
}

func (v *violations) addAs(reason provision.Reason, at, text string) {
	*v = append(*v, violation{at, text, reason})
}

// has reports whether something was said of that very place already.
func (v violations) has(at string) bool {
	return slices.ContainsFunc(v, func(each violation) bool { return each.at == at })
}

// failure returns all violations as one failure, or nil if there are none. A literal secret gives
// the reason before a forbidden reference does, and that before anything else.
func (v violations) failure() *provision.Failure {
	if len(v) == 0 {
		return nil
	}
	reason := provision.ReasonInvalidRequest
	for _, r := range []provision.Reason{provision.ReasonSecretForbidden, provision.ReasonPlaintextSecret} {
		if slices.ContainsFunc(v, func(each violation) bool { return each.reason == r }) {
			reason = r
		}
	}
	return provision.Fail(reason, "the request is not valid: "+v.String())
}

// String returns the violations ordered by place, so that the same message gives the same text.
func (v violations) String() string {
	sorted := slices.Clone(v)
	slices.SortFunc(sorted, func(a, b violation) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.text, b.text))
	})
	sorted = slices.Compact(sorted)
	more := len(sorted) - maxViolations
	if more > 0 {
		sorted = sorted[:maxViolations]
	}
	parts := make([]string, len(sorted))
	for i, each := range sorted {
		parts[i] = each.at + ": " + each.text
	}
	text := strings.Join(parts, "; ")
	if more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// pointerEscape escapes a name for a JSON pointer.
var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

// under returns the JSON pointer of a name below at. Long names are cut and unprintable characters
// or tokens are replaced: names come from outside and end in logs.
func under(at, name string) string {
	if plainName(name) {
		return at + "/" + name
	}
	name = scrub.Scrubber{}.Text(name)
	name = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, name)
	if len(name) > maxNameLen {
		name = strings.ToValidUTF8(name[:maxNameLen], "") + "…"
	}
	return at + "/" + pointerEscape.Replace(name)
}

// plainName reports whether a pointer shows the name as it is.
func plainName(name string) bool {
	return len(name) <= maxNameLen && !scrub.HoldsToken(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || r == '~' || r == '/'
	})
}
