package scrub

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/canary"
)

func TestLineIsOneShortCleanLine(t *testing.T) {
	t.Parallel()
	s := New("the-secret")
	for in, want := range map[string]string{
		"":                                     "",
		" a\r\n\tb\x1b[31m\x00c ":              "a b [31m c",
		"a\xffb":                               "a\uFFFDb",
		"the-secret\nthe-secret":               gone + " " + gone,
		"12345678901234567890123":              "12345678901234567890123",
		strings.Repeat("ä", 41):                strings.Repeat("ä", 39) + "…",
		"x" + strings.Repeat("the-secret", 99): "x" + gone,
	} {
		if got := s.Line(in, 40); got != want {
			t.Errorf("%.60q: got %q, want %q", in, got, want)
		}
	}
	if got := s.Line(strings.Repeat("ü", 1<<20), 500); utf8.RuneCountInString(got) != 500 || !utf8.ValidString(got) {
		t.Errorf("got %d characters", utf8.RuneCountInString(got))
	}
}

// TestLineEndsBeforeASecretThatIsCutOff lets the limit of what is looked at fall anywhere in a secret,
// in a text of secrets only, so that no other limit cuts it off.
func TestLineEndsBeforeASecretThatIsCutOff(t *testing.T) {
	t.Parallel()
	secret := canary.Plain()
	s := New(secret)
	for name, spelling := range canary.Spellings {
		said := spelling.Write(secret)
		for shift := 0; shift < len(said); shift += 7 {
			text := strings.Repeat("x", shift) + strings.Repeat(said, 2+maxLook/len(said))
			if rest := strings.Trim(strings.ReplaceAll(s.Line(text, 500), gone, ""), "x0U+,: "); rest != "" {
				t.Fatalf("%s, %d: %q is left", name, shift, rest)
			}
		}
	}
}

func TestUnquoted(t *testing.T) {
	t.Parallel()
	for in, want := range map[error]string{
		fmt.Errorf("net/http: malformed HTTP response %q", "x"):               "net/http: malformed HTTP response " + unquotedNote,
		fmt.Errorf("malformed MIME header line: X: %s", "x"):                  unquotedNote,
		fmt.Errorf("oauth2: cannot parse json: invalid character '%s'", "x"):  "oauth2: cannot parse json: " + unquotedNote,
		fmt.Errorf("json: cannot unmarshal number 1 into Go value"):           "json: " + unquotedNote,
		&net.OpError{Op: "dial", Net: "tcp", Err: errors.New(`lookup "x"`)}:   `dial tcp: lookup "x"`,
		&net.OpError{Op: "read", Net: "tcp", Err: &net.DNSError{Err: "slow"}}: "read tcp: lookup : slow",
		&net.DNSError{Err: "no such host", Name: "h"}:                         "lookup h: no such host",
		io.ErrUnexpectedEOF: "unexpected EOF",
	} {
		if got := Unquoted(in); got != want {
			t.Errorf("%v: got %q, want %q", in, got, want)
		}
	}
}
