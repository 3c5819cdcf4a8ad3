package provision

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
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
	if !ok || !refField.MatchString(field) {
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
	for seg := range strings.SplitSeq(path, "/") {
		switch {
		case seg == "" || seg == "." || seg == "..":
			return fmt.Errorf("%w: empty, \".\" and \"..\" segments are refused", ErrForbiddenRef)
		case strings.EqualFold(seg, AdobeSecret):
			return fmt.Errorf("%w: the tenant's Adobe credentials are not for sending elsewhere", ErrForbiddenRef)
		case !refSegment.MatchString(seg):
			return fmt.Errorf("%w: path segments are made of letters, digits, \"_\", \".\" and \"-\"", ErrForbiddenRef)
		}
	}
	return nil
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
