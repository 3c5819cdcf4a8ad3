package event

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// What is in this file answers for the common request what the libraries would, without reading its
// text again. Where it isn't sure it says so, and the library is asked.

// fits reports whether the validator would find nothing wrong with n. It reads the compiled schema,
// but knows only the keywords that the request's schema has.
func fits(n *node, s *jsonschema.Schema) bool {
	switch {
	case s.Properties != nil:
		return fitsObject(n, s)
	case n.kind != kindString:
		return false
	case s.Enum != nil:
		return slices.Contains(s.Enum.Values, any(n.text))
	}
	length := utf8.RuneCountInString(n.text)
	return (s.MinLength == nil || length >= *s.MinLength) && (s.MaxLength == nil || length <= *s.MaxLength) &&
		(s.Pattern == nil || s.Pattern.MatchString(n.text))
}

func fitsObject(n *node, s *jsonschema.Schema) bool {
	if n.kind != kindObject {
		return false
	}
	for _, each := range n.members {
		if p := s.Properties[each.name]; p == nil || !fits(each.value, p) {
			return false
		}
	}
	return !slices.ContainsFunc(s.Required, func(name string) bool { return n.member(name) == nil })
}

// appendCanonical appends the canonical form of n (RFC 8785). It knows only objects with ASCII names,
// strings that need no escapes, and literals, and reports false on anything else.
func appendCanonical(to []byte, n *node) (out []byte, ok bool) {
	switch {
	case n.flaw != "":
		return to, false
	case n.kind == kindString:
		return appendString(to, n.text)
	case n.kind == kindNull, n.kind == kindTrue, n.kind == kindFalse:
		return append(to, n.raw...), true
	case n.kind == kindObject:
		return appendObject(to, n)
	}
	return to, false
}

// appendObject orders the members by name: among ASCII names the order of bytes is that of UTF-16.
func appendObject(to []byte, n *node) (out []byte, ok bool) {
	sorted := slices.Clone(n.members)
	slices.SortFunc(sorted, func(a, b member) int { return strings.Compare(a.name, b.name) })
	to = append(to, '{')
	for i, each := range sorted {
		if i > 0 {
			to = append(to, ',')
		}
		if to, ok = appendString(to, each.name); !ok || !isASCII(each.name) {
			return to, false
		}
		if to, ok = appendCanonical(append(to, ':'), each.value); !ok {
			return to, false
		}
	}
	return append(to, '}'), true
}

func appendString(to []byte, text string) (out []byte, ok bool) {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c == '"' || c == '\\' {
			return to, false
		}
	}
	return append(append(append(to, '"'), text...), '"'), true
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
