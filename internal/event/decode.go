// Package event is the wire: it reads connection requests, writes result events and dead letters,
// and holds the JSON Schemas that are published for all of them.
//
// A request comes in one of three forms of CloudEvents 1.0 over NATS: structured (the whole event is
// one JSON body), binary (attributes in ce-* headers, the body is the data) or bare (a JSON body
// without attributes is the data). All are read by one strict reader, because two readers that
// disagree about a message could make two different requests of it: duplicate keys, lone surrogates,
// invalid UTF-8 and text after the JSON value are refused. The CloudEvents SDK is not used to read:
// it trims blanks off ids, so that two identities could become one, and it reports one fault at a time.
//
// Headers are map[string][]string and their names are compared without case. Nothing here keeps
// state; all functions are safe for concurrent use and none of them panics on any input.
package event

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

// DefaultMaxBytes is the size limit of a message's body where a Decoder has none.
const DefaultMaxBytes = 256 << 10

// Decoder reads requests. The zero value is ready, but allows no domain. It is not changed by use.
type Decoder struct {
	AllowedDomains []string         // hosts that a request may name, with all hosts below them; none if empty
	Secrets        provision.Layout // where the tenants' secrets are
	MaxBytes       int              // longest body, in bytes; DefaultMaxBytes if zero
}

// Meta is what the broker says of one delivery of a message.
type Meta struct {
	Seq       uint64    // the message's sequence in its stream
	Timestamp time.Time // when it entered the stream
	Delivered uint64    // how often it was delivered, from 1
}

// Decode reads one message of a tenant. It always returns a delivery that has an identity and a
// fingerprint; what is wrong with the message is in Invalid, all of it at once. It does not look at
// the tenant's name, and it resolves no reference.
func (d *Decoder) Decode(tenant string, in map[string][]string, body []byte, meta Meta) provision.Delivery {
	m := opened(in, body, d.maxBytes())
	retry, salt := m.retry()
	resolution, unreadable := m.resolution(retry)
	salt += unreadable
	m.checkAttributes()
	if m.data != nil {
		createSchema().dropNulls(m.data)
	}
	id, source := m.identity(meta)
	request := provision.Request{
		Key:         provision.Key{Tenant: tenant, Source: source, ID: id},
		Fingerprint: m.fingerprint(),
		Retry:       retry,
		Expiry:      m.expiry(),
		Trace:       m.trace(),
		Resolution:  resolution,
	}
	if typ, ok := m.attrs["type"]; m.data != nil && (!ok || typ.fault != "" || typ.value == TypeCreate) {
		// Where the type is missing it is taken for ours; where it is another one, complaints about the data would
		// only mislead.
		var params provision.Params
		dataCheck{allowed: d.AllowedDomains, secrets: d.Secrets, tenant: tenant, bad: &m.bad, params: &params}.run(m.data)
		if len(m.bad) == 0 {
			request.Data = dataOf(m.data, params)
		}
	}
	return provision.Delivery{
		Request:   request,
		Invalid:   m.bad.failure(),
		Detached:  salt != "",
		EventSalt: salt,
		Seq:       meta.Seq,
		Delivered: meta.Delivered,
		EnteredAt: meta.Timestamp,
	}
}

func (d *Decoder) maxBytes() int { return cmp.Or(d.MaxBytes, DefaultMaxBytes) }

var retryPattern = regexp.MustCompile(`^(0|[1-9][0-9]{0,8})$`)

// retry reads the retry header and, where there is one, the identity that comes with it in ce-
// headers, whatever the body says: a dead letter goes back as it came. A malformed header returns a
// salt, for then the message speaks of no try of its request.
func (m *message) retry() (n int, salt string) {
	values := m.headers["flow-worker-retry"]
	if len(values) == 0 {
		return 0, ""
	}
	for _, name := range []string{"id", "source"} {
		if _, ok := m.headers[attributePrefix+name]; ok {
			m.attrs[name] = m.headerAttribute(name)
		}
	}
	if len(values) == 1 && retryPattern.MatchString(values[0]) {
		n, _ = strconv.Atoi(values[0])
		return n, ""
	}
	m.bad.add("header "+HeaderRetry, "want one whole number without sign, one more than the last retry")
	return 0, saltOf(values)
}

// saltOf makes the salt of a message that speaks of no try of its request, from the header that says so.
func saltOf(values []string) string {
	var text []byte
	for _, v := range values {
		text = strconv.AppendQuote(text, v)
	}
	return digestHex(text)
}

func digestHex(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// fingerprint returns the hex SHA-256 of the data's canonical form, or of the bytes as they came
// where there is none. Absent data has the fingerprint of no bytes, an optional field that is null that of
// none, and a byte order mark is no part of it.
func (m *message) fingerprint() string {
	out := m.dataRaw
	if n := cmp.Or(m.printed, m.data); n != nil {
		if canonical, ok := n.canonical(); ok {
			out = canonical
		}
	}
	return digestHex(out)
}

// Unread returns the delivery of a message that Decode could not carry through, which is a bug: why
// says so. Nothing of the message is believed, so the stand-ins name it, its fingerprint is that of the
// body as it came, and a retry header is not looked at.
func Unread(tenant string, in map[string][]string, body []byte, meta Meta, why *provision.Failure) provision.Delivery {
	m := &message{headers: fold(in)}
	return provision.Delivery{
		Request: provision.Request{
			Key:         provision.Key{Tenant: tenant, Source: bareSource, ID: m.standIn(meta)},
			Fingerprint: digestHex(body),
		},
		Invalid:   why,
		Seq:       meta.Seq,
		Delivered: meta.Delivered,
		EnteredAt: meta.Timestamp,
	}
}

const (
	maxViolations = 50 // reported of one message
	maxNameLen    = 64 // bytes of one name in a pointer
)

// violation is one thing wrong with a message. Its text never quotes a value that may be secret.
type violation struct {
	at     string // JSON pointer: /id for an attribute, /data/name for data
	text   string
	reason provision.Reason
}

// violations gathers all that is wrong with one message.
type violations []violation

func (v *violations) add(at, format string, args ...any) {
	v.addAs(provision.ReasonInvalidRequest, at, fmt.Sprintf(format, args...))
}

func (v *violations) addAs(reason provision.Reason, at, text string) {
	*v = append(*v, violation{at, text, reason})
}

// has reports whether something was said of that very place already.
func (v violations) has(at string) bool {
	return slices.ContainsFunc(v, func(each violation) bool { return each.at == at })
}

// failure returns all violations as one failure, or nil if there are none. A literal secret gives
// the reason before a forbidden reference does, and that before anything else.
func (v violations) failure() *provision.Failure {
	if len(v) == 0 {
		return nil
	}
	reason := provision.ReasonInvalidRequest
	for _, r := range []provision.Reason{provision.ReasonSecretForbidden, provision.ReasonPlaintextSecret} {
		if slices.ContainsFunc(v, func(each violation) bool { return each.reason == r }) {
			reason = r
		}
	}
	return provision.Fail(reason, "the request is not valid: "+v.String())
}

// String returns the violations ordered by place, so that the same message gives the same text.
func (v violations) String() string {
	sorted := slices.Clone(v)
	slices.SortFunc(sorted, func(a, b violation) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.text, b.text))
	})
	sorted = slices.Compact(sorted)
	more := len(sorted) - maxViolations
	if more > 0 {
		sorted = sorted[:maxViolations]
	}
	parts := make([]string, len(sorted))
	for i, each := range sorted {
		parts[i] = each.at + ": " + each.text
	}
	text := strings.Join(parts, "; ")
	if more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// pointerEscape escapes a name for a JSON pointer.
var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

// under returns the JSON pointer of a name below at. Long names are cut and unprintable characters
// or tokens are replaced: names come from outside and end in logs.
func under(at, name string) string {
	if plainName(name) {
		return at + "/" + name
	}
	name = scrub.Scrubber{}.Text(name)
	name = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, name)
	if len(name) > maxNameLen {
		name = strings.ToValidUTF8(name[:maxNameLen], "") + "…"
	}
	return at + "/" + pointerEscape.Replace(name)
}

// plainName reports whether a pointer shows the name as it is.
func plainName(name string) bool {
	return len(name) <= maxNameLen && !scrub.HoldsToken(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || r == '~' || r == '/'
	})
}
