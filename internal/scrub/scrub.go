// Package scrub takes known secrets out of texts that others wrote, such as the error texts of a
// service that was sent the secret and may give it back.
//
// It finds a secret in any case,
//   - as it is;
//   - URL-encoded once, in whole or in part (%41, + for a blank);
//   - escaped as in JSON, in whole or in part (\u0041, \/, \n and the like);
//   - in base64, of both alphabets, with or without padding, also where it is a part of what was encoded;
//   - in hex, also where it is a part of what was encoded;
//
// and in base64 or hex that was itself URL-encoded or escaped once. It also takes out what has the looks of
// a token, no matter whose: see HoldsToken.
//
// It does not find a secret shorter than Shortest bytes, nor a part of one that is shorter than Part bytes, nor
// one in any other code (HTML entities, quoted-printable, octal, base32, lists of bytes), nor one that was
// otherwise encoded twice, reversed, encrypted, hashed or compressed, nor one with anything between its characters,
// blanks included, nor the beginning in one text and the end in another.
package scrub

import (
	"encoding/json"
	"errors"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// The lengths in bytes that decide what is taken for a secret.
const (
	// Shortest is the length below which a secret isn't looked for: it would match everywhere, and
	// anybody could guess it.
	Shortest = 4
	// shortestInWord is the length from which a secret is found within words. A shorter one must stand alone,
	// or "test" would take a part out of every "latest".
	shortestInWord = 8
	// Part is how much of a secret is taken out even where the others are missing.
	Part = 12
)

// Scrubber knows some secrets. The zero value knows none, but still recognizes what looks like a
// token. It is safe for concurrent use.
type Scrubber struct {
	pieces map[string]bool // every part of Part bytes of a secret, or all of a shorter one, in lower case
	sizes  []int           // of the pieces
}

// New returns a Scrubber that knows the secrets. Empty ones and those shorter than Shortest are left
// out.
func New(secrets ...string) Scrubber {
	s := Scrubber{pieces: map[string]bool{}}
	for _, secret := range secrets {
		for _, text := range []string{lower(secret), lower(oneLine(secret))} { // Line looks for the latter
			if len(text) < Shortest {
				continue
			}
			size := min(len(text), Part)
			for i := 0; i+size <= len(text); i++ {
				s.pieces[text[i:i+size]] = true
			}
			if !slices.Contains(s.sizes, size) {
				s.sizes = append(s.sizes, size)
			}
		}
	}
	return s
}

// Text returns t with provision.Redacted in the place of every secret and of every part of one that has Part
// bytes or more.
func (s Scrubber) Text(t string) string {
	return looksLikeToken(replace(t, s.find(t)))
}

// Clean reports whether Text leaves t as it is.
func (s Scrubber) Clean(t string) bool { return s.Text(t) == t }

// find returns where in t a secret stands, or a part of one. It looks at t in all ways to read it. Its cost
// grows with the length of t, not with the number or the length of the secrets.
func (s Scrubber) find(t string) (found []span) {
	if len(s.pieces) == 0 {
		return nil
	}
	for _, r := range readings(t) {
		hits := s.search(r)
		for _, c := range codes {
			hits = append(hits, s.searchCoded(r, c)...)
		}
		for _, hit := range hits {
			found = append(found, r.source(hit))
		}
	}
	return found
}

// searchCoded returns all of what is encoded by c in r and has a secret in it, or a part of one.
func (s Scrubber) searchCoded(r reading, c code) (found []span) {
	for from := 0; from < len(r.text); from++ {
		to := from
		for to < len(r.text) && c.digit(r.text[to]) >= 0 {
			to++
		}
		for start := from; start < min(from+c.starts, to); start++ {
			decoded, end := c.decode(r, span{start, to}), 0
			for _, hit := range s.search(decoded) {
				if digits := decoded.source(hit); digits.to > end {
					digits = r.whole(digits)
					found, end = append(found, digits), digits.to
				}
			}
		}
		from = to
	}
	return found
}

// search returns where in r a secret stands, or a part of one, by where it begins.
func (s Scrubber) search(r reading) (found []span) {
	text := lower(string(r.text))
	for i := range len(text) {
		for _, size := range s.sizes {
			if i+size <= len(text) && s.pieces[text[i:i+size]] && (size >= shortestInWord || r.alone(span{i, i + size})) {
				found = append(found, span{i, i + size})
			}
		}
	}
	return found
}

// span is a part of a text.
type span struct{ from, to int }

// reading is a way to read a text: what it says, and where each byte of that stands in it.
type reading struct {
	text []byte
	at   []span
}

func (r *reading) add(c byte, at span) { r.text, r.at = append(r.text, c), append(r.at, at) }

// source returns where in the text a part of what is read stands.
func (r reading) source(s span) span { return span{r.at[s.from].from, r.at[s.to-1].to} }

// alone reports whether no letter or digit stands beside a part.
func (r reading) alone(s span) bool {
	word := func(i int) bool { return i >= 0 && i < len(r.text) && wordByte(r.text[i]) }
	return !word(s.from-1) && !word(s.to)
}

// whole returns s grown to all of the encoded text around it.
func (r reading) whole(s span) span {
	for s.from > 0 && digit64(r.text[s.from-1]) >= 0 {
		s.from--
	}
	for s.to < len(r.text) && digit64(r.text[s.to]) >= 0 {
		s.to++
	}
	for s.to < len(r.text) && r.text[s.to] == '=' {
		s.to++
	}
	return s
}

// escapes are the ways to write single characters. They can't be undone all at once, for each leaves the
// signs of the others as they are.
var escapes = []struct {
	form *regexp.Regexp
	undo func(string) (string, error)
}{
	{regexp.MustCompile(`%[0-9A-Fa-f]{2}`), url.PathUnescape},
	{regexp.MustCompile(`%[0-9A-Fa-f]{2}|\+`), url.QueryUnescape},
	{regexp.MustCompile(`\\(?:u[Dd][89ABab][0-9A-Fa-f]{2}\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|["\\/bfnrt])`), unquote},
}

func unquote(escaped string) (text string, err error) {
	err = json.Unmarshal([]byte(`"`+escaped+`"`), &text)
	return text, err
}

// readings returns t as it is, and with each of the escapes undone that it has.
func readings(t string) []reading {
	var plain reading
	for i := range len(t) {
		plain.add(t[i], span{i, i + 1})
	}
	all := []reading{plain}
	for _, e := range escapes {
		escaped := e.form.FindAllStringIndex(t, -1)
		if escaped == nil {
			continue
		}
		var r reading
		at := 0
		for _, loc := range append(escaped, []int{len(t), len(t)}) {
			for ; at < loc[0]; at++ {
				r.add(t[at], span{at, at + 1})
			}
			text, _ := e.undo(t[loc[0]:loc[1]]) // what has the form can be undone
			for _, c := range []byte(text) {
				r.add(c, span{loc[0], loc[1]})
			}
			at = loc[1]
		}
		all = append(all, r)
	}
	return all
}

// code writes bytes as digits.
type code struct {
	bits   int            // of a digit
	starts int            // digits of a longer text in front of which the bits of a byte may begin
	digit  func(byte) int // the value of a digit; -1 for anything else
}

// codes are hex and base64.
var codes = []code{{4, 2, digit16}, {6, 4, digit64}}

// decode returns what the digits of r say from the first one on.
func (c code) decode(r reading, digits span) (decoded reading) {
	value, bits := 0, 0
	for i := digits.from; i < digits.to; i++ {
		value, bits = (value<<c.bits|c.digit(r.text[i]))&0xffff, bits+c.bits
		if bits >= 8 {
			bits -= 8
			decoded.add(byte(value>>bits), span{i - 1, i + 1})
		}
	}
	return decoded
}

func digit16(b byte) int { return strings.IndexByte("0123456789abcdef", lowered(b)) }

func digit64(b byte) int {
	switch b {
	case '-':
		b = '+'
	case '_':
		b = '/'
	}
	return strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", b)
}

// replace returns t with provision.Redacted for each span. Spans that overlap or touch become one.
func replace(t string, spans []span) string {
	slices.SortFunc(spans, func(a, b span) int { return a.from - b.from })
	var out strings.Builder
	at := 0
	for i := 0; i < len(spans); {
		from, to := spans[i].from, spans[i].to
		for i++; i < len(spans) && spans[i].from <= to; i++ {
			to = max(to, spans[i].to)
		}
		out.WriteString(t[at:from] + provision.Redacted)
		at = to
	}
	return out.String() + t[at:]
}

// maxLook is how much of a text Line looks at, in bytes.
const maxLook = 2048

// longestByte is how many bytes one may be written with: \u0041.
const longestByte = 6

// Line is Text for a text of any length that is to become a part of an error or a log line: it returns
// one line of valid UTF-8 without control characters, of at most limit characters. It looks at the
// first 2 KiB only.
func (s Scrubber) Line(t string, limit int) string {
	cut := len(t) > maxLook
	t = s.Text(oneLine(t[:min(len(t), maxLook)]))
	if cut { // the end may be a part of a secret that is too short to be found
		seen := strings.LastIndex(t, provision.Redacted) + len(provision.Redacted)
		t = t[:max(seen, len(t)-longestByte*Part)]
	}
	if utf8.RuneCountInString(t) <= limit {
		return t
	}
	return string([]rune(t)[:limit-1]) + "…"
}

// oneLine returns valid UTF-8 without what doesn't show, and with single blanks in the place of controls and of
// all other blanks.
func oneLine(t string) string {
	t = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r) || unicode.IsControl(r):
			return ' '
		case r != '\uFFFD' && (unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point) || !unicode.IsPrint(r)):
			return -1
		}
		return r
	}, strings.ToValidUTF8(t, "\uFFFD"))
	return strings.Join(strings.Fields(t), " ")
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
