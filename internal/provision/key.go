package provision

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Key is the identity of a request: two messages with equal keys are the same request.
type Key struct {
	Tenant string `json:"tenant"` // the last token of the request's subject, the only source of authority
	Source string `json:"source"` // the CloudEvent's source, 1 to 256 bytes
	ID     string `json:"id"`     // the CloudEvent's id, 1 to 256 bytes
}

var tenantPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// ValidTenant reports whether s can name a tenant: one subject token of lower-case letters, digits,
// "_" and "-", at most 63 bytes.
func ValidTenant(s string) bool { return tenantPattern.MatchString(s) }

// MaxKeyPart is how many bytes the source or the id of a request may have; each has at least one.
const MaxKeyPart = 256

// maxKeyText is the length of the longest Key.String: a tenant, and two parts with every byte escaped.
const maxKeyText = 63 + 2*(1+3*MaxKeyPart)

// Validate returns an error that names the part which no request has, or nil. What becomes a subject
// passes through it, for the text of a NATS operation has a bound, and a server closes the connection
// of a client that exceeds it.
func (k Key) Validate() error {
	if !ValidTenant(k.Tenant) {
		return fmt.Errorf("provision: a text of %d bytes is no tenant; want 1 to 63 of a-z, 0-9, \"_\" and \"-\"", len(k.Tenant))
	}
	if err := validPart("source", k.Source); err != nil {
		return err
	}
	return validPart("id", k.ID)
}

func validPart(name, s string) error {
	if s == "" || len(s) > MaxKeyPart {
		return fmt.Errorf("provision: the %s has %d bytes; a request's has 1 to %d", name, len(s), MaxKeyPart)
	}
	return nil
}

// String returns "<tenant>.<esc(source)>.<esc(id)>", the key of the request's ledger record. It is
// injective, because esc writes every byte outside [A-Za-z0-9_-] as "=XX", and it is a valid NATS
// KV key where Validate is nil.
func (k Key) String() string {
	return k.Tenant + "." + escape(k.Source) + "." + escape(k.ID)
}

// ParseKey is the inverse of Key.String. It fails on text that String could not have written of a key
// that is valid.
func ParseKey(s string) (Key, error) {
	if len(s) > maxKeyText {
		return Key{}, fmt.Errorf("provision: a text of %d bytes is no request key; the longest has %d", len(s), maxKeyText)
	}
	parts := strings.Split(s, ".")
	if len(parts) != 3 || !ValidTenant(parts[0]) {
		return Key{}, fmt.Errorf("provision: %q is no request key; want <tenant>.<source>.<id>", s)
	}
	source, err := unescape(parts[1])
	if err != nil {
		return Key{}, err
	}
	id, err := unescape(parts[2])
	if err != nil {
		return Key{}, err
	}
	k := Key{Tenant: parts[0], Source: source, ID: id}
	if err := k.Validate(); err != nil {
		return Key{}, err
	}
	return k, nil
}

// Mark returns the text that identifies this request's connection at the Flow Service: it ends the
// posted description. The digits are the first 32 of the SHA-256 of Key.String; the retry number is
// not among its inputs, so a retry finds what an earlier one made.
func (k Key) Mark() string {
	sum := sha256.Sum256([]byte(k.String()))
	return MarkPrefix + hex.EncodeToString(sum[:])[:32] + "]"
}

// MarkPrefix begins every mark. A request whose own description holds it is refused.
const MarkPrefix = "[flow-worker "

// EventID returns the id of the result event of the request's given retry with the given outcome. It
// depends on nothing else, so an outcome told twice can be recognized.
func (k Key) EventID(retry int, outcome string) string {
	return digest(k.String(), strconv.Itoa(retry), outcome)[:32]
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

const hexDigits = "0123456789ABCDEF"

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('=')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}

func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case plain(s[i]):
			b.WriteByte(s[i])
		case s[i] == '=' && i+2 < len(s) && upperHex(s[i+1]) && upperHex(s[i+2]):
			c, _ := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if plain(byte(c)) {
				return "", fmt.Errorf("provision: %q escapes a byte that needs no escape", s)
			}
			b.WriteByte(byte(c))
			i += 2
		default:
			return "", fmt.Errorf("provision: %q is not an escaped key part", s)
		}
	}
	return b.String(), nil
}

func upperHex(c byte) bool { return strings.IndexByte(hexDigits, c) >= 0 }
