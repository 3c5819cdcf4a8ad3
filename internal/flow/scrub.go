package flow

import (
	"encoding/base64"
	"regexp"
	"slices"
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
	maxScrub  = 2048 // bytes of a text that are looked at
)

// tokenLike matches tokens of anybody: the scheme of an Authorization header with what follows,
// JSON web tokens, and Databricks' personal access tokens.
var tokenLike = regexp.MustCompile(`(?i:\bbearer\s+[A-Za-z0-9._~+/=-]{8,})|\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,2}|\bdapi[0-9a-f]{16,}(?:-[0-9]+)?`)

func newScrubber(secrets ...provision.Sensitive) scrubber {
	var s scrubber
	for _, v := range secrets {
		if text := v.Reveal(); len(text) >= minSecret {
			b := []byte(text)
			s.secrets = append(s.secrets, text, base64.RawStdEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b))
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
	if !s.suspects(t) {
		return t
	}
	return s.thorough(t)
}

// thorough is scrub, byte by byte.
func (s scrubber) thorough(t string) string {
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

// suspects reports whether scrub may have to change t. It is quick, and wrong only in its yes: most of
// what upstream says is an id or a sentence without a trace of a secret.
func (s scrubber) suspects(t string) bool {
	lower := strings.ToLower(t)
	for _, sign := range []string{"bearer", "eyj", "dapi"} { // of tokenLike
		if strings.Contains(lower, sign) {
			return true
		}
	}
	if len(s.secrets) > 0 && strings.ContainsAny(t, encoders) {
		return true
	}
	return slices.ContainsFunc(s.secrets, func(secret string) bool { return share(t, secret) })
}

// encoders begin a spelling of a byte by others. A text without any holds of a secret only what it
// shows.
const encoders = `\%&+`

// share reports whether t may hold secret or minPart bytes of it. Such a part, wherever it begins,
// covers one of the blocks that t is cut into.
func share(t, secret string) bool {
	part := min(minPart, len(secret))
	block := (part + 1) / 2
	for i := 0; len(t) >= part && i+block <= len(t); i += block {
		if strings.Contains(secret, t[i:i+block]) {
			return true
		}
	}
	return false
}

// longest returns how many bytes at the beginning of t stand for a secret or a long part of one.
func (s scrubber) longest(t string) int {
	best := 0
	for _, secret := range s.secrets {
		for from := start(t, secret, 0); from < len(secret); from = start(t, secret, from+1) {
			if matched, n := run(t, secret[from:]); n > best && (matched == len(secret) || matched >= minPart) {
				best = n
			}
		}
	}
	return best
}

// start returns the next place in secret, at from or later, whose byte t may begin with; the length
// of secret if there is none. A token of IMS has some 1500 bytes, so it matters that this is quick.
func start(t, secret string, from int) int {
	if strings.IndexByte(encoders, t[0]) >= 0 {
		return from
	}
	if i := strings.IndexByte(secret[from:], t[0]); i >= 0 {
		return from + i
	}
	return len(secret)
}

// A reading decides between spellings where a text can be read in several ways, such as "%2525",
// which is "%" encoded twice or "%25" encoded once.
type reading struct {
	depth int  // how often "%" was encoded; 0: never, anyDepth: as often as it can be
	plain bool // "&" and backslashes stand for themselves where they can
}

const anyDepth = -1

// How often an encoding is undone that was applied again and again.
const (
	maxDepth       = 4
	maxBackslashes = 15 // three times
)

// readings begins with the one that finds a spelling of a byte wherever there is any.
var readings = []reading{
	{anyDepth, false}, {0, false}, {1, false}, {2, false}, {3, false},
	{anyDepth, true}, {0, true}, {1, true}, {2, true}, {3, true},
}

// run returns how many bytes of secret the beginning of t stands for, and in how many bytes of t, in
// the reading that gives most.
func run(t, secret string) (matched, n int) {
	for _, r := range readings {
		m, k := r.read(t, secret)
		if m > matched {
			matched, n = m, k
		}
		if matched == 0 || matched == len(secret) {
			break
		}
	}
	return matched, n
}

func (r reading) read(t, secret string) (matched, n int) {
	for matched < len(secret) {
		k := r.spelled(t[n:], secret[matched])
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
func (r reading) spelled(t string, c byte) int {
	if t == "" {
		return 0
	}
	literal := t[0] == c || t[0] == '+' && c == ' '
	n := 0
	switch {
	case t[0] == '%':
		n = percent(t, c, r.depth)
	case literal && r.plain:
	case t[0] == '\\':
		n = afterBackslash(t, c)
	case t[0] == '&':
		n = entity(t, c)
	}
	if n == 0 && literal {
		return 1
	}
	return n
}

func afterBackslash(t string, c byte) int {
	rest := strings.TrimLeft(t[:min(len(t), maxBackslashes+5)], `\`)
	n := min(len(t), maxBackslashes+5) - len(rest)
	if len(rest) >= 5 && rest[0] == 'u' && hexByte(rest[1:3]) == 0 && hexByte(rest[3:5]) == int(c) {
		return n + 5
	}
	if rest != "" && rest[0] == c {
		return n + 1
	}
	return 0
}

func percent(t string, c byte, depth int) int {
	found := 0
	for d, n := 1, 1; d <= maxDepth && len(t) >= n+2 && (d <= depth || depth == anyDepth); d, n = d+1, n+2 {
		if (d == depth || depth == anyDepth) && hexByte(t[n:n+2]) == int(c) {
			found = n + 2
		}
		if t[n:n+2] != "25" {
			break
		}
	}
	return found
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
