package provision

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// SecretRef names one field of one secret below the tenant's own Vault prefix. It has no way to name
// a secret of another tenant.
type SecretRef struct {
	Path    string // relative to the tenant's prefix; segments of [A-Za-z0-9_.-], none of them ".", ".." or "adobe"
	Field   string
	Version int // 0 means the newest
}

// Errors of ParseSecretRef. The text that failed to parse may be a secret itself and is in none of them.
var (
	// ErrPlaintextSecret means that the text is no reference at all, so it is probably the secret itself.
	ErrPlaintextSecret = errors.New("not a secret reference; write the secret to Vault and send vault:<path>#<field>")
	// ErrForbiddenRef means that the reference leaves what the tenant may name.
	ErrForbiddenRef = errors.New("reference outside what the tenant may name")
	// ErrBadRef means that the text begins like a reference but isn't well formed.
	ErrBadRef = errors.New("malformed secret reference; want vault:<path>#<field>, optionally vault:<path>?version=<n>#<field>")
)

// RefScheme begins every secret reference.
const RefScheme = "vault:"

const maxRefLen = 1024

var (
	refSegment = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	refField   = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,256}$`)
)

// ParseSecretRef reads "vault:<path>#<field>" with an optional "?version=<n>" after the path. Its
// error is ErrPlaintextSecret, ErrForbiddenRef or ErrBadRef, perhaps wrapped, and never quotes s.
func ParseSecretRef(s string) (SecretRef, error) {
	rest, ok := strings.CutPrefix(s, RefScheme)
	if !ok {
		return SecretRef{}, ErrPlaintextSecret
	}
	if len(s) > maxRefLen {
		return SecretRef{}, fmt.Errorf("%w: longer than %d bytes", ErrBadRef, maxRefLen)
	}
	where, field, ok := strings.Cut(rest, "#")
	if !ok {
		return SecretRef{}, fmt.Errorf("%w; #<field> is missing", ErrBadRef)
	}
	if !refField.MatchString(field) {
		return SecretRef{}, ErrBadRef
	}
	path, query, versioned := strings.Cut(where, "?")
	ref := SecretRef{Path: path, Field: field}
	if versioned {
		digits, ok := strings.CutPrefix(query, "version=")
		n, err := strconv.ParseUint(digits, 10, 31)
		if !ok || err != nil || n == 0 || strconv.FormatUint(n, 10) != digits {
			return SecretRef{}, fmt.Errorf("%w: version must be a whole number from 1", ErrBadRef)
		}
		ref.Version = int(n)
	}
	return ref, checkRefPath(path)
}

// checkRefPath refuses what Vault's client would resolve to another path: it joins with path.Join,
// which resolves "..", so a check by prefix is not enough.
func checkRefPath(path string) error {
	var malformed error
	for seg := range strings.SplitSeq(path, "/") {
		name, version, at := strings.Cut(seg, "@")
		if at && refSegment.MatchString(name) && refSegment.MatchString(version) && !strings.EqualFold(name, AdobeSecret) {
			malformed = fmt.Errorf("%w; a version is not written with \"@\"", ErrBadRef)
			continue
		}
		switch {
		case seg == "" || seg == "." || seg == "..":
			return fmt.Errorf("%w: empty, \".\" and \"..\" segments are refused", ErrForbiddenRef)
		case strings.EqualFold(seg, AdobeSecret):
			return fmt.Errorf("%w: the tenant's Adobe credentials are not for sending elsewhere", ErrForbiddenRef)
		case !refSegment.MatchString(seg):
			return fmt.Errorf("%w: path segments are made of letters, digits, \"_\", \".\" and \"-\"", ErrForbiddenRef)
		}
	}
	return malformed
}

// AdobeSecret is the name, below the tenant's prefix, of the secret with its Adobe credentials.
const AdobeSecret = "adobe"

// String returns the reference as it is written in a request.
func (r SecretRef) String() string {
	s := RefScheme + r.Path
	if r.Version != 0 {
		s += "?version=" + strconv.Itoa(r.Version)
	}
	return s + "#" + r.Field
}

// Layout says where the tenants' secrets are in Vault, so that a reference which repeats that can be recognized.
type Layout struct {
	Mount  string // of the KV engine; empty means "secret"
	Prefix string // from there to the tenants; empty means "flow/tenants"
}

// Check refuses a reference of the tenant that begins with what the worker puts before every one: the mount,
// "data/", or the tenants' prefix. Its error is ErrForbiddenRef, wrapped, where that names another tenant, and else
// ErrBadRef.
func (l Layout) Check(tenant string, r SecretRef) error {
	switch path, foreign := l.relative(tenant, r.Path); {
	case foreign:
		return fmt.Errorf("%w: it names another tenant's place", ErrForbiddenRef)
	case path != r.Path:
		return fmt.Errorf("%w; <path> begins below the tenant's own prefix, which the worker puts before it with the mount", ErrBadRef)
	}
	return nil
}

// relative takes off what the worker itself puts before the path, and reports whether that names another tenant.
func (l Layout) relative(tenant, path string) (rest string, foreign bool) {
	mount, prefix := cmp.Or(strings.Trim(l.Mount, "/"), "secret"), cmp.Or(strings.Trim(l.Prefix, "/"), "flow/tenants")
	for {
		if below, ok := strings.CutPrefix(path, prefix+"/"); ok {
			first, own, _ := strings.Cut(below, "/")
			if first != tenant {
				return "", true
			}
			path = own
			continue
		}
		api := strings.TrimPrefix(path, "v1/")
		below, mounted := strings.CutPrefix(api, mount+"/")
		if !mounted {
			below = path
		}
		for _, kind := range []string{"data/", "metadata/"} { // what KV 2 has between mount and path
			if rest, ok := strings.CutPrefix(below, kind); ok && (mounted || kind == "data/") && !strings.HasPrefix(below, prefix+"/") {
				below = rest
				break
			}
		}
		if below == path {
			return path, false
		}
		path = below
	}
}

// Meant returns the reference that a text in another form plainly stands for, to be quoted to its author, or nothing.
// Such forms are the paths, commands and URLs that Vault's own tools print, and the references of other programs, also
// within quotes or a template's braces. What it returns is well formed, passes Check, and differs from the text. It does
// not look for tokens in it. What may be a password is not quoted unless it is below the tenant's own place: see plainPath.
func (l Layout) Meant(tenant, text string) string {
	if len(text) > maxRefLen {
		return ""
	}
	bare := unwrapped(text)
	ref, ok := fromCommand(strings.Fields(bare))
	sure := ok
	if !ok {
		ref, sure, ok = fromText(bare)
	}
	written := strings.Join(strings.FieldsFunc(ref.Path, func(r rune) bool { return r == '/' }), "/")
	path, foreign := l.relative(tenant, written)
	own := strings.HasSuffix(written, cmp.Or(strings.Trim(l.Prefix, "/"), "flow/tenants")+"/"+tenant+"/"+path)
	if !ok || foreign || (ref.Field == "" || !sure) && !own && !plainPath.MatchString(path) {
		return ""
	}
	ref.Path = path
	probe := ref
	probe.Field = cmp.Or(ref.Field, "x")
	if again, err := ParseSecretRef(probe.String()); err != nil || again != probe || l.Check(tenant, again) != nil {
		return ""
	}
	if ref.Field == "" {
		return ref.String() + "<field>"
	}
	if ref.String() == text {
		return ""
	}
	return ref.String()
}

var (
	otherScheme  = regexp.MustCompile(`^(?i:ref\+vault|vault):`)
	vaultAddress = regexp.MustCompile(`^https?://[^/]*/v1/`)
	fieldVersion = regexp.MustCompile(`^/?([A-Za-z0-9_.-]*)(?:(?:\?version=|#|@)([1-9][0-9]{0,8}))?$`)
	pathVersion  = regexp.MustCompile(`^([^?@]*)(?:(?:\?version=|@)([1-9][0-9]{0,8}))?$`)
	colonField   = regexp.MustCompile(`^([^:?#]+/[^:?#]+):([A-Za-z_-]+)$`)
	prompt       = regexp.MustCompile(`^[$#>%] +`)

	// plainPath is a path of two or more segments of small letters, which is hardly a password.
	plainPath = regexp.MustCompile(`^[a-z]+([._-][a-z]+)*(/[a-z]+([._-][a-z]+)*)+$`)
)

// wrappers stand around a reference in other programs' files.
var wrappers = [][2]string{{"${", "}"}, {"$(", ")"}, {"{{", "}}"}, {"{", "}"}, {"<", ">"}, {"(", ")"}, {"[", "]"}}

// unwrapped returns a text without invisible characters and without the quotes, braces and prompts around it.
func unwrapped(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, text)
	for before := ""; before != text; {
		before = text
		text = strings.TrimRight(strings.TrimSpace(text), ",;")
		text = strings.Trim(text, "\"'`\\\u2018\u2019\u201c\u201d\u00ab\u00bb")
		text = prompt.ReplaceAllString(text, "")
		for _, w := range wrappers {
			inner, opened := strings.CutPrefix(text, w[0])
			if inner, closed := strings.CutSuffix(inner, w[1]); opened && closed {
				text = inner
			}
		}
	}
	return text
}

// fromText reads a reference that has a scheme. It is sure of one that differs from ours in little.
func fromText(text string) (ref SecretRef, sure, ok bool) {
	scheme := otherScheme.FindString(text)
	sure = len(scheme) == len(RefScheme)
	rest := vaultAddress.ReplaceAllString(text[len(scheme):], "")
	where, field, _ := strings.Cut(rest, "#")
	if m := colonField.FindStringSubmatch(rest); m != nil {
		where, field, sure = m[1], m[2], false
	}
	p, f := pathVersion.FindStringSubmatch(where), fieldVersion.FindStringSubmatch(field)
	if scheme == "" || p == nil || f == nil {
		return ref, false, false
	}
	ref = SecretRef{Path: p[1], Field: f[1]}
	ref.Version, _ = strconv.Atoi(cmp.Or(p[2], f[2], "0"))
	return ref, sure, true
}

// fromCommand reads a command line such as "vault kv get -field=accessToken secret/databricks/acme".
func fromCommand(words []string) (ref SecretRef, ok bool) {
	if len(words) < 3 || words[0] != "vault" || words[1] != "kv" && words[1] != "read" {
		return ref, false
	}
	for i := 1; i < len(words); i++ {
		name, value, given := strings.Cut(strings.TrimLeft(words[i], "-"), "=")
		switch {
		case !strings.HasPrefix(words[i], "-"):
			ref.Path = words[i]
			continue
		case !given && i+1 < len(words):
			i++
			value = words[i]
		}
		switch name {
		case "field":
			ref.Field = value
		case "version":
			ref.Version, _ = strconv.Atoi(value)
		}
	}
	return ref, true
}
