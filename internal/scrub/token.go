package scrub

import (
	"regexp"
	"strings"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// shapes are what tokens of anybody look like, each with a sign of it in lower case: where the sign
// isn't, the shape isn't either, and that is quickly seen.
var shapes = []struct {
	sign  string
	shape *regexp.Regexp
}{
	{"bearer", regexp.MustCompile(`(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{8,}`)},
	{"basic", regexp.MustCompile(`(?i)\bbasic\s+[A-Za-z0-9+/]{16,}=*`)},
	{"eyj", regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,2}`)},   // a JSON web token
	{"dapi", regexp.MustCompile(`(?i)\bdapi[0-9a-f]{16,}(?:-[0-9]+)?`)},              // Databricks
	{"p8e-", regexp.MustCompile(`\bp8e-[A-Za-z0-9_-]{16,}`)},                         // a client secret of Adobe's
	{"hv", regexp.MustCompile(`\bhv[sbr]\.[A-Za-z0-9_-]{16,}`)},                      // Vault
	{"su", regexp.MustCompile(`\bSU[A-Z2-7]{56}\b`)},                                 // a seed of a NATS user
	{"://", regexp.MustCompile(`://[^\s/@"'<>]+@`)},                                  // user info in an address
	{"private key", regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*-*`)}, // PEM
}

// looksLikeToken returns t without what looks like a token.
func looksLikeToken(t string) string {
	low := strings.ToLower(t)
	for _, s := range shapes {
		if strings.Contains(low, s.sign) {
			with := provision.Redacted
			if s.sign == "://" {
				with = "://" + with + "@"
			}
			t = s.shape.ReplaceAllLiteralString(t, with)
		}
	}
	return t
}
