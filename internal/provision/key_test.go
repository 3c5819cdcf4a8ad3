package provision

import (
	"net/url"
	"strings"
	"testing"
)

func TestKeyString(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key  Key
		want string
	}{
		{Key{"acme", "/portal/onboarding", "9f2c"}, "acme.=2Fportal=2Fonboarding.9f2c"},
		{Key{"a-b_c", "nats", "seq-1-2"}, "a-b_c.nats.seq-1-2"},
		{Key{"t", "a.b", "c=d"}, "t.a=2Eb.c=3Dd"},
		{Key{"t", "ü", "*>"}, "t.=C3=BC.=2A=3E"},
	} {
		if got := c.key.String(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.key, got, c.want)
		}
		if back, err := ParseKey(c.want); err != nil || back != c.key {
			t.Errorf("ParseKey(%q) = %+v, %v", c.want, back, err)
		}
	}
}

func TestParseKeyRefusesWhatStringCannotWrite(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "a.b", "a.b.c.d", "A.b.c", "t.=4.x", "t.=41.x", "t.=2f.x", "t.a b.x", "..", "t.=.x",
		"acme..", "acme..b", "acme.a.", "acme." + strings.Repeat("a", 257) + ".b", "acme.a." + strings.Repeat("=2F", 257), strings.Repeat("a", 10_000)} {
		if k, err := ParseKey(s); err == nil {
			t.Errorf("ParseKey(%q) = %+v, want an error", s, k)
		}
	}
}

func FuzzKeyIsInjective(f *testing.F) {
	f.Add("/portal", "1", "/portal", "2")
	f.Add("a.b", "c", "a", "b.c")
	f.Add("=2E", "x", ".", "x")
	f.Fuzz(func(t *testing.T, s1, i1, s2, i2 string) {
		a, b := Key{"t", s1, i1}, Key{"t", s2, i2}
		if (a == b) != (a.String() == b.String()) || (a == b) != (a.Mark() == b.Mark()) {
			t.Errorf("%+v and %+v: %q, %q", a, b, a, b)
		}
		switch back, err := ParseKey(a.String()); {
		case a.Validate() != nil && err == nil:
			t.Errorf("%+v came back, and is not valid: %v", a, a.Validate())
		case a.Validate() == nil && (err != nil || back != a):
			t.Errorf("%+v came back as %+v, %v", a, back, err)
		}
	})
}

func TestKeyValidate(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", MaxKeyPart/2)
	for _, c := range []struct {
		key  Key
		want string // part of the error; empty means none
	}{
		{Key{"t", "s", "i"}, ""},
		{Key{strings.Repeat("t", 63), long, long}, ""},
		{Key{}, "no tenant"},
		{Key{strings.Repeat("t", 64), "s", "i"}, "a text of 64 bytes is no tenant"},
		{Key{"a.b", "s", "i"}, "no tenant"},
		{Key{"*", "s", "i"}, "no tenant"},
		{Key{"t", "", "i"}, "the source has 0 bytes"},
		{Key{"t", "s", ""}, "the id has 0 bytes"},
		{Key{"t", long + "x", "i"}, "the source has 257 bytes; a request's has 1 to 256"},
		{Key{"t", "s", strings.Repeat("x", 10_000)}, "the id has 10000 bytes"},
	} {
		err := c.key.Validate()
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || len(err.Error()) > 200) {
			t.Errorf("%.100v: %v, want %q", c.key, err, c.want)
		}
		if back, parseErr := ParseKey(c.key.String()); (parseErr == nil) != (err == nil) || err == nil && (back != c.key || len(c.key.String()) > maxKeyText) {
			t.Errorf("%.100v: Validate says %v, ParseKey %v", c.key, err, parseErr)
		}
	}
}

// TestMarkIsStable: connections made by earlier releases must be found by later ones.
func TestMarkIsStable(t *testing.T) {
	t.Parallel()
	k := Key{"acme", "/portal/onboarding", "9f2c"}
	// printf %s acme.=2Fportal=2Fonboarding.9f2c | sha256sum | cut -c1-32
	if got, want := k.Mark(), "[flow-worker 44639f97c112d7b7a9b97d5a6361c66c]"; got != want {
		t.Errorf("mark %q, want %q", got, want)
	}
	if k.EventID(0, OutcomeCreated) == k.EventID(1, OutcomeCreated) || k.EventID(0, OutcomeCreated) == k.EventID(0, OutcomeFailed) {
		t.Error("event ids collide")
	}
}

func TestParseSecretRef(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want SecretRef
		err  error
	}{
		{"vault:databricks/acme#accessToken", SecretRef{Path: "databricks/acme", Field: "accessToken"}, nil},
		{"vault:a.b/c_d-e?version=12#f", SecretRef{Path: "a.b/c_d-e", Field: "f", Version: 12}, nil},
		{"dapi0123", SecretRef{}, ErrPlaintextSecret},
		{"", SecretRef{}, ErrPlaintextSecret},
		{"Vault:x#y", SecretRef{}, ErrPlaintextSecret},
		{"vault:x", SecretRef{}, ErrBadRef},
		{"vault:x#", SecretRef{}, ErrBadRef},
		{"vault:x#a#b", SecretRef{}, ErrBadRef},
		{"vault:x?version=0#a", SecretRef{}, ErrBadRef},
		{"vault:x?version=01#a", SecretRef{}, ErrBadRef},
		{"vault:x?version=99999999999#a", SecretRef{}, ErrBadRef},
		{"vault:x?v=1#a", SecretRef{}, ErrBadRef},
		{"vault:#a", SecretRef{}, ErrForbiddenRef},
		{"vault:../globex/x#a", SecretRef{}, ErrForbiddenRef},
		{"vault:a/../../x#a", SecretRef{}, ErrForbiddenRef},
		{"vault:a//b#a", SecretRef{}, ErrForbiddenRef},
		{"vault:/a#a", SecretRef{}, ErrForbiddenRef},
		{"vault:./a#a", SecretRef{}, ErrForbiddenRef},
		{"vault:%2e%2e/a#a", SecretRef{}, ErrForbiddenRef},
		{"vault:adobe#clientSecret", SecretRef{}, ErrForbiddenRef},
		{"vault:x/adobe#clientSecret", SecretRef{}, ErrForbiddenRef},
		{"vault:ADOBE#clientSecret", SecretRef{}, ErrForbiddenRef},
	} {
		got, err := ParseSecretRef(c.in)
		if c.err != nil {
			if err == nil || !strings.Contains(err.Error(), c.err.Error()) {
				t.Errorf("%q: %v, want %v", c.in, err, c.err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%q: %+v, %v", c.in, got, err)
		}
		if got.String() != c.in {
			t.Errorf("%q came back as %q", c.in, got)
		}
	}
}

func FuzzSecretRef(f *testing.F) {
	for _, s := range []string{"vault:a/b#c", "vault:a?version=3#c", "vault:../x#y", "vault:a/%2e%2e#y", "plain"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseSecretRef(s)
		if err != nil {
			if len(s) > 12 && strings.Contains(err.Error(), s) {
				t.Errorf("the error quotes the text: %v", err)
			}
			return
		}
		if ref.String() != s {
			t.Errorf("%q came back as %q", s, ref)
		}
		for _, seg := range strings.Split(ref.Path, "/") {
			if seg == "" || seg == "." || seg == ".." || strings.EqualFold(seg, AdobeSecret) || url.PathEscape(seg) != seg {
				t.Errorf("%q got through", s)
			}
		}
	})
}

func TestReasonsAreComplete(t *testing.T) {
	t.Parallel()
	if len(Reasons) != 15 {
		t.Errorf("%d reasons, want 15", len(Reasons))
	}
	for _, r := range Reasons {
		if f := Fail(r, "m"); f.Retryable != r.Retryable() || f.Error() != string(r)+": m" {
			t.Errorf("%+v", f)
		}
	}
}
