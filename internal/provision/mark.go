package provision

import (
	"html"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// What a service stores of a text may differ from what was sent: in case, Unicode form, blanks and invisible
// characters, it may be escaped for HTML, and it may be cut. So texts are compared folded, and the mark is
// looked for in a folded description. All 32 digits make a connection ours; fewer only say that it may be.

// fold returns s without what a service may change: for comparison only.
func fold(s string) string {
	s = html.UnescapeString(html.UnescapeString(s)) // an escaped text may be escaped once more
	s = cases.Fold().String(norm.NFKC.String(s))
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Variation_Selector) {
			return -1
		}
		return r
	}, s)
	return norm.NFC.String(s)
}

// sameText reports whether a service may have stored one of the texts as the other.
func sameText(a, b string) bool { return a == b || fold(a) == fold(b) }

// minCutName is the length, in bytes, from which on a stored name may be another one that was cut.
const minCutName = 8

// cutText reports whether stored is the beginning of sent, as far as a service leaves it recognizable.
func cutText(stored, sent string) bool {
	stored = strings.TrimRight(fold(stored), ".") // an ellipsis, too
	return len(stored) >= minCutName && strings.HasPrefix(fold(sent), stored)
}

// nameForms returns the forms in which a service is likely to have stored a name, the name itself first.
func nameForms(name string) []string {
	composed := norm.NFC.String(name)
	plain := strings.ToLower(strings.Join(strings.Fields(composed), " "))
	forms := []string{name}
	for _, f := range []string{composed, plain} {
		if !slices.Contains(forms, f) {
			forms = append(forms, f)
		}
	}
	return forms
}

const markDigits = 32

var (
	foldedPrefix = fold(MarkPrefix)
	foldedMark   = regexp.MustCompile(regexp.QuoteMeta(foldedPrefix) + `([0-9a-f]{0,32})`)
)

// markIn returns the digits of the mark that a description holds: of the last whole one, else of the last one
// that was cut, which may have left none. It returns false where there is no trace of a mark.
func markIn(description string) (digits string, marked bool) {
	if len(description) < len(foldedPrefix) {
		return "", false
	}
	for _, m := range foldedMark.FindAllStringSubmatch(fold(description), -1) {
		if len(m[1]) == markDigits || len(digits) < markDigits {
			digits, marked = m[1], true
		}
	}
	return digits, marked
}

// markHex returns the digits of the key's mark.
func (k Key) markHex() string { return strings.Trim(strings.TrimPrefix(k.Mark(), MarkPrefix), "]") }

// carriesMark reports whether a description holds a whole mark, whoever's it is.
func carriesMark(description string) bool {
	digits, _ := markIn(description)
	return len(digits) == markDigits
}
