package scrub

import (
	"errors"
	"net"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// maxLook is how much of a text Line looks at, in bytes.
const maxLook = 2048

// Line is Text for a text of any length that is to become a part of an error or a log line: it returns
// one line of valid UTF-8 without control characters, of at most limit characters. It looks at the
// first 2 KiB only.
func (s Scrubber) Line(t string, limit int) string {
	whole := len(t) <= maxLook
	t = s.Text(t[:min(len(t), maxLook)])
	if !whole { // what is left of a secret that was cut in two is too short to be seen
		seen := strings.LastIndex(t, provision.Redacted) + len(provision.Redacted)
		t = t[:max(seen, len(t)-6*Part)]
	}
	t = strings.ToValidUTF8(t, "\uFFFD")
	t = strings.Join(strings.FieldsFunc(t, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) && r != '\uFFFD' }), " ")
	if utf8.RuneCountInString(t) <= limit {
		return t
	}
	return string([]rune(t)[:limit-1]) + "…"
}

// unquotedNote stands for what Unquoted leaves out.
const unquotedNote = "(the answer isn't quoted here)"

// Unquoted returns the text of an error of an HTTP client, as yet with secrets. Of an error about how an
// answer is made, as opposed to one of the network or of TLS, it returns only what comes before the
// quotation, for an answer may echo anything.
func Unquoted(err error) string {
	text := err.Error()
	var ne net.Error
	var op *net.OpError
	if errors.As(err, &ne) && (errors.As(err, &op) || ne.Timeout()) {
		return text
	}
	for _, mark := range []string{`"`, "malformed MIME header", "cannot unmarshal", "invalid character"} {
		if i := strings.Index(text, mark); i >= 0 {
			text = text[:i] + unquotedNote
		}
	}
	return text
}
