package event

import (
	"strings"
	"testing"
)

// The byte that can't stand where it does is told, counted from one.
func TestSyntaxErrorsTellTheByte(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{bad`:        "byte 2 of 4",
		` {bad`:       "byte 3 of 5",
		`x`:           "byte 1 of 1",
		`[1 2]`:       "byte 4 of 5",
		`{"a":1,}`:    "byte 8 of 8",
		`{} x`:        "byte 4 of 4",
		`{"a":`:       "byte 5 of 5", // it ends too early
		"{\"é\": bad": "byte 8 of 10",
	} {
		if _, err := parse([]byte(text)); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
