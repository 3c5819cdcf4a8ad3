package flow

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
)

// text is a JSON string that upstream may also send as a number; anything else reads as empty.
type text string

// UnmarshalJSON never fails.
func (t *text) UnmarshalJSON(b []byte) error {
	if plain, ok := plainString(b); ok {
		*t = text(plain)
		return nil
	}
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

// plainString returns what is between the quotes of a JSON string of ASCII without escapes.
func plainString(b []byte) ([]byte, bool) {
	if len(b) < 2 || b[0] != '"' {
		return nil, false
	}
	in := b[1 : len(b)-1]
	return in, !bytes.ContainsFunc(in, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' })
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
