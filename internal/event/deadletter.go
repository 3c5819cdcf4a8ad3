package event

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

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

// msgID is the same whenever one failure is published, and another for every retry. A failure of the
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
		noNumber := func(v string) bool { return len(v) > 20 || strings.Trim(v, "0123456789") != "" }
		if slices.ContainsFunc(values, noNumber) { // anything may be in it
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

// formedHeader reports whether the ce- header of a known attribute can be read and has its form.
func (m *message) formedHeader(attr string) bool {
	a := m.headerAttribute(attr)
	return a.fault == "" && formed(attr, a.value)
}

// edit replaces a part of a text.
type edit struct {
	start, end int
	with       string
}

var redactedJSON = strconv.Quote(provision.Redacted)

// redaction collects the parts of one JSON text that must go, in the order of the text.
type redaction struct {
	edits []edit
	trace int // how many of edits took out a malformed trace context, which nobody misses
}

// hide takes out a whole value.
func (r *redaction) hide(n *node) {
	if n.raw != redactedJSON {
		r.edits = append(r.edits, edit{n.start, n.end, redactedJSON})
	}
}

// name takes out a name that holds a token.
func (r *redaction) name(m member) {
	if scrub.HoldsToken(m.name) {
		r.edits = append(r.edits, edit{m.start, m.end, redactedJSON})
	}
}

// data takes out of a request's data what has no place in the schema, the access token unless it is a
// reference, and parameters that don't have their form. Every one of several equal names is looked at.
func (r *redaction) data(n *node, s *schema, at string) {
	switch {
	case s == nil:
		r.hide(n)
	case n.absent():
	case s.Properties == nil:
		if !harmless(n, at) {
			r.hide(n)
		}
	case n.kind != kindObject:
		r.hide(n)
	default:
		for _, each := range n.members {
			r.name(each)
			r.data(each.value, s.Properties[each.name], at+"/"+each.name)
		}
	}
}

// event takes out of a structured event what has no place in it.
func (r *redaction) event(root *node) (ok bool) {
	if root.kind != kindObject {
		r.hide(root)
		return true
	}
	for _, each := range root.members {
		r.name(each)
		switch {
		case (each.name == "data" || each.name == "data_base64") && each.value.absent():
		case each.name == "data":
			r.data(each.value, createSchema(), atData)
		case each.name == "data_base64":
			if !r.base64(each.value) {
				return false
			}
		case attributeStays(each.name, each.value):
		case traceAttribute(each.name) && each.value.kind == kindString && each.value.flaw == "" && readAttribute(each.name, each.value.text).fault == "":
			before := len(r.edits)
			r.hide(each.value)
			r.trace += len(r.edits) - before
		default:
			r.hide(each.value)
		}
	}
	return true
}

// base64 redacts data inside its encoding. It reports false if the data can't be read.
func (r *redaction) base64(n *node) bool {
	raw, err := base64.StdEncoding.DecodeString(n.text)
	if err != nil || n.kind != kindString {
		return false
	}
	plain, err := PlainText(raw)
	if err != nil {
		return false
	}
	data, err := parse(plain)
	if err != nil {
		return false
	}
	var inner redaction
	inner.data(data, createSchema(), atData)
	if len(inner.edits) > 0 {
		text := base64.StdEncoding.EncodeToString(inner.apply(raw))
		r.edits = append(r.edits, edit{n.start, n.end, strconv.Quote(text)})
	}
	return true
}

// apply returns src with the parts replaced. A byte order mark stays, and was not counted with.
func (r *redaction) apply(src []byte) []byte {
	var out bytes.Buffer
	if rest, ok := bytes.CutPrefix(src, byteOrderMark); ok {
		out.Write(byteOrderMark)
		src = rest
	}
	from := 0
	for _, e := range r.edits {
		out.Write(src[from:e.start])
		out.WriteString(e.with)
		from = e.end
	}
	out.Write(src[from:])
	return out.Bytes()
}

// redacted returns the body as a dead letter may hold it, whether anything was taken out of
// it, and whether it was replaced as a whole because it could not be parsed.
func (m *message) redacted(body []byte) (out []byte, changed, replaced bool) {
	var r redaction
	switch {
	case m.root == nil, m.closed:
		return digestOf(body), true, true
	case m.form != formStructured:
		r.data(m.root, createSchema(), atData)
	case !r.event(m.root):
		return digestOf(body), true, true
	}
	if len(r.edits) == 0 {
		return body, false, false
	}
	return r.apply(body), len(r.edits) > r.trace, false
}

// digestOf stands for a body that could not be parsed.
func digestOf(body []byte) []byte {
	out, err := marshal(struct {
		Bytes  int    `json:"bytes"`
		SHA256 string `json:"sha256"`
	}{len(body), digestHex(body)})
	if err != nil {
		panic(err) // an int and hex digits
	}
	return out
}

// A dead letter keeps the value of a known field or attribute only where it has that field's form:
// what was put in the wrong place may be a secret. Whether the worker would accept it is another
// question: a domain that is not allowed and a type of a later version stay.

var (
	versionForm = regexp.MustCompile(`^[0-9]{1,3}(\.[0-9]{1,3}){0,2}$`)
	typeForm    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+$`)
	mediaForm   = regexp.MustCompile(`^\s*[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}\s*$`)
	charsetForm = regexp.MustCompile(`(?i)^\s*charset\s*=\s*("(utf-8|us-ascii)"|utf-8|us-ascii)\s*$`)
)

// formed reports whether the value may be one of the known attribute.
func formed(name, value string) bool {
	switch name {
	case "specversion":
		return versionForm.MatchString(value)
	case "type":
		return len(value) <= maxIDLen && typeForm.MatchString(value)
	case "time", "expirytime":
		return checkTime(value) == ""
	case "datacontenttype":
		return plainMedia(value) == value
	case "dataschema":
		u, err := url.Parse(value)
		return err == nil && u.IsAbs() && u.User == nil && u.RawQuery == "" && u.Opaque == ""
	case HeaderTraceParent:
		return validTraceParent(value)
	case HeaderTraceState:
		return validTraceState(value)
	case "id", "source":
		return validID(value)
	}
	return true
}

// plainMedia returns the Content-Type with no parameter but a charset, or nothing if it is none.
func plainMedia(value string) string {
	media, rest, found := strings.Cut(value, ";")
	switch {
	case !mediaForm.MatchString(media):
		return ""
	case !found, charsetForm.MatchString(rest):
		return value
	}
	return strings.TrimSpace(media)
}

// attributeStays reports whether a member of a structured event has a value that may stay.
func attributeStays(name string, n *node) bool {
	if !knownAttribute(name) || n.flaw != "" && n.flaw != flawTwice {
		return false
	}
	return n.kind == kindNull || n.kind == kindString && readAttribute(name, n.text).fault == "" && formed(name, n.text)
}

// harmless reports whether the value of a known field may stay. One that should be a string and has
// parts may hold anything, and one that holds a token does.
func harmless(n *node, at string) bool {
	if n.kind == kindObject || n.kind == kindArray {
		return false
	}
	if n.kind == kindString && tokenAt(at, n.text) {
		return false
	}
	switch at {
	case atToken:
		_, err := provision.ParseSecretRef(n.text)
		return n.kind == kindNull || n.kind == kindString && err == nil
	case atDomain:
		_, wrong := checkHost(n.text)
		return n.kind == kindNull || n.kind == kindString && wrong == ""
	case atCluster, atDatabase, atCatalog:
		return n.kind == kindNull || n.kind == kindString && saneParam(at, n.text)
	}
	return true
}

func saneParam(at, text string) bool {
	return len(text) <= byteLimits[at] && !holdsControl(at, text) && !strings.HasPrefix(text, provision.RefScheme) &&
		!strings.ContainsRune(text, utf8.RuneError)
}

// keptHeader returns what a dead letter keeps of the values of a header that has a form, which may be
// nothing.
func keptHeader(name string, values []string) []string {
	if len(values) > 1 && name != HeaderTraceState {
		return nil
	}
	var kept []string
	for _, v := range values {
		switch {
		case name == HeaderContentType:
			v = plainMedia(v)
		case !formed(name, v):
			v = ""
		}
		if v != "" && !scrub.HoldsToken(v) {
			kept = append(kept, v)
		}
	}
	return kept
}
