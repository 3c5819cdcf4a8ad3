package story

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Printable returns text that others wrote as a terminal may show it: what is not printable (control
// characters, what turns the direction of the text, what has no width) is written as in Go's quoted
// strings, so that nothing can pass for something else. Printable text stays as it is.
func Printable(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1, !strconv.IsPrint(r):
			quoted := strconv.Quote(text[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteRune(r)
		}
		text = text[size:]
	}
	return b.String()
}

// PrintableLines is Printable for text that may have several lines, as errors do. Each line but the
// first begins with a blank, so that none can pass for a message of its own; one that was made to looks
// like a part of what it is.
func PrintableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if lines[i] = Printable(line); i > 0 && !strings.HasPrefix(line, " ") {
			lines[i] = "  " + lines[i]
		}
	}
	return strings.Join(lines, "\n")
}
