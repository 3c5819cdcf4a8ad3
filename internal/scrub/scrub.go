// Package scrub takes known secrets out of texts that others wrote, such as the error texts of a
// service that was sent the secret and may give it back in any spelling.
//
// It finds a secret in any case, with blanks and line breaks in between,
//   - as it is, backwards, and in UTF-16, where a NUL stands beside each byte;
//   - where some or all of its bytes are written as in URLs (%41, encoded again and again, or %u0041), JSON and
//     its kin (\u0041, \u{41}, \/), C (\x41, \101), HTML (&#65;, &sol;) or quoted-printable (=41);
//   - as a list of its bytes in hex, in decimal, or in octal of three digits, with nothing or any of blanks and
//     ,;:|-./"' in between, and 0x, 0o or U+ before each;
//   - in base64 (both alphabets, with or without padding) and base32, also where it lies within a longer text that
//     was encoded;
//   - in base64 or hex, as it was written, of any of these, and of that in base64 or hex again, up to four layers.
//
// It also takes out what has the looks of a token, whoever's it is: see HoldsToken.
//
// It does not find a secret shorter than Shortest bytes, nor a part of one below Part (of a list 16 digits in hex or
// 24 others, of a code 12). It does not find one that was encrypted, hashed or compressed; one in other codes (base58, base85, base32
// with another alphabet, UTF-7, letters named or replaced); decimal numbers with zeros before them, octal ones
// without; characters with others than the above between them; several layers of which an outer one is
// neither base64 nor hex, or has lines so short that none holds enough of it; nor the beginning in one text
// and the end in another, but for what is given to Fields.
package scrub

import (
	"slices"
	"strings"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// The lengths in bytes that decide what is taken for a secret.
const (
	// Shortest is the length below which a secret isn't looked for: texts would be riddled, and
	// anybody could guess it.
	Shortest = 4
	// Safe is the length from which a secret is found within words. A shorter one must stand alone,
	// or "test" would take a part out of every "latest".
	Safe = 8
	// Part is how much of a secret is taken out even without the rest.
	Part = 12
)

// Scrubber knows some secrets. The zero value knows none, but still recognizes what looks like a
// token. It is safe for concurrent use.
type Scrubber struct{ needles []needle }

// New returns a Scrubber that knows the secrets. Empty ones and those shorter than Shortest are left
// out.
func New(secrets ...string) Scrubber {
	var s Scrubber
	for i, secret := range secrets {
		if len(secret) >= Shortest && !slices.Contains(secrets[:i], secret) {
			s.needles = append(s.needles, needlesOf(secret)...)
		}
	}
	return s
}

// Text returns t with provision.Redacted in the place of every secret and of every long part of one.
func (s Scrubber) Text(t string) string {
	return looksLikeToken(replace(t, s.find(t)))
}

// Clean reports whether Text leaves t as it is.
func (s Scrubber) Clean(t string) bool { return s.Text(t) == t }

// Fields is Text for a few texts that are told side by side: a secret that begins in one of them and
// goes on in others is found too, in whatever order they stand. It takes four at most.
func (s Scrubber) Fields(fields ...*string) {
	fields = fields[:min(len(fields), 4)]
	cuts := make([][]span, len(fields))
	orders(len(fields), func(order []int) {
		var joined strings.Builder
		for _, f := range order {
			joined.WriteString(*fields[f])
		}
		for _, found := range s.find(joined.String()) {
			at := 0
			for _, f := range order {
				end := at + len(*fields[f])
				if from, to := max(found.from, at), min(found.to, end); from < to {
					cuts[f] = append(cuts[f], span{from - at, to - at})
				}
				at = end
			}
		}
	})
	for f, field := range fields {
		*field = looksLikeToken(replace(*field, cuts[f]))
	}
}

// orders calls visit with every order of the numbers below n. Visit must not keep it.
func orders(n int, visit func([]int)) {
	order := make([]int, 0, n)
	var next func()
	next = func() {
		if len(order) == n {
			visit(order)
			return
		}
		for i := range n {
			if !slices.Contains(order, i) {
				order = append(order, i)
				next()
				order = order[:len(order)-1]
			}
		}
	}
	next()
}

// span is a part of a text.
type span struct{ from, to int }

// replace returns t with provision.Redacted for each span. Spans that overlap or touch become one.
func replace(t string, spans []span) string {
	if len(spans) == 0 {
		return t
	}
	slices.SortFunc(spans, func(a, b span) int { return a.from - b.from })
	var out strings.Builder
	at := 0
	for i := 0; i < len(spans); {
		from, to := spans[i].from, spans[i].to
		for i++; i < len(spans) && spans[i].from <= to; i++ {
			to = max(to, spans[i].to)
		}
		out.WriteString(t[at:from])
		out.WriteString(provision.Redacted)
		at = to
	}
	out.WriteString(t[at:])
	return out.String()
}

// find returns where in t a secret stands, or a long part of one.
func (s Scrubber) find(t string) []span {
	return s.findWithin(t, maxLayers)
}

// findWithin is find, where so many layers of encodings may be under each other.
func (s Scrubber) findWithin(t string, layers int) (found []span) {
	if s.suspects(t) {
		found = s.thorough(t)
	}
	if layers > 1 && len(s.needles) > 0 {
		found = append(found, s.layered(t, layers-1)...)
	}
	return found
}

// thorough is find, byte by byte.
func (s Scrubber) thorough(t string) (found []span) {
	low, units := fold(t), read(t)
	for _, n := range s.needles {
		found = append(found, n.find(low, units)...)
	}
	return found
}

// suspects reports whether find may find something. It is quick, and wrong only in
// its yes: most of what upstream says is an id or a sentence without a trace of a secret.
func (s Scrubber) suspects(t string) bool {
	if len(s.needles) == 0 {
		return false
	}
	if strings.ContainsAny(t, encoders) {
		return true
	}
	low := fold(t)
	if strings.Contains(low, "0x") || strings.Contains(low, "0o") {
		return true
	}
	tight, bare := tighten(low, ""), tighten(low, separators+"+") // a folded minus
	return slices.ContainsFunc(s.needles, func(n needle) bool {
		return n.sharedBy(tight) || n.list && len(bare) < len(tight) && n.sharedBy(bare)
	})
}

// tighten returns t without blanks and separators.
func tighten(t, separators string) string {
	gone := func(r rune) bool { return blank(r) || strings.ContainsRune(separators, r) }
	if !strings.ContainsFunc(t, gone) {
		return t
	}
	return strings.Join(strings.FieldsFunc(t, gone), "")
}

func blank(r rune) bool { return r == ' ' || r >= '\t' && r <= '\r' }

// fold returns t, as long as before, in a form in which nothing differs that doesn't matter: without
// capitals, and with the digits of one of the two alphabets of base64.
func fold(t string) string {
	b := []byte(t)
	for i, c := range b {
		b[i] = folded[c]
	}
	return string(b)
}

// folded is the fold of every byte. It is never changed.
var folded = func() (table [256]byte) {
	for i := range table {
		table[i] = byte(i)
	}
	for c := byte('A'); c <= 'Z'; c++ {
		table[c] = c + 'a' - 'A'
	}
	table['-'], table['_'] = '+', '/'
	return table
}()
