package scrub

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/provision"
)

const gone = provision.Redacted

// TestTextKnowsEverySpelling hides secrets of several lengths in a sentence, in every spelling, and looks
// for what is left of them.
func TestTextKnowsEverySpelling(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{canary.New(), canary.Plain(), canary.Plain()[:Part], canary.Plain()[:shortestInWord], strings.Repeat(canary.New(), 4)} {
		hunt := canary.NewHunt(map[string]string{"secret": secret})
		s := New("another-secret", secret)
		for name, spell := range canary.Spellings {
			said := spell.Write(secret)
			for form, said := range map[string]string{"as it is": said, "upper": strings.ToUpper(said)} {
				if form == "upper" && (strings.HasPrefix(name, "base64") || strings.HasPrefix(name, "JSON")) {
					continue // such a code can't be read by anybody when it lost its case
				}
				got := s.Text("bad token <" + said + "> refused")
				if (hunt.Search(name, got) > 0 || !strings.Contains(got, gone) || len(got) > 60) && !lastDigitMissing(name, secret) {
					t.Errorf("%s, %s, of %d bytes: %.200q becomes %.200q", name, form, len(secret), said, got)
				}
			}
		}
	}
}

// lastDigitMissing reports whether a base64 spelling shows a part of one byte alone, of a secret that is found
// as a whole only.
func lastDigitMissing(name, secret string) bool {
	return strings.HasPrefix(name, "base64") && len(secret) <= Part
}

func TestTextTakesOutExactlyTheSecret(t *testing.T) {
	t.Parallel()
	s := New("abcdefghijklmnopqrst", `q"uo'te\d<b>&amp/xy+z%41`, "shortish", "ends-in-x", "ends-in-u")
	for text, want := range map[string]string{
		"x abcdefghijklmnopqrst y":                             "x " + gone + " y",
		"x abcdefghijkl y":                                     "x " + gone + " y",
		"x abcdefghijklabcdefghijkl y":                         "x " + gone + " y",
		"x ABCdefghijklMNOPqrst, abcdefghijklmnopqrst":         "x " + gone + ", " + gone,
		`x q"uo'te\d<b>&amp/xy+z%41 y`:                         "x " + gone + " y",
		`x q\"uo'te\\d<b>&amp\/xy+z%41 y`:                      "x " + gone + " y",
		"id=YWJjZGVmZ2hpamtsbW5vcHFyc3Q=; y":                   "id=" + gone + "; y",
		"Basic eDphYmNkZWZnaGlqa2xtbm9wcXJzdA== y":             "Basic " + gone + " y",
		"xeDphYmNkZWZnaGlqa2xtbm9wcXJzdDp5 y":                  gone + " y",
		"x 6162636465666768696A6B6C6D6E6F7071727374 y":         "x " + gone + " y",
		"x q%22uo%27te%5Cd%3Cb%3E%26amp%2fxy%2Bz%2541 y":       "x " + gone + " y",
		"x q%22uo%27te%5Cd%3Cb%3E&amp/xy+z%2541 y":             "x " + gone + " y",
		`x q\u0022uo'te\\d\u003cb\u003E&amp/xy+z%41 y`:         "x " + gone + " y",
		`\u0073hortis\u0068 \u0065nds-in-\u0075 %65nds%2din-x`: gone + " " + gone + " " + gone,
		"id=%59WJjZGVmZ2hpamtsbW5vcHFyc3Q%3D; y":               "id=" + gone + "; y",
		"unshortishly":                                         "un" + gone + "ly",
		"c2hvcnRpc2g=!":                                        gone + "!",
	} {
		if got := s.Text(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func TestTextLeavesTheRest(t *testing.T) {
	t.Parallel()
	s := New("abcdefghijklmnopqrst", "", "abc", "test", "0123456789abcdef0123")
	for _, text := range []string{
		"", "nothing to see", "abcdefghijk is but the beginning", "100% \\ &amp; + %zz %4 \\u00 &#; & = =\n =3", "Auth spec 'Acces Token' not found",
		"bearer of bad news", "abc", "the latest tests attest it", "012345678", "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", "\xff\xfe", "https://platform.adobe.io/data",
		"name==\"x\"&limit=100", "1,2,3: 0x61, 0o141, U+0061", "10:20:30.400", "00:1b:44:11:3a:b7", "[97 98 99 100 101 102 103]", "dGhpcyBpcyBub3QgdGhlIHNlY3JldCBidXQgYW5vdGhlcg==",
		"a\x00b\x00c", `\u{61}\142%u0063`, "ORUGS4ZANFZSA3TPOQQHI2DFEBZWKY3SMV2A====", "2026-11-22T03:00:00Z", "192.168.100.101:8200", "see the hvac system", "basic auth",
	} {
		if got := s.Text(text); got != text || !s.Clean(text) {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestShortSecretsMustStandAlone(t *testing.T) {
	t.Parallel()
	s := New("test", "abc")
	for text, want := range map[string]string{
		"test": gone, "the test, please": "the " + gone + ", please", "\"TEST\"": `"` + gone + `"`, "%74es%74": gone,
		"latest": "latest", "tested": "tested", "abc": "abc", "74657374": gone, "dGVzdA==": gone, "bGF0ZXN0": "bGF0ZXN0",
	} {
		if got := s.Text(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func TestTextRecognizesTokensOfOthers(t *testing.T) {
	t.Parallel()
	seed := "SU" + strings.Repeat("A2", 28)
	for text, want := range map[string]string{
		"header Authorization: Bearer abc.def-123456":                            "header Authorization: " + gone,
		"Basic dXNlcjpwYXNzd29yZA==.":                                            gone + ".",
		"jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.c2ln!":                            "jwt " + gone + "!",
		"pat dapi0123456789abcdef0123456789abcdef-2.":                            "pat " + gone + ".",
		"p8e-0123456789ABCDEFabcdef!":                                            gone + "!",
		"hvs.CAESIJ0123456789abcdef, hvb.AAAAAQ0123456789abcd":                   gone + ", " + gone,
		"seed " + seed + "!":                                                     "seed " + gone + "!",
		"nats://user:pass@host:4222/x":                                           "nats://" + gone + "@host:4222/x",
		"https://host/path@x":                                                    "https://host/path@x",
		"-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY----- end": gone + " end",
	} {
		if got := (Scrubber{}).Text(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

// TestPartsAreTakenOutFromTheirLength has every part of secrets of several lengths after texts of several lengths.
func TestPartsAreTakenOutFromTheirLength(t *testing.T) {
	t.Parallel()
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789-_.~!$()*,;:"
	for _, size := range []int{Shortest, shortestInWord - 1, shortestInWord, Part - 1, Part, Part + 1, 40} {
		s := New(alphabet[:size])
		for before := range 4 {
			for from := range size {
				for to := from + 1; to <= size; to++ {
					part, filler := alphabet[from:to], strings.Repeat("? ", before)
					for name, spelled := range map[string]string{
						"plain": part, "hex": hex.EncodeToString([]byte(part)), "base64": base64.StdEncoding.EncodeToString([]byte(part)),
					} {
						want := spelled
						if len(part) >= min(size, Part) {
							want = gone
						}
						if got := s.Text(filler + spelled + "?"); got != filler+want+"?" {
							t.Fatalf("%s: %q of %d bytes becomes %q", name, part, size, got)
						}
					}
				}
			}
		}
	}
}

// TestCodesBeginAnywhere has digits before the ones of a secret, and it in both alphabets of base64.
func TestCodesBeginAnywhere(t *testing.T) {
	t.Parallel()
	const secret = "??>??>ÿÿÿ~~~~~~"
	s := New(secret)
	for _, code := range []string{
		hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret)), base64.URLEncoding.EncodeToString([]byte(secret)),
	} {
		for _, before := range []string{"", "a", "ab", "abc", "abcd"} {
			if got := s.Text("<" + before + code + ">"); got != "<"+gone+">" {
				t.Errorf("%q after %q becomes %q", code, before, got)
			}
			if got := s.Text("<" + before + " " + code + ">"); got != "<"+before+" "+gone+">" {
				t.Errorf("%q after %q and a blank becomes %q", code, before, got)
			}
		}
	}
}

// TestNonASCIIIsUnescaped has a secret of characters that JSON writes in one and in two escapes.
func TestNonASCIIIsUnescaped(t *testing.T) {
	t.Parallel()
	s := New("pässword-\U0001F511-1")
	for _, text := range []string{`p\u00e4ssword-\ud83d\udd11-1`, "p%C3%A4ssword-%f0%9f%94%91-1", "PäSSWORD-\U0001F511-1", `p\u00E4ssword-\uD83D\uDD11-\u0031`} {
		if got := s.Text("x " + text + " y"); got != "x "+gone+" y" {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

// TestTextMissesWhatItSays: what the package says that it does not find. Should one of these fail, that
// sentence and docs/security.md have to be changed.
func TestTextMissesWhatItSays(t *testing.T) {
	t.Parallel()
	const secret = "abcdefghij0123456789"
	s := New(secret, "abc")
	inBase64 := base64.StdEncoding.EncodeToString([]byte(secret))
	chars := strings.Split(secret, "")
	for name, text := range map[string]string{
		"short": "abc", "a part": secret[:Part-1], "a part in hex": hex.EncodeToString([]byte(secret[:Part-1])), "reversed": "9876543210jihgfedcba",
		"HTML":             "&#97;&#98;&#99;&#100;&#101;&#102;&#103;&#104;&#105;&#106;0123456789",
		"quoted-printable": "=61=62=63=64=65=66=67=68=69=6A0123456789", "octal": `\141\142\143\144\145\146\147\150\151\1520123456789`,
		"base32": base32.StdEncoding.EncodeToString([]byte(secret)), "numbers": fmt.Sprint([]byte(secret)), "hex, colons": "61:62:63:64:65:66:67:68:69:6a:30:31:32:33:34:35",
		"URL, twice": "%2561%2562%2563%2564%2565%2566%2567%2568%2569%256a0123456789", "base64, twice": base64.StdEncoding.EncodeToString([]byte(inBase64)),
		"hex of base64": hex.EncodeToString([]byte(inBase64)), "base64 of hex": base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString([]byte(secret)))),
		"other characters": strings.Join(chars, "*"), "blanks": strings.Join(chars, " "), "invisible characters": strings.Join(chars, "\u200b"),
		"base64, in short lines": inBase64[:9] + "\n" + inBase64[9:20] + "\n" + inBase64[20:], "an array in JSON": `["` + strings.Join(chars, `","`) + `"]`,
		"full-width": strings.Map(func(r rune) rune { return r - '!' + '\uFF01' }, secret),
	} {
		if got := s.Text(text); got != text {
			t.Errorf("%s: %q becomes %q", name, text, got)
		}
	}
}

// FuzzText hides a secret between two texts, as it is and with all of it encoded.
func FuzzText(f *testing.F) {
	f.Add("a", "b", "0123456789abcdef")
	f.Add("%", "25", "%25%25%25%25%25%25")
	f.Add(`\`, "u0041", `\\\\\\\`)
	f.Add("\n ", "=\r\n", "a b c d e f g h i")
	f.Add("bearer ", "Ⱥſ", "\xff\x00ABCDEFGHIJ")
	f.Add("\xcc", "0", "\x890000000")
	f.Fuzz(func(t *testing.T, before, after, secret string) {
		tight := lower(secret)
		if !utf8.ValidString(secret) || len(tight) < shortestInWord || len(secret) > 200 || len(before)+len(after) > 500 || strings.Contains(gone, tight) {
			t.Skip() // secrets are strings of JSON or of printable ASCII
		}
		s, text := New(secret), before+secret+after
		for name, spell := range map[string]func(string) string{"plain": strings.Clone, "query": url.QueryEscape, "path": url.PathEscape, "JSON": escaped} {
			if name == "JSON" && !utf8.ValidString(text) {
				continue // it can't be written so
			}
			if got := s.Text(spell(text)); strings.Contains(lower(strings.ReplaceAll(got, gone, "\n")), lower(spell(secret))) {
				t.Errorf("%s: %q is still in %q", name, secret, got)
			}
		}
		for _, code := range []string{hex.EncodeToString([]byte(text)), base64.StdEncoding.EncodeToString([]byte(text)), base64.RawURLEncoding.EncodeToString([]byte(text))} {
			if got := s.Text("<" + code + ">"); got != "<"+gone+">" {
				t.Errorf("%q with %q in it becomes %q", code, secret, got)
			}
		}
	})
}

func escaped(s string) string {
	b, _ := json.Marshal(s) // never fails on a string
	return string(b[1 : len(b)-1])
}

// BenchmarkText looks for a token of IMS's size in a connection's id, and in an error's text.
func BenchmarkText(b *testing.B) {
	token := strings.Repeat("0123456789abcdefABCDEF_-", 60)
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			_ = New(token)
		}
	})
	s := New(token)
	for name, text := range map[string]string{
		"id": "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", "text": strings.Repeat("Supplied version does not match. ", 6),
		"code": strings.Repeat("U3VwcGxpZWQgdmVyc2lvbiBkb2VzIG5vdCBtYXRjaC4g", 40), "escaped": strings.Repeat("Supplied version=%22aa%22 does not match. ", 5),
		"16 KiB of secrets": strings.Repeat(token, 12), "16 KiB of escapes": strings.Repeat(`\u0041`, 2700),
		"16 KiB of secrets in base64": strings.Repeat(base64.StdEncoding.EncodeToString([]byte(token)), 9),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_ = s.Text(text)
			}
		})
	}
}

func TestLineIsOneShortCleanLine(t *testing.T) {
	t.Parallel()
	s := New("the-secret")
	for in, want := range map[string]string{
		"":                                     "",
		" a\r\n\tb\x1b[31m\x00c ":              "a b [31m c",
		"a\xffb":                               "a\uFFFDb",
		"the-secret\nthe-secret":               gone + " " + gone,
		"12345678901234567890123":              "12345678901234567890123",
		strings.Repeat("ä", 41):                strings.Repeat("ä", 39) + "…",
		"x" + strings.Repeat("the-secret", 99): "x" + gone,
	} {
		if got := s.Line(in, 40); got != want {
			t.Errorf("%.60q: got %q, want %q", in, got, want)
		}
	}
	if got := s.Line(strings.Repeat("ü", 1<<20), 500); utf8.RuneCountInString(got) != 500 || !utf8.ValidString(got) {
		t.Errorf("got %d characters", utf8.RuneCountInString(got))
	}
}

// TestLineEndsBeforeASecretThatIsCutOff lets the limit of what is looked at fall anywhere in a secret,
// in a text of secrets only, so that no other limit cuts it off.
func TestLineEndsBeforeASecretThatIsCutOff(t *testing.T) {
	t.Parallel()
	secret := canary.Plain()
	s := New(secret)
	for name, spelling := range canary.Spellings {
		said := spelling.Write(secret)
		for shift := 0; shift < len(said); shift += 7 {
			text := strings.Repeat("x", shift) + strings.Repeat(said, 2+maxLook/len(said))
			if rest := strings.Trim(strings.ReplaceAll(s.Line(text, 500), gone, ""), "x0U+,: "); rest != "" {
				t.Fatalf("%s, %d: %q is left", name, shift, rest)
			}
		}
	}
}

func TestUnquoted(t *testing.T) {
	t.Parallel()
	for in, want := range map[error]string{
		fmt.Errorf("net/http: malformed HTTP response %q", "x"):               "net/http: malformed HTTP response " + unquotedNote,
		fmt.Errorf("malformed MIME header line: X: %s", "x"):                  unquotedNote,
		fmt.Errorf("oauth2: cannot parse json: invalid character '%s'", "x"):  "oauth2: cannot parse json: " + unquotedNote,
		fmt.Errorf("json: cannot unmarshal number 1 into Go value"):           "json: " + unquotedNote,
		&net.OpError{Op: "dial", Net: "tcp", Err: errors.New(`lookup "x"`)}:   `dial tcp: lookup "x"`,
		&net.OpError{Op: "read", Net: "tcp", Err: &net.DNSError{Err: "slow"}}: "read tcp: lookup : slow",
		&net.DNSError{Err: "no such host", Name: "h"}:                         "lookup h: no such host",
		io.ErrUnexpectedEOF: "unexpected EOF",
	} {
		if got := Unquoted(in); got != want {
			t.Errorf("%v: got %q, want %q", in, got, want)
		}
	}
}
