package event

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strconv"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
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
	request.Data = d.data(tenant, m)
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

// data checks the message's data and returns it if the whole message is valid.
func (d *Decoder) data(tenant string, m *message) provision.Data {
	if m.data == nil || !m.ofOurType() {
		return provision.Data{}
	}
	dataCheck{allowed: d.AllowedDomains, secrets: d.Secrets, tenant: tenant, bad: &m.bad}.run(m.data)
	if len(m.bad) > 0 {
		return provision.Data{}
	}
	data, err := decodeData(m.data)
	if err != nil { // the schema and the types disagree
		m.bad.add(atData, "does not fit a request")
		return provision.Data{}
	}
	return data
}

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
	h := sha256.New()
	for _, v := range values {
		h.Write([]byte(strconv.Quote(v)))
	}
	return 0, hex.EncodeToString(h.Sum(nil))
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
	sum := sha256.Sum256(out)
	return hex.EncodeToString(sum[:])
}
