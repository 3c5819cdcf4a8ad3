package vault

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// plainPath reports whether p is a path that nothing on the way to Vault can read as another one:
// Vault's client joins with path.Join, which resolves "..", so that a check of the beginning would
// not be enough, and escapes have no place in it.
func plainPath(p string) bool {
	if p == "" || path.Clean(p) != p || p[0] == '/' {
		return false
	}
	for seg := range strings.SplitSeq(p, "/") {
		if seg == "." || seg == ".." || strings.ContainsFunc(seg, notPathRune) {
			return false
		}
	}
	return true
}

func notPathRune(r rune) bool {
	return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_.-", r)
}

func notPrintable(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }

// place is where a secret lies below the KV mount. Only placeOf makes one.
type place struct{ path string }

// placeOf returns the place of rel in the tenant's own part of Vault. It refuses whatever could name
// anything outside; what a request may write was checked before, by provision.ParseSecretRef, and is
// checked here once more by other means.
func placeOf(prefix, tenant, rel string) (place, error) {
	if !provision.ValidTenant(tenant) {
		return place{}, errors.New("not the name of a tenant")
	}
	own := prefix + "/" + tenant + "/"
	full := own + rel
	if !plainPath(rel) || !plainPath(full) || !strings.HasPrefix(path.Join("/v1/m/data", full), "/v1/m/data/"+own) {
		return place{}, fmt.Errorf("%w: not a path below the tenant's own", provision.ErrForbiddenRef)
	}
	return place{path: full}, nil
}

// checkRef repeats what made ref, so that a ref made in any other way has no more rights.
func checkRef(ref provision.SecretRef) error {
	parsed, err := provision.ParseSecretRef(ref.String())
	if err != nil {
		return err
	}
	if parsed != ref {
		return fmt.Errorf("%w: it reads as another one", provision.ErrBadRef)
	}
	return nil
}
