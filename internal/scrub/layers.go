package scrub

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// maxLayers is how many encodings may be under each other, of which all but the innermost one are base64 or
// hex.
const maxLayers = 4

// Least sizes of what is decoded: a code of a short secret that is encoded already, and what is in it.
const (
	minCode = 14
	minText = minDigits
)

// layered returns the whole of every base64 or hex code in t in which a secret stands that is encoded once
// more. What it holds directly is a needle's to find, without any decoding.
func (s Scrubber) layered(t string, layers int) (found []span) {
	low := fold(t)
	for from := 0; from < len(t); {
		to := from
		for to < len(t) && digit64(folded[t[to]]) {
			to++
		}
		if to-from >= minCode && s.holds(t[from:to], layers) {
			found = append(found, wholeCode(low, span{from, to}))
		}
		from = to + 1
	}
	return found
}

// holds reports whether a secret stands in what was encoded. The code may have something else before it.
func (s Scrubber) holds(code string, layers int) bool {
	if raw, err := hex.DecodeString(code); err == nil && s.among(raw, layers) {
		return true
	}
	standard := strings.NewReplacer("-", "+", "_", "/").Replace(code)
	for phase := range 4 {
		digits := standard[phase:]
		if len(digits)%4 == 1 {
			digits = digits[:len(digits)-1]
		}
		if raw, err := base64.RawStdEncoding.DecodeString(digits); err == nil && s.among(raw, layers) {
			return true
		}
	}
	return false
}

// among reports whether a secret stands in the texts among bytes of any kind.
func (s Scrubber) among(raw []byte, layers int) bool {
	for text := range strings.FieldsFuncSeq(string(raw), func(r rune) bool { return r > '~' || r < ' ' && r != 0 && !blank(r) }) {
		if len(text) >= minText && len(s.findWithin(text, layers)) > 0 {
			return true
		}
	}
	return false
}
