package scrub

import (
	"encoding/base64"
	"regexp"
	"strings"
)

// shape is what the tokens of one issuer look like.
type shape struct {
	sign string         // in lower case; quickly seen, and rare
	back int            // bytes of a token before the sign
	form *regexp.Regexp // of a token from its first byte on
	glue bool           // also after a letter or digit: nothing else looks like that
	sure func(found string) bool
}

// shapes are those of all tokens that are recognized, whoever's they are. Where sure is set, words and names
// may have the shape, too, and it reports whether what was found is a token nevertheless. It is never changed.
var shapes = []shape{
	{sign: "bearer", form: regexp.MustCompile(`^(?i:bearer)\s+[A-Za-z0-9._~+/=-]{8,}`), sure: random},
	{sign: "basic", form: regexp.MustCompile(`^(?i:basic)\s+[A-Za-z0-9+/]{16,}=*`), sure: userAndPassword},
	{sign: "eyj", form: regexp.MustCompile(`^eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}`), sure: webToken},
	{sign: "dapi", form: regexp.MustCompile(`^(?i:dapi[0-9a-f]{16,})(?:-[0-9]+)?`), glue: true},                     // Databricks, of a person
	{sign: "dose", form: regexp.MustCompile(`^(?i:dose[0-9a-f]{16,})`), glue: true},                                 // Databricks, OAuth secret
	{sign: "doau", form: regexp.MustCompile(`^(?i:doau[0-9a-f]{16,})`), glue: true},                                 // Databricks, refresh token
	{sign: "q~", back: 4, form: regexp.MustCompile(`^[A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}`), glue: true}, // Entra ID
	{sign: "p8e-", form: regexp.MustCompile(`^p8e-[A-Za-z0-9_-]{16,}`), sure: mixed},                                // Adobe
	{sign: "hvs.", form: regexp.MustCompile(`^hvs\.[A-Za-z0-9_-]{16,}`), sure: bothCases},                           // Vault
	{sign: "hvb.", form: regexp.MustCompile(`^hvb\.[A-Za-z0-9_-]{16,}`), sure: bothCases},                           // Vault, batch
	{sign: "hvr.", form: regexp.MustCompile(`^hvr\.[A-Za-z0-9_-]{16,}`), sure: bothCases},                           // Vault, recovery
	{sign: "su", form: regexp.MustCompile(`^SU[A-Z2-7]{56}`)},                                                       // NATS, a user's seed
	{sign: userInfo, form: regexp.MustCompile(`^://[^\s/@"'<>]+@`), glue: true, sure: hasPassword},
	{sign: "-----begin ", form: regexp.MustCompile(`^-----BEGIN (?:[A-Z]{2,9} )?PRIVATE KEY-----[^-]*-*`), glue: true}, // PEM
}

// userInfo begins the part of an address that may name a user and a password.
const userInfo = "://"

// leastToken is how long the shortest token is that is surely one, a web token without content, in bytes. A
// password in an address may be shorter.
const leastToken = 15

// HoldsToken reports whether there is a token in t, whoever's it is. It knows the shapes that Text takes
// out of every text, but is stricter where a word or a name may have that shape, too: "bearer
// authentication" holds none, nor does an address with a user's name alone.
func HoldsToken(t string) bool {
	if len(t) < leastToken && !strings.Contains(t, userInfo) {
		return false
	}
	low := lower(t)
	for _, s := range shapes {
		for at := 0; at < len(t); {
			found, ok := s.next(t, low, at)
			if !ok {
				break
			}
			if s.sure == nil || s.sure(t[found.from:found.to]) {
				return true
			}
			at = found.to
		}
	}
	return false
}

// looksLikeToken returns t without what looks like a token.
func looksLikeToken(t string) string {
	for _, s := range shapes {
		low, found := lower(t), []span(nil)
		for at := 0; at < len(t); {
			next, ok := s.next(t, low, at)
			if !ok {
				break
			}
			at = next.to
			if s.sign == userInfo {
				next = span{next.from + len(userInfo), next.to - 1}
			}
			found = append(found, next)
		}
		t = replace(t, found)
	}
	return t
}

// next returns the first place from at on with the shape; low is t in lower case.
func (s shape) next(t, low string, at int) (span, bool) {
	for {
		i := strings.Index(low[at:], s.sign)
		if i < 0 {
			return span{}, false
		}
		from := at + i - s.back
		if from >= 0 && (s.glue || from == 0 || !wordByte(low[from-1])) {
			if found := s.form.FindStringIndex(t[from:]); found != nil {
				return span{from, from + found[1]}, true
			}
		}
		at += i + 1
	}
}

// lower returns t with its ASCII letters in lower case, so that it is as long as before.
func lower(t string) string {
	if !strings.ContainsFunc(t, func(r rune) bool { return 'A' <= r && r <= 'Z' }) {
		return t
	}
	b := []byte(t)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// webToken reports whether what begins like one has the header of a JSON Web Token, or two parts in JSON.
func webToken(t string) bool {
	header, rest, _ := strings.Cut(t, ".")
	text, err := base64.RawURLEncoding.DecodeString(header)
	return err == nil && strings.Contains(string(text), `"alg"`) || strings.HasPrefix(rest, "eyJ")
}

// userAndPassword reports whether it is what HTTP's basic authentication sends.
func userAndPassword(t string) bool {
	text, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.Fields(t)[1], "="))
	return err == nil && strings.Contains(string(text), ":") &&
		!strings.ContainsFunc(string(text), func(r rune) bool { return r < ' ' || r > '~' })
}

func hasPassword(t string) bool { return strings.Contains(t[len(userInfo):], ":") }

// longRun is how many letters and digits in a row are no word.
const longRun = 20

// random reports whether there is a long run of letters and digits that has some of both.
func random(t string) bool {
	for run := range strings.FieldsFuncSeq(lower(t), func(r rune) bool { return r > '~' || !wordByte(byte(r)) }) {
		if len(run) >= longRun && strings.ContainsAny(run, digits) && strings.Trim(run, digits) != "" {
			return true
		}
	}
	return false
}

const digits = "0123456789"

// mixed reports whether there are digits, or letters of both cases, after the sign of Adobe.
func mixed(t string) bool { return strings.ContainsAny(t[len("p8e-"):], digits) || bothCases(t) }

// bothCases reports whether there are letters in upper case beside the sign, which is in lower case.
func bothCases(t string) bool { return lower(t) != t }
