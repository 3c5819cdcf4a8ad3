package scrub

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// TestTextReadsWhatProgramsPrint has a secret as real programs print it when they mean something else.
func TestTextReadsWhatProgramsPrint(t *testing.T) {
	t.Parallel()
	const secret = "abcdefghij0123456789"
	s := New(secret)
	var utf16 []byte
	for i := range len(secret) {
		utf16 = append(utf16, secret[i], 0)
	}
	twice := base64.StdEncoding.EncodeToString([]byte("user:user:user:" + base64.StdEncoding.EncodeToString([]byte("pw="+secret)) + "&end=here&more=there"))
	for name, text := range map[string]string{
		"Go's %v":             fmt.Sprintf("%v", []byte(secret)),
		"Go's %#v":            fmt.Sprintf("%#v", []byte(secret)),
		"Go's % x":            fmt.Sprintf("% x", secret),
		"Go's % #x":           fmt.Sprintf("% #x", secret),
		"Go's %U":             fmt.Sprintf("%U", []rune(secret)),
		"Go's %+q":            fmt.Sprintf("%+q", secret),
		"JSON array":          `{"data":[97,98,99,100,101,102,103,104,105,106,48,49,50,51,52,53,54,55,56,57]}`,
		"list of strings":     `["61","62","63","64","65","66","67","68","69","6a","30","31","32","33","34","35","36","37","38","39"]`,
		"Python's oct":        "0o141, 0o142, 0o143, 0o144, 0o145, 0o146, 0o147, 0o150, 0o151, 0o152",
		"od -b":               "0000000 141 142 143 144 145 146 147 150 151 152 060 061 062 063 064 065\n0000020 066 067 070 071",
		"hexdump -C":          hex.Dump([]byte(secret)),
		"openssl x509":        "61:62:63:64:65:66:67:68:69:6a:\n    30:31:32:33:34:35:36:37:38:39",
		"Java's Arrays":       "[97, 98, 99, 100, 101, 102, 103, 104, 105, 106, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57]",
		"JavaScript's escape": "%u0061%u0062%u0063%u0064%65f%u0067hij%25u0030123456789",
		"ECMAScript":          `\u{61}\u{000062}cdefg\u{68}ij0123456789`,
		"C, octal":            `\141\142\143\144\0145\146ghij\60\61\62\63456789`,
		"UTF-16":              string(utf16),
		"UTF-16, big-endian":  "\x00" + string(utf16),
		"UTF-16 in JSON":      fmt.Sprintf("%+q", utf16),
		"UTF-16 in URLs":      url.QueryEscape(string(utf16)),
		"PowerShell":          base64.StdEncoding.EncodeToString(append([]byte("e\x00c\x00"), utf16...)),
		"UTF-16 in hex":       hex.EncodeToString(utf16),
		"base32":              base32.StdEncoding.EncodeToString([]byte("otp " + secret)),
		"base64 of base64":    twice,
		"and in lines":        twice[:76] + "\r\n" + twice[76:],
		"three times":         base64.URLEncoding.EncodeToString([]byte(twice)),
		"in hex":              hex.EncodeToString([]byte(twice)),
		"base64 of a list":    base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%v", []byte(secret))),
		"base64 of a URL":     base64.StdEncoding.EncodeToString([]byte("q=%61%62%63%64%65%66%67%68%69%6a%30123456789")),
	} {
		got := s.Text("said: " + text + " (400)")
		if !strings.Contains(got, gone) || strings.Contains(got, text) || !strings.HasPrefix(got, "said: ") || !strings.HasSuffix(got, "(400)") {
			t.Errorf("%s: %q becomes %q", name, text, got)
		}
		if rest := tighten(strings.ReplaceAll(got, gone, ""), ""); len(rest) > max(45, len(text)/3) {
			t.Errorf("%s: much is left: %q", name, got)
		}
	}
}

// TestTextMissesWhatItSays: what the package says that it does not find. Should one of these fail, the sentence
// has to be changed.
func TestTextMissesWhatItSays(t *testing.T) {
	t.Parallel()
	const secret = "abcdefghij0123456789"
	s := New(secret, "abc")
	layers := secret
	for range maxLayers + 1 {
		layers = base64.StdEncoding.EncodeToString([]byte(layers))
	}
	for name, text := range map[string]string{
		"short": "abc", "a part": secret[:Part-1], "a part in hex": "61:62:63:64:65:66:67",
		"another alphabet": base32.HexEncoding.EncodeToString([]byte(secret)), "zeros": "097 098 099 100 101 102 103 104 105 106 048 049 050 051",
		"other characters":             strings.Join(strings.Split(secret, ""), "*"),
		"base64 in base32":             base32.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(secret)))),
		"many layers":                  layers,
		"base64 twice, in short lines": "YVdKalpHVm1aMm\nhwYWpBeE1qTTBO\nVFkzT0Rr",
	} {
		if got := s.Text(text); got != text {
			t.Errorf("%s: %q becomes %q", name, text, got)
		}
	}
}
