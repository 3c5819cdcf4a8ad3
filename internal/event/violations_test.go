package event

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestViolationsAreOrderedAndToldOnce(t *testing.T) {
	t.Parallel()
	var v violations
	if v.failure() != nil {
		t.Error("nothing wrong, and yet a failure")
	}
	v.add("/b", "two")
	v.add("/a", "z")
	v.add("/b", "two")
	v.add("/a", "y")
	if got, want := v.failure().Message, "the request is not valid: /a: y; /a: z; /b: two"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if v[0].at != "/b" || !v.has("/a") || v.has("/c") {
		t.Errorf("telling them changed them: %v", v)
	}
}

func TestFailureReason(t *testing.T) {
	t.Parallel()
	const a, b, c = provision.ReasonInvalidRequest, provision.ReasonSecretForbidden, provision.ReasonPlaintextSecret
	for _, each := range []struct {
		in   []provision.Reason
		want provision.Reason
	}{{[]provision.Reason{a}, a}, {[]provision.Reason{a, b}, b}, {[]provision.Reason{b, a}, b}, {[]provision.Reason{c, b, a}, c}, {[]provision.Reason{a, b, c}, c}} {
		var v violations
		for _, r := range each.in {
			v.addAs(r, "/x", string(r))
		}
		f := v.failure()
		if f.Reason != each.want || f.Retryable {
			t.Errorf("%v: got %s, want %s", each.in, f.Reason, each.want)
		}
		for _, r := range each.in {
			if !strings.Contains(f.Message, string(r)) {
				t.Errorf("%v: %s is not told", each.in, r)
			}
		}
	}
}

func TestUnder(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"name": "/data/name", "a/b~c": "/data/a~1b~0c", "": "/data/", "a\x00\n\u2028": "/data/a\uFFFD\uFFFD\uFFFD", "日本": "/data/日本",
		strings.Repeat("a", 65): "/data/" + strings.Repeat("a", 64) + "…",
		strings.Repeat("é", 64): "/data/" + strings.Repeat("é", 32) + "…",
		strings.Repeat("日", 64): "/data/" + strings.Repeat("日", 21) + "…",
	} {
		got := under("/data", name)
		if got != want || !utf8.ValidString(got) {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}
