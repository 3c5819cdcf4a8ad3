package canary_test

import (
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/canary"
)

// TestHuntFindsEverySpelling plants each of two secrets in every spelling, whole and as a part.
func TestHuntFindsEverySpelling(t *testing.T) {
	t.Parallel()
	secrets := map[string]string{"one": canary.New(), "two": canary.New()}
	for name, s := range canary.Spellings {
		h := canary.NewHunt(secrets)
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
	h := canary.NewHunt(map[string]string{"one": canary.New()})
	for range 1000 {
		h.Search("sink", canary.New()+"%41&amp;[redacted]")
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
	for _, s := range []string{canary.New(), canary.Plain()} {
		if s == canary.New() || s == canary.Plain() || len(s) < 30 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("%q is no good", s)
		}
	}
}

func TestHuntLeavesOutWhatBelongsThere(t *testing.T) {
	t.Parallel()
	secrets := map[string]string{"one": canary.New(), "two": canary.New()}
	h := canary.NewHunt(secrets)
	if n := h.Search("sink", secrets["one"]+" "+secrets["two"], "two"); n != 1 || h.Hits()[0].Canary != "one" {
		t.Errorf("%d found: %+v", n, h.Hits())
	}
}

func TestTokensAreNew(t *testing.T) {
	t.Parallel()
	again := canary.Tokens()
	for name, token := range canary.Tokens() {
		if token == again[name] || len(token) < 30 || strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%s: %q is no good", name, token)
		}
	}
}
