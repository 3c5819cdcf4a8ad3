package scrub

import (
	"encoding/base64"
	"iter"
	"regexp"
	"strings"
)

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

// lowered returns an ASCII letter in lower case, and any other byte as it is.
func lowered(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// bothCases reports whether there are letters in upper case and in lower case.
func bothCases(t string) bool {
	return strings.ContainsFunc(t, func(r rune) bool { return 'A' <= r && r <= 'Z' }) &&
		strings.ContainsFunc(t, func(r rune) bool { return 'a' <= r && r <= 'z' })
}
