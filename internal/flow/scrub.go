package flow

import (
	"encoding/base64"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// scrubber takes the secrets of one call out of what upstream says about it. The zero value knows no
// secret but still recognizes what looks like a token.
type scrubber struct{ secrets []string }

const (
	minSecret = 4    // shorter ones are no secrets, and would riddle every text
	minPart   = 12   // bytes of a secret that are taken out even without the rest
	maxScrub  = 4096 // bytes of a text that are looked at
)

// tokenLike matches tokens of anybody: the scheme of an Authorization header with what follows,
// JSON web tokens, and Databricks' personal access tokens.
var tokenLike = regexp.MustCompile(`(?i:\bbearer\s+[A-Za-z0-9._~+/=-]{8,})|\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,2}|\bdapi[0-9a-f]{16,}(?:-[0-9]+)?`)

func newScrubber(secrets ...provision.Sensitive) scrubber {
	var s scrubber
	for _, v := range secrets {
		if len(v) >= minSecret {
			b := []byte(v.Reveal())
			s.secrets = append(s.secrets, v.Reveal(), base64.RawStdEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b))
		}
	}
	return s
}

// message returns t without secrets, on one line, in valid UTF-8, with at most maxMessage characters.
func (s scrubber) message(t string) string {
	t = strings.ToValidUTF8(s.scrub(t[:min(len(t), maxScrub)]), "\uFFFD")
	t = strings.Join(strings.FieldsFunc(t, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) && r != '\uFFFD' }), " ")
	if utf8.RuneCountInString(t) <= maxMessage {
		return t
	}
	return string([]rune(t)[:maxMessage-1]) + "…"
}

// id returns t if it is a plain identifier of at most limit bytes and holds no secret, else "".
func (s scrubber) id(t string, limit int) string {
	if len(t) > limit || !identifier.MatchString(t) || s.scrub(t) != t {
		return ""
	}
	return t
}

// scrub replaces every secret in t, also where some or all of its characters are written as in URLs,
// JSON or HTML, and every part of one that has minPart bytes.
func (s scrubber) scrub(t string) string {
	for _, secret := range s.secrets {
		t = strings.ReplaceAll(t, secret, provision.Redacted)
	}
	var b strings.Builder
	for i := 0; i < len(t); {
		if n := s.longest(t[i:]); n > 0 {
			b.WriteString(provision.Redacted)
			i += n
			continue
		}
		b.WriteByte(t[i])
		i++
	}
	return tokenLike.ReplaceAllString(b.String(), provision.Redacted)
}

// longest returns how many bytes at the beginning of t stand for a secret or a long part of one.
func (s scrubber) longest(t string) int {
	best := 0
	for _, secret := range s.secrets {
		for from := range len(secret) {
			if matched, n := run(t, secret[from:]); n > best && (matched == len(secret) || matched >= minPart) {
				best = n
			}
		}
	}
	return best
}

// run returns how many bytes of secret the beginning of t stands for, and in how many bytes of t.
func run(t, secret string) (matched, n int) {
	for matched < len(secret) {
		k := spelled(t[n:], secret[matched])
		if k == 0 {
			break
		}
		matched, n = matched+1, n+k
	}
	return matched, n
}

// spelled returns how many bytes at the beginning of t are a spelling of c: c itself, after
// backslashes, as %XX (whose % may be encoded again and again), \u00XX, &#N; or &name;, or as "+" for
// a blank. It returns 0 if there is none.
func spelled(t string, c byte) int {
	if t == "" {
		return 0
	}
	n := 0
	switch t[0] {
	case '\\':
		n = afterBackslash(t, c)
	case '%':
		n = percent(t, c)
	case '&':
		n = entity(t, c)
	}
	if n == 0 && (t[0] == c || t[0] == '+' && c == ' ') {
		return 1
	}
	return n
}

func afterBackslash(t string, c byte) int {
	rest := strings.TrimLeft(t, `\`)
	n := len(t) - len(rest)
	if len(rest) >= 5 && rest[0] == 'u' && hexByte(rest[1:3]) == 0 && hexByte(rest[3:5]) == int(c) {
		return n + 5
	}
	if rest != "" && rest[0] == c {
		return n + 1
	}
	return 0
}

func percent(t string, c byte) int {
	n := 1
	for strings.HasPrefix(t[n:], "25") {
		n += 2
	}
	if len(t) >= n+2 && hexByte(t[n:n+2]) == int(c) {
		return n + 2
	}
	return 0
}

func entity(t string, c byte) int {
	end := strings.IndexByte(t[:min(len(t), 8)], ';')
	if end < 0 {
		return 0
	}
	if entityByte(t[1:end]) == int(c) {
		return end + 1
	}
	return 0
}

// entityByte returns the byte that an HTML entity without & and ; stands for, -1 if none.
func entityByte(name string) int {
	if digits, ok := strings.CutPrefix(strings.ToLower(name), "#x"); ok {
		return parseByte(digits, 16)
	}
	if digits, ok := strings.CutPrefix(name, "#"); ok {
		return parseByte(digits, 10)
	}
	switch name {
	case "amp":
		return '&'
	case "lt":
		return '<'
	case "gt":
		return '>'
	case "quot":
		return '"'
	case "apos":
		return '\''
	}
	return -1
}

func hexByte(s string) int { return parseByte(s, 16) }

func parseByte(s string, base int) int {
	n, err := strconv.ParseUint(s, base, 8)
	if err != nil {
		return -1
	}
	return int(n)
}
