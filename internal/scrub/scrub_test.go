package scrub

import (
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/provision"
)

const gone = provision.Redacted

// TestTextKnowsEverySpelling hides secrets of several lengths in a sentence, in every spelling, and looks
// for what is left of them.
func TestTextKnowsEverySpelling(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{canary.New(), canary.Plain(), canary.Plain()[:Part], canary.Plain()[:Safe], strings.Repeat(canary.New(), 4)} {
		hunt := canary.NewHunt(map[string]string{"secret": secret})
		s := New("another-secret", secret)
		for name, spell := range canary.Spellings {
			said := spell.Write(secret)
			for form, said := range map[string]string{"as it is": said, "upper": strings.ToUpper(said), "wrapped": wrap(said)} {
				if strings.Contains(name, " of ") && form != "as it is" {
					continue // a code within a code can't be read by anybody when it lost its case
				}
				got := s.Text("bad token <" + said + "> refused")
				if (hunt.Search(name, got) > 0 || !strings.Contains(got, gone) || len(got) > 60) && !codeTooShort(name, said) {
					t.Errorf("%s, %s, of %d bytes: %.200q becomes %.200q", name, form, len(secret), said, got)
				}
			}
		}
	}
}

// codeTooShort reports whether a base64 spelling shows too few digits of a short secret alone.
func codeTooShort(name, said string) bool {
	return strings.HasPrefix(name, "base") && len(tighten(said, "")) < minDigits
}

// wrap breaks a text into short lines, but not within an escape: those are broken by nobody.
func wrap(t string) string {
	if strings.ContainsAny(t, encoders) || strings.Contains(t, "0x") {
		return t
	}
	var b strings.Builder
	for len(t) > 5 {
		b.WriteString(t[:5] + "\r\n\t")
		t = t[5:]
	}
	return b.String() + t
}

func TestTextTakesOutExactlyTheSecret(t *testing.T) {
	t.Parallel()
	s := New("abcdefghijklmnopqrst", `q"uo'te\d<b>&amp/xy+z%41`, "shortish", "ends-in-x", "ends-in-u")
	for text, want := range map[string]string{
		"x abcdefghijklmnopqrst y":                                  "x " + gone + " y",
		"x abcdefghijkl y":                                          "x " + gone + " y",
		"x abcdefghijklabcdefghijkl y":                              "x " + gone + " y",
		"x ABCdefghijklMNOPqrst, abcdefghijklmnopqrst":              "x " + gone + ", " + gone,
		`x q"uo'te\d<b>&amp/xy+z%41 y`:                              "x " + gone + " y",
		`x q\"uo'te\\d<b>&amp\/xy+z%41 y`:                           "x " + gone + " y",
		`x q&quot;uo&apos;te\d&lt;b&gt;&amp;amp&sol;xy&plus;z%41 y`: "x " + gone + " y",
		"x q%22uo%2527te%5Cd%3Cb%3E%25252526amp%2fxy%2Bz%2541 y":    "x " + gone + " y",
		"x abcdef=\r\nghijklmnopqrst y":                             "x " + gone + " y",
		"x abcdef\n ghijklmnopqrst y":                               "x " + gone + " y",
		`x abcdef\r\nghijklmnopqrst y`:                              "x " + gone + " y",
		"id=YWJjZGVmZ2hpamtsbW5vcHFyc3Q=; y":                        "id=" + gone + "; y",
		"Basic eDphYmNkZWZnaGlqa2xtbm9wcXJzdA== y":                  "Basic " + gone + " y",
		"xeDphYmNkZWZnaGlqa2xtbm9wcXJzdDp5 y":                       gone + " y",
		"x 6162636465666768696A6B6C6D6E6F7071727374 y":              "x " + gone + " y",
		`\x73hortis\x68 \u0073hortis\u0068`:                         gone + " " + gone,
		`\x65nds-in-\x78 \u0065nds-in-\u0075`:                       gone + " " + gone,
		"unshortishly":                                              "un" + gone + "ly",
		"c2hvcnRpc2g=!":                                             gone + "!",
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
		"latest": "latest", "tested": "tested", "abc": "abc", "74657374": gone, "dGVzdA==": "dGVzdA==",
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

// TestFields cuts a secret into pieces, each too short to be told from a word, and spreads them.
func TestFields(t *testing.T) {
	t.Parallel()
	secret := canary.Plain()[:30]
	s := New(secret)
	orders(3, func(order []int) {
		fields := make([]string, 3)
		pieces := []string{"code " + secret[:10], secret[10:20], secret[20:] + " end"}
		for i, f := range order {
			fields[f] = pieces[i]
		}
		s.Fields(&fields[0], &fields[1], &fields[2])
		for i, want := range []string{"code " + gone, gone, gone + " end"} {
			if got := fields[order[i]]; got != want {
				t.Errorf("order %v, field %d: %q, want %q", order, order[i], got, want)
			}
		}
	})
	a, b := "Auth spec not found", "FLOW-1415-400"
	if s.Fields(&a, &b); a != "Auth spec not found" || b != "FLOW-1415-400" {
		t.Errorf("%q, %q", a, b)
	}
	s.Fields()
	whole, bearer := "x"+secret, "Bearer abcdefghijk"
	if s.Fields(&whole, &bearer); whole != "x"+gone || bearer != gone {
		t.Errorf("%q, %q", whole, bearer)
	}
}

// What suspects lets pass, the thorough look must not find, wherever a part of a secret stands.
func TestSuspectsMissesNothing(t *testing.T) {
	t.Parallel()
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789-_.~!$()*,;:"
	for _, size := range []int{Shortest, Safe - 1, Safe, Part - 1, Part, Part + 1, 40} {
		s := New(alphabet[:size])
		for before := range Part {
			for from := range size {
				for to := from + 1; to <= size; to++ {
					text := strings.Repeat("? ", before) + alphabet[from:to] + "?"
					if found := s.thorough(text); len(found) > 0 && !s.suspects(text) {
						t.Fatalf("%q of %d bytes passes, though %v is found", text, size, found)
					}
					if needed := min(size, Part); to-from >= needed && len(s.find(text)) == 0 {
						t.Fatalf("%q of %d bytes isn't found", text, size)
					}
				}
			}
		}
	}
	if s := New("abcdefghijklmnopqrst"); s.suspects("e9d7ec6b-0873-4e57-ad21-b3a7c65e310b") || s.suspects("auth spec not found") {
		t.Error("everything is suspect")
	}
}

func TestManyReadingsEnd(t *testing.T) {
	t.Parallel()
	secret := strings.Repeat("%25", 60)
	s := New(secret, strings.Repeat(`\`, 40))
	for _, text := range []string{strings.Repeat("%25", 600), strings.Repeat(`\`, 2000), strings.Repeat("&amp;", 400), strings.Repeat("=\n", 900)} {
		if got := s.Text(text); strings.Contains(got, secret) {
			t.Errorf("the secret is still in it")
		}
	}
}

// FuzzText hides a secret between two texts.
func FuzzText(f *testing.F) {
	f.Add("a", "b", "0123456789abcdef")
	f.Add("%", "25", "%25%25%25%25%25%25")
	f.Add(`\`, "u0041", `\\\\\\\\\\\\\\`)
	f.Add("\n ", "=\r\n", "a b c d e f g h i")
	f.Add("bearer ", "Ⱥſ", "\xff\x00ABCDEFGHIJ")
	f.Fuzz(func(t *testing.T, before, after, secret string) {
		if len(secret) < Safe || len(secret) > 200 || len(before)+len(after) > 500 || strings.Contains(gone, fold(secret)) {
			t.Skip()
		}
		s := New(secret)
		if text := before + after; len(s.thorough(text)) > 0 && !s.suspects(text) {
			t.Errorf("%q passes for harmless", text)
		}
		got := s.Text(before + secret + after)
		for part := range strings.SplitSeq(got, gone) {
			if strings.Contains(fold(part), fold(secret)) {
				t.Errorf("%q is still in %q", secret, got)
			}
		}
	})
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
		"code": strings.Repeat("U3VwcGxpZWQgdmVyc2lvbiBkb2VzIG5vdCBtYXRjaC4g", 40), "hex dump": strings.Repeat("53:75:70:70:6c:69:65:64:20:76:65:72:73 ", 40),
		"suspect": strings.Repeat("Supplied version=%22aa%22 does not match. ", 5),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_ = s.Text(text)
			}
		})
	}
}
