package provision

import (
	"fmt"
	"io"
	"log/slog"
)

// Sensitive is a secret value. Whatever prints, logs or encodes it gets "[redacted]"; only Reveal
// returns the text.
type Sensitive string

// Redacted stands wherever a secret was taken out.
const Redacted = "[redacted]"

// Reveal returns the secret itself. Call it where the value leaves for its destination, nowhere else.
func (s Sensitive) Reveal() string { return string(s) }

// Format implements fmt.Formatter for every verb, so that no verb can print the value.
func (Sensitive) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Redacted) }

// String implements fmt.Stringer.
func (Sensitive) String() string { return Redacted }

// MarshalText implements encoding.TextMarshaler, and with it JSON and YAML encoding.
func (Sensitive) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// LogValue implements slog.LogValuer.
func (Sensitive) LogValue() slog.Value { return slog.StringValue(Redacted) }
