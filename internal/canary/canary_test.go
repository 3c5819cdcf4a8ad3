package canary

import (
	"strings"
	"testing"
)

// TestHuntFindsEverySpelling plants each of two secrets in every spelling, whole and as a part.
func TestHuntFindsEverySpelling(t *testing.T) {
	t.Parallel()
	secrets := map[string]string{"one": New(), "two": New()}
	for name, s := range Spellings {
		h := NewHunt(secrets)
		text := s.Write(secrets["two"])
		whole := "before " + text + " after"
		part := text[s.Block/2 : s.Block/2+2*s.Block-1]
		for where, planted := range map[string]string{
			"whole": whole, "upper": strings.ToUpper(whole), "lower": strings.ToLower(whole), "part": part,
		} {
			if n := h.Search(where, planted); n != 1 {
				t.Errorf("%s, %s: %d found in %q", name, where, n, planted)
			}
		}
		for _, hit := range h.Hits() {
			if hit.Canary != "two" || !strings.Contains(whole+strings.ToUpper(whole)+strings.ToLower(whole), hit.Around) {
				t.Errorf("%s: %+v", name, hit)
			}
		}
	}
}

func TestHuntFindsNothingElse(t *testing.T) {
	t.Parallel()
	h := NewHunt(map[string]string{"one": New()})
	for range 1000 {
		h.Search("sink", New()+"%41&amp;[redacted]")
	}
	if hits := h.Hits(); len(hits) != 0 {
		t.Errorf("%+v", hits)
	}
	if n := h.Searched("sink"); n < 50_000 || h.Searched("another") != 0 {
		t.Errorf("%d bytes searched", n)
	}
	if r := h.Report(); !strings.Contains(r, "1 sinks × 1 canaries") || !strings.Contains(r, "1000 texts") {
		t.Error(r)
	}
}

func TestCanariesAreNew(t *testing.T) {
	t.Parallel()
	for _, s := range []string{New(), Plain()} {
		if s == New() || s == Plain() || len(s) < 30 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("%q is no good", s)
		}
	}
}

func TestHuntLeavesOutWhatBelongsThere(t *testing.T) {
	t.Parallel()
	secrets := map[string]string{"one": New(), "two": New()}
	h := NewHunt(secrets)
	if n := h.Search("sink", secrets["one"]+" "+secrets["two"], "two"); n != 1 || h.Hits()[0].Canary != "one" {
		t.Errorf("%d found: %+v", n, h.Hits())
	}
}

func TestTokensAreNew(t *testing.T) {
	t.Parallel()
	again := Tokens()
	for name, token := range Tokens() {
		if token == again[name] || len(token) < 30 || strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%s: %q is no good", name, token)
		}
	}
}

// What rules most places out reads that many bytes of each block.
func TestNoBlockIsShorterThanItsHead(t *testing.T) {
	t.Parallel()
	for name, s := range Spellings {
		if s.Block < head {
			t.Errorf("%s: blocks of %d bytes, want %d or more", name, s.Block, head)
		}
	}
}
