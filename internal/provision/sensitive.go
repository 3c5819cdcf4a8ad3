package provision

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Sensitive is a secret text that only Reveal tells. The zero value is the empty text.
//
// Whatever prints, logs or encodes one gets Redacted, or an error from encoders that ask for no text,
// as gob. Where none of its methods is called, as by fmt for an unexported field and for the verb %p,
// or by printers that walk values by reflection, they see the address of a function: the text is a
// variable of it, which they can't get at. A function can't be compared either, so == on a Sensitive,
// or on what holds one, doesn't compile, and neither can be the key of a map; on interface values it
// panics, without the text. Equal compares. None of this helps against whoever reads the memory of the
// process, as a core dump does.
//
// A Sensitive is immutable, may be copied, and is safe for concurrent use.
type Sensitive struct {
	reveal func() string // nil for the empty text
}

// Redacted stands wherever a secret was taken out.
const Redacted = "[redacted]"

// NewSensitive returns the secret text. It does not wipe the copy that the caller holds.
func NewSensitive(text string) Sensitive {
	if text == "" {
		return Sensitive{}
	}
	return Sensitive{reveal: func() string { return text }}
}

// Reveal returns the secret itself. Call it where the value leaves for its destination, nowhere else.
func (s Sensitive) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// IsZero reports whether the text is empty. Encoders ask it for omitzero.
func (s Sensitive) IsZero() bool { return s.reveal == nil }

// Equal reports whether both texts are the same. How long that takes depends on their lengths, not on
// what is in them.
func (s Sensitive) Equal(other Sensitive) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// Format implements fmt.Formatter for every verb, so that none can print the text. (Of %T and %p fmt
// asks no method.)
func (Sensitive) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Redacted) }

// String implements fmt.Stringer.
func (Sensitive) String() string { return Redacted }

// MarshalText implements encoding.TextMarshaler, and with it JSON, XML and YAML encoding.
func (Sensitive) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// UnmarshalText implements encoding.TextUnmarshaler and always fails: what was encoded is not the
// secret, and a decoder left to itself may quote in its error what it could not place.
func (*Sensitive) UnmarshalText([]byte) error {
	return errors.New("a Sensitive can't be decoded; decode a string and hand it to NewSensitive")
}

// LogValue implements slog.LogValuer.
func (Sensitive) LogValue() slog.Value { return slog.StringValue(Redacted) }
