package event

import (
	"slices"
	"strings"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

// Message is a message to be published.
type Message struct {
	Subject string
	Headers map[string][]string
	Body    []byte
}

// Letter is a request that failed, as it came, and how it failed.
type Letter struct {
	Headers     map[string][]string
	Body        []byte
	Key         provision.Key // a Tenant that is none sends the letter to InvalidDeadLetters
	Retry       int
	Fingerprint string // of the message's data
	Salt        string // Delivery.EventSalt
	Detached    bool   // the failure is the message's own, not the request's: also id_reused
	Reason      provision.Reason
	FailedAt    time.Time
}

// InvalidDeadLetters is the subject of dead letters whose subject named no tenant.
const InvalidDeadLetters = deadLetters + "_invalid"

const deadLetters = "connections.deadletters."

// DeadLetter returns the message that keeps a failed request: as it came where it is safe to, with
// "[redacted]" in place of every value that may be a secret, and with only length and SHA-256 in
// place of a body that can't be parsed or is over the limit. A malformed trace context is no loss and
// does not count as redacted. The same letter gives the same message.
func (d *Decoder) DeadLetter(l Letter) Message {
	m := opened(l.Headers, l.Body, d.maxBytes())
	body, changed, replaced := m.redacted(l.Body)
	out, hidden := m.kept()
	if replaced {
		out[HeaderContentType] = []string{"application/json"}
	}
	if changed || hidden {
		out[HeaderRedacted] = []string{"true"}
	}
	key := l.Key
	subject := deadLetters + key.Tenant
	if !provision.ValidTenant(key.Tenant) {
		subject, key.Tenant = InvalidDeadLetters, "_invalid"
	}
	out[HeaderReason] = []string{string(l.Reason)}
	out[HeaderRequestKey] = []string{key.String()}
	out[HeaderFailedAt] = []string{l.FailedAt.UTC().Format(time.RFC3339Nano)}
	out[HeaderMsgID] = []string{l.msgID()}
	return Message{Subject: subject, Headers: out, Body: body}
}

// msgID is the same for every telling of one failure, and another for every retry. A failure of the
// message alone must not be taken for one of the request that it names.
func (l Letter) msgID() string {
	kind := "deadletter"
	if l.Detached || l.Salt != "" || l.Reason == provision.ReasonIDReused {
		kind += "." + l.Fingerprint + "." + l.Salt
	}
	return l.Key.EventID(l.Retry, kind)
}

// kept returns the headers that a dead letter keeps, spelled as we spell them, and whether a value
// among them was hidden.
func (m *message) kept() (out map[string][]string, hidden bool) {
	out = map[string][]string{}
	if values := m.headers[strings.ToLower(HeaderRetry)]; len(values) > 0 {
		out[HeaderRetry] = values
		if slices.ContainsFunc(values, notARetry) { // anything may be in it
			out[HeaderRetry], hidden = []string{provision.Redacted}, true
		}
	}
	for _, name := range []string{HeaderContentType, HeaderTraceParent, HeaderTraceState} {
		values := m.headers[strings.ToLower(name)]
		kept := keptHeader(name, values)
		if len(kept) > 0 {
			out[name] = kept
		}
		hidden = hidden || !slices.Equal(kept, values) && !traceAttribute(name)
	}
	many := m.headers.tooMany() // unknown ones of too many are left out
	for name, values := range m.headers {
		attr, ok := strings.CutPrefix(name, attributePrefix)
		switch {
		case !ok:
		case scrub.HoldsToken(attr):
			hidden = true // the name itself
		case knownAttribute(attr) && m.formedHeader(attr):
			out[name] = values
		case traceAttribute(attr) && m.headerAttribute(attr).fault == "":
			// Left out: see traceAttribute.
		case many:
			hidden = true
		default:
			out[name] = []string{provision.Redacted}
			hidden = true
		}
	}
	return out, hidden
}

// notARetry reports whether a header's value could not be a retry's number, however large.
func notARetry(value string) bool {
	return len(value) > 20 || strings.Trim(value, "0123456789") != ""
}

// formedHeader reports whether the ce- header of a known attribute can be read and has its form.
func (m *message) formedHeader(attr string) bool {
	a := m.headerAttribute(attr)
	return a.fault == "" && formed(attr, a.value)
}
