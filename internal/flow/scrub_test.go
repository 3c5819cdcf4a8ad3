package flow

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// spellings write a secret as upstream may give it back.
var spellings = map[string]func(string) string{
	"plain":            func(s string) string { return s },
	"query":            url.QueryEscape,
	"path":             url.PathEscape,
	"query, lower":     func(s string) string { return strings.ToLower(url.QueryEscape(strings.ToLower(s))) },
	"twice":            func(s string) string { return url.QueryEscape(url.QueryEscape(s)) },
	"JSON":             func(s string) string { b, _ := json.Marshal(s); return strings.Trim(string(b), `"`) },
	"JSON in JSON":     func(s string) string { b, _ := json.Marshal(s); b, _ = json.Marshal(string(b)); return string(b) },
	"HTML":             html.EscapeString,
	"all hex":          func(s string) string { return each(s, "%%%02x") },
	"all JSON escapes": func(s string) string { return each(s, `\u%04x`) },
	"all entities":     func(s string) string { return each(s, "&#%d;") },
	"hex entities":     func(s string) string { return each(s, "&#x%X;") },
	"half and half":    func(s string) string { return url.QueryEscape(s[:len(s)/2]) + s[len(s)/2:] },
	"base64":           func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64url":        func(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) },
	"first part":       func(s string) string { return s[:15] },
	"middle":           func(s string) string { return s[5:18] },
}

func each(s, format string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, format, s[i])
	}
	return b.String()
}

func TestScrubKnowsEverySpelling(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{
		"abcdefghijklmnopqrst", `q"uo'te\d<b>&amp/xy+z%41`, "p8e-0123456789/ABC+def==", "tab&lt;%25;0123456789xyz",
	} {
		for name, spell := range spellings {
			if name == "query, lower" {
				secret = strings.ToLower(secret)
			}
			said := spell(secret)
			got := newScrubber(provision.NewSensitive(secret)).scrub("bad token <" + said + "> refused")
			if got != "bad token <[redacted]> refused" && !(strings.HasPrefix(name, "base64") && strings.HasPrefix(got, "bad token <[redacted]")) &&
				!(name == "JSON in JSON" && strings.Contains(got, "[redacted]") && len(got) < 45) {
				t.Errorf("%s of %q: %q", name, secret, got)
			}
		}
	}
}

func TestScrubLeavesTheRest(t *testing.T) {
	t.Parallel()
	s := newScrubber(provision.NewSensitive("abcdefghijklmnopqrst"), provision.Sensitive{}, provision.NewSensitive("abc"))
	for _, text := range []string{
		"", "nothing to see", "abcdefghijk is but the beginning", "100% \\ &amp; + %zz %4 \\u00 &#; &", "Auth spec 'Acces Token' not found", "bearer of bad news",
	} {
		if got := s.scrub(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestScrubRecognizesTokensOfOthers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"header Authorization: Bearer abc.def-123456": "header Authorization: [redacted]",
		"jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.c2ln!": "jwt [redacted]!",
		"pat dapi0123456789abcdef0123456789abcdef-2.": "pat [redacted].",
	} {
		if got := (scrubber{}).scrub(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

// What suspects lets pass, the thorough look must not change, wherever a part of a secret stands.
func TestSuspectsMissesNothing(t *testing.T) {
	t.Parallel()
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for _, size := range []int{minSecret, 5, 7, minPart - 1, minPart, minPart + 1, 50} {
		s := newScrubber(provision.NewSensitive(alphabet[:size]))
		needed := min(size, minPart)
		for before := range 2 * minPart {
			for from := range size {
				for to := from; to <= size; to++ {
					text := strings.Repeat(".", before) + alphabet[from:to] + "-"
					checkSuspects(t, s, text)
					if to-from >= needed && !s.suspects(text) {
						t.Fatalf("%q of %d bytes passes", text, size)
					}
				}
			}
		}
	}
	if s := newScrubber(provision.NewSensitive("abcdefghijklmnopqrst")); s.suspects("e9d7ec6b-0873-4e57-ad21-b3a7c65e310b") || s.suspects("Auth spec not found") {
		t.Error("everything is suspect")
	}
	for _, text := range []string{"BEARER abcdefgh", "eyJhbGciOiJIUzI1NiJ9", "dapi0123456789abcdef", "\xff\xfe", "ſK"} {
		checkSuspects(t, scrubber{}, text)
	}
}

func checkSuspects(t testing.TB, s scrubber, text string) {
	t.Helper()
	if got := s.thorough(text); got != text && !s.suspects(text) {
		t.Errorf("%q becomes %q, but passes for harmless", text, got)
	}
}

// BenchmarkScrub looks for a token of IMS's size in a connection's id.
func BenchmarkScrub(b *testing.B) {
	s := newScrubber(provision.NewSensitive(strings.Repeat("0123456789abcdefABCDEF_-", 60)))
	for b.Loop() {
		_ = s.scrub("e9d7ec6b-0873-4e57-ad21-b3a7c65e310b")
	}
}

func TestMessageIsBounded(t *testing.T) {
	t.Parallel()
	got := scrubber{}.message(strings.Repeat("ä", 3000))
	if n := len([]rune(got)); n != maxMessage || !strings.HasSuffix(got, "…") {
		t.Errorf("%d characters, want %d", n, maxMessage)
	}
}

// FuzzScrub hides a secret between two texts, in some spelling.
func FuzzScrub(f *testing.F) {
	f.Add("a", "b", "0123456789abcdef")
	f.Add("%", "25", "%25%25%25%25%25%25")
	f.Add(`\`, "u0041", `\\\\\\\\\\\\\\`)
	f.Fuzz(func(t *testing.T, before, after, secret string) {
		if len(secret) < minPart || len(secret) > 200 || len(before)+len(after) > 500 || strings.Contains(provision.Redacted, secret) {
			t.Skip()
		}
		checkSuspects(t, newScrubber(provision.NewSensitive(secret)), before+after)
		got := newScrubber(provision.NewSensitive(secret)).scrub(before + secret + after)
		if strings.Contains(strings.ReplaceAll(got, provision.Redacted, "\x00"), secret) {
			t.Errorf("%q is still in %q", secret, got)
		}
	})
}
