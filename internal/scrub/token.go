package scrub

import (
	"encoding/base64"
	"iter"
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

// shapes are those of all tokens that are recognized, no matter whose. Where sure is set, words and names
// may have the shape, too, and it reports whether what was found is a token nevertheless. It is never changed.
var shapes = []shape{
	{sign: "bearer", form: regexp.MustCompile(`^(?i:bearer)(?:\s|%20|[:=+"])+[A-Za-z0-9._~+/=-]{8,}`), sure: random},
	{sign: "basic", form: regexp.MustCompile(`^(?i:basic)(?:\s|%20|[:=+"])+[A-Za-z0-9+/]{16,}=*`), sure: userAndPassword},
	{sign: "eyj", form: inJSON, sure: webToken},
	{sign: "eya", form: inJSON, sure: webToken},
	{sign: "ewo", form: inJSON, sure: webToken},
	{sign: "ew0", form: inJSON, sure: webToken},
	{sign: "dapi", form: regexp.MustCompile(`^(?i:dapi[0-9a-f]{16,})(?:-[0-9]+)?`), glue: true},                     // Databricks, of a person
	{sign: "dose", form: regexp.MustCompile(`^(?i:dose[0-9a-f]{16,})`), glue: true},                                 // Databricks, OAuth secret
	{sign: "doau", form: regexp.MustCompile(`^(?i:doau[0-9a-f]{16,})`), glue: true},                                 // Databricks, refresh token
	{sign: "q~", back: 4, form: regexp.MustCompile(`^[A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}`), glue: true}, // Entra ID
	{sign: "p8e-", form: regexp.MustCompile(`^p8e-[A-Za-z0-9_-]{16,}`), sure: noName},                               // Adobe
	{sign: "hvs.", form: regexp.MustCompile(`^hvs\.[A-Za-z0-9_-]{16,}`), sure: noName},                              // Vault
	{sign: "hvb.", form: regexp.MustCompile(`^hvb\.[A-Za-z0-9_-]{16,}`), sure: noName},                              // Vault, batch
	{sign: "hvr.", form: regexp.MustCompile(`^hvr\.[A-Za-z0-9_-]{16,}`), sure: noName},                              // Vault, recovery
	{sign: "su", form: regexp.MustCompile(`^SU[A-Z2-7]{56}`)},                                                       // NATS, a user's seed
	{sign: userInfo, form: regexp.MustCompile(`^://[^\s/@"'<>]+@[^\s/?#;,"'<>]*`), glue: true, sure: hasPassword},
	{sign: "-----begin ", form: regexp.MustCompile(`^` + pemBegin + `(?:[^-]|-[^-])*(?:-----END (?:[A-Z]{2,9} )?PRIVATE KEY-----)?`), glue: true, sure: hasKey},
}

// inJSON is the form of a web token: each of its first parts is JSON, which begins with {" or with a blank or a
// line break between the two.
var inJSON = regexp.MustCompile(`^` + jsonBegins + `[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}`)

const (
	jsonBegins = `(?:eyJ|eyA[gi]|ewo[gJi]|ew0K)`
	pemBegin   = `-----BEGIN (?:[A-Z]{2,9} )?PRIVATE KEY-----`
)

// userInfo begins the part of an address that may name a user and a password.
const userInfo = "://"

// leastToken is how long the shortest token is that is surely one, a web token without content, in bytes. A
// password in an address may be shorter.
const leastToken = 15

// HoldsToken reports whether there is a token in t, no matter whose. It knows the shapes that Text takes out of
// every text, but is stricter where words, a name or an address may have that shape, too: a word
// too many taken out of a text costs little, a request that is refused for nothing costs the request. "bearer
// authentication" holds none, nor does an address with a user's name or a port alone. A password in an address is not seen where it holds one of /?#;, or a blank, or is
// of one to five digits, like a port.
func HoldsToken(t string) bool {
	if len(t) < leastToken && !strings.Contains(t, userInfo) {
		return false
	}
	low := lower(t)
	for _, s := range shapes {
		for found := range s.all(t, low) {
			if s.sure == nil || s.sure(t[found.from:found.to]) {
				return true
			}
		}
	}
	return false
}

// looksLikeToken returns t without what looks like a token.
func looksLikeToken(t string) string {
	for _, s := range shapes {
		var found []span
		for part := range s.all(t, lower(t)) {
			if s.sign == userInfo {
				part = span{part.from + len(userInfo), part.from + strings.LastIndexByte(t[part.from:part.to], '@')}
			}
			found = append(found, part)
		}
		t = replace(t, found)
	}
	return t
}

// all returns where the shape is in t, one after the other; low is t in lower case.
func (s shape) all(t, low string) iter.Seq[span] {
	return func(yield func(span) bool) {
		for at := 0; at < len(t); {
			i := strings.Index(low[at:], s.sign)
			if i < 0 {
				return
			}
			from := at + i - s.back
			at += i + 1
			if from < 0 || !s.glue && from > 0 && wordByte(low[from-1]) {
				continue
			}
			if found := s.form.FindStringIndex(t[from:]); found != nil {
				at = from + found[1]
				if !yield(span{from, at}) {
					return
				}
			}
		}
	}
}

// lower returns t with its ASCII letters in lower case, so that it is as long as before.
func lower(t string) string {
	if !strings.ContainsFunc(t, func(r rune) bool { return 'A' <= r && r <= 'Z' }) {
		return t
	}
	b := []byte(t)
	for i, c := range b {
		b[i] = lowered(c)
	}
	return string(b)
}

// lowered returns an ASCII letter in lower case, and any other byte as it is.
func lowered(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// wordByte reports whether c is a digit or a letter in lower case.
func wordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
}

var (
	begunInJSON = regexp.MustCompile(`^` + jsonBegins)
	afterScheme = regexp.MustCompile(`^(?i:basic)(?:\s|%20|[:=+"])+`)
	beforeKey   = regexp.MustCompile(`^` + pemBegin)
	// portLike may be a password, but is likelier a port.
	portLike = regexp.MustCompile(`^[0-9]{1,5}$`)
	// yearLike may stand after an @, with a full stop or the like behind it, but is no host.
	yearLike = regexp.MustCompile(`^[0-9]{1,4}[^0-9A-Za-z]*$`)
	// wordy is what is put together from words of four letters or more, with numbers after them, or is one word in capitals.
	wordy = regexp.MustCompile(`^(?:(?:[A-Z]?[a-z]{3,}[0-9]{0,4})+|[A-Z]+[0-9]{0,4})$`)
)

// webToken reports whether what begins like one has the header of a JSON Web Token, or two parts in JSON.
func webToken(t string) bool {
	header, rest, _ := strings.Cut(t, ".")
	text, err := base64.RawURLEncoding.DecodeString(header)
	return err == nil && strings.Contains(string(text), `"alg"`) || begunInJSON.MatchString(rest)
}

// userAndPassword reports whether it is what HTTP's basic authentication sends.
func userAndPassword(t string) bool {
	t = t[len(afterScheme.FindString(t)):]
	text, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(t, "="))
	return err == nil && strings.Contains(string(text), ":") &&
		!strings.ContainsFunc(string(text), func(r rune) bool { return r < ' ' || r > '~' })
}

// hasPassword reports whether an address names a password, or a token as its user. The part that may do so ends
// at the first character that ends it in a URL, and what follows may have an @ of its own.
func hasPassword(t string) bool {
	at := strings.LastIndexByte(t, '@')
	info, host := t[len(userInfo):at], t[at+1:]
	if strings.ContainsAny(info, "?#;,") || yearLike.MatchString(host) {
		return false
	}
	user, password, found := strings.Cut(info, ":")
	return found && !portLike.MatchString(password) || strings.ContainsAny(user, digits) && hasDenseRun(user)
}

// hasKey reports whether something in base64 stands after the header of a key.
func hasKey(t string) bool { return hasDenseRun(t[len(beforeKey.FindString(t)):]) }

// longRun is how many letters and digits in a row are no word.
const longRun = 20

// random reports whether there is a long run of letters and digits that has some of both, and isn't put together
// from words.
func random(t string) bool {
	for run := range runs(t) {
		if len(run) >= longRun && strings.ContainsAny(run, digits) && strings.Trim(run, digits) != "" && !wordy.MatchString(run) {
			return true
		}
	}
	return false
}

// hasDenseRun reports whether there is a long run that has letters of both cases, and isn't put together from words.
func hasDenseRun(t string) bool {
	for run := range runs(t) {
		if len(run) >= longRun && bothCases(run) && !wordy.MatchString(run) {
			return true
		}
	}
	return false
}

const digits = "0123456789"

// The most bytes of what is taken for a word whatever it is, and the fewest of a token that are in no word.
const (
	shortWord  = 4
	leastDense = 16
)

// noName reports whether what follows the sign of an issuer has letters of both cases, and is no name: one that is
// mostly words, with "-" and "_" between them.
func noName(t string) bool {
	t = t[len("hvs."):] // all signs are as long
	dense := 0
	for run := range runs(t) {
		if len(run) > shortWord && !wordy.MatchString(run) {
			dense += len(run)
		}
	}
	return dense >= leastDense && bothCases(t)
}

// runs returns the runs of letters and digits in t.
func runs(t string) iter.Seq[string] {
	return strings.FieldsFuncSeq(t, func(r rune) bool { return r > '~' || !wordByte(lowered(byte(r))) })
}

// bothCases reports whether there are letters in upper case and in lower case.
func bothCases(t string) bool {
	return strings.ContainsFunc(t, func(r rune) bool { return 'A' <= r && r <= 'Z' }) &&
		strings.ContainsFunc(t, func(r rune) bool { return 'a' <= r && r <= 'z' })
}
