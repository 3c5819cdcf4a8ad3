package vault

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// maxValue is how large a field may be, in bytes.
const maxValue = 64 << 10

// secretIn returns the field and the owner's word on where it may go.
func secretIn(s *stored, field string) (provision.Secret, *failure) {
	value, err := s.text(field)
	if err == nil {
		err = s.sendable(field, value)
	}
	if err != nil {
		return provision.Secret{}, err
	}
	out := provision.Secret{Value: provision.NewSensitive(value), Version: s.version}
	if out.Domain, err = s.domain(); err != nil {
		return provision.Secret{}, err
	}
	return out, nil
}

// domain returns the field that says where the secret may go, however its name is spelled, or nothing. One that
// can't be read, and spellings that differ, must not pass for none: the token would then go anywhere.
func (s *stored) domain() (string, *failure) {
	domain, before := "", ""
	for _, name := range slices.Sorted(maps.Keys(s.fields)) {
		if foldName(name) != "domain" {
			continue
		}
		text, err := s.text(name)
		switch {
		case err != nil:
			return "", err
		case before != "" && text != domain:
			return "", missing("%s: the fields %q and %q say different hosts; keep one of them", s.at, before, name)
		}
		domain, before = text, name
	}
	return domain, nil
}

// foldName returns a field's name without what its spellings differ in: clientId, client_id, CLIENT_ID, and a
// byte order mark or blanks around it.
func foldName(name string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
}

// has reports whether the secret has the field, whatever is in it.
func (s *stored) has(field string) bool {
	_, ok := s.fields[field]
	return ok
}

// text returns a field that must be a usable string.
func (s *stored) text(field string) (string, *failure) {
	if !s.has(field) {
		return "", missing("%s has no field %s", s.at, field)
	}
	return s.usable(field, s.fields[field])
}

// usable returns a field's value as it is used, without what a file or an editor left around it. The error names
// the field and what is wrong, not the value.
func (s *stored) usable(field string, value any) (string, *failure) {
	text, ok := value.(string)
	text = trimmed(text)
	switch {
	case !ok:
		return "", missing("%s: field %s is %s; want a string, in quotes where it is written as JSON", s.at, field, kindOf(value))
	case text == "":
		return "", missing("%s: field %s is empty", s.at, field)
	case len(text) > maxValue:
		return "", missing("%s: field %s has %d bytes; at most %d are allowed", s.at, field, len(text), maxValue)
	case strings.ContainsFunc(text, unicode.IsControl):
		return "", missing("%s: field %s holds a control character; write it again without", s.at, field)
	}
	return text, nil
}

// sendable refuses a value that can't be a token, which goes into a header: it may have been written together
// with its scheme, or with characters that don't show.
func (s *stored) sendable(field, value string) *failure {
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return missing("%s: field %s is not usable: it holds a blank, or a character that isn't ASCII or doesn't show; write the token alone", s.at, field)
	}
	return nil
}

// trimmed returns a text without a byte order mark and without blanks and line breaks around it.
func trimmed(text string) string { return strings.TrimSpace(strings.TrimPrefix(text, "\ufeff")) }

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case json.Number, float64:
		return "a number"
	case []any:
		return "a list"
	}
	return "an object"
}
