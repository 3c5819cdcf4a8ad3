package story

import (
	"strings"
	"testing"
	"unicode"
)

func TestPrintable(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                        "",
		`Größe 日本 "x" \ 🙂`:        `Größe 日本 "x" \ 🙂`,
		"a\nb\tc\x1b[31m\x00\x7f": `a\nb\tc\x1b[31m\x00\x7f`,
		"a\u202eb\u2066":          `a\u202eb\u2066`,
		"a\u200bb\ufeff\u00ad":    `a\u200bb\ufeff\u00ad`,
		"a\u0085\u2028\u00a0":     `a\u0085\u2028\u00a0`,
		"a\u009b31mb":             `a\u009b31mb`,
		"a\xffb":                  `a\xffb`,
		"\U000e0041":              `\U000e0041`,
		"\ufffd":                  "\ufffd",
	} {
		if got := Printable(text); got != want {
			t.Errorf("%q is shown as %s, want %s", text, got, want)
		}
	}
}

func TestPrintableLines(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                   "",
		"one line":                           "one line",
		"2 wrong settings:\n  A: x\n  B: y":  "2 wrong settings:\n  A: x\n  B: y",
		"first\nworker: all is well":         "first\n  worker: all is well",
		"first\n\tsecond":                    "first\n  \\tsecond",
		"a\r\x1b[2Jb\n\x1b]0;title\x07\x9bx": "a\\r\\x1b[2Jb\n  \\x1b]0;title\\a\\x9bx",
		"ends\n":                             "ends\n  ",
	} {
		if got := PrintableLines(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

func FuzzPrintableLines(f *testing.F) {
	f.Add("a\n\x1b[31mb\xff\u202e")
	f.Fuzz(func(t *testing.T, text string) {
		for i, line := range strings.Split(PrintableLines(text), "\n") {
			if i > 0 && !strings.HasPrefix(line, " ") {
				t.Errorf("%q: line %d is %q", text, i, line)
			}
			if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q: line %d holds what does not print: %q", text, i, line)
			}
		}
		if single := Printable(text); strings.Contains(single, "\n") || Printable(single) != single {
			t.Errorf("%q becomes %q", text, single)
		}
	})
}
