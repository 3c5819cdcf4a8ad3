package event

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

// form says how an event is laid out in a message.
type form int

const (
	formBare       form = iota // the body is the data, there are no attributes
	formBinary                 // attributes in ce-* headers, the body is the data
	formStructured             // the body is the whole event
)

// attribute is one attribute of an event as it was sent. Where it can't be read, fault says why and
// value is empty.
type attribute struct {
	value string
	fault string
}

// message is a message taken apart, whatever its form. What is wrong with it is in bad.
type message struct {
	form    form
	headers headers
	sent    map[string][]string  // the headers as they came
	attrs   map[string]attribute // :: name → as sent
	root    *node                // the body; nil where it could not be parsed
	closed  bool                 // root, if any, is only the top level of a body that is not read further
	data    *node                // nil where there is none, or none that could be parsed
	body    []byte               // without a byte order mark
	dataRaw []byte               // the bytes that data was to be read from
	printed *node                // what has the fingerprint in place of data; nil for data itself
	bad     violations
}

// opened takes a message apart. A body longer than max bytes is not looked into. A byte order mark before it
// is no part of it.
func opened(in map[string][]string, body []byte, max int) *message {
	m := &message{headers: fold(in), sent: in, attrs: map[string]attribute{}, dataRaw: body}
	if len(body) > max {
		m.bad.add("body", "%d bytes long; at most %d are allowed", len(body), max)
		m.open(nil)
		return m
	}
	text, err := PlainText(body)
	var root *node
	if err == nil {
		m.body, m.dataRaw = text, text
		root, err = parseTop(text)
	}
	if err != nil {
		m.bad.add("body", "%s", err)
		m.closed = true
	}
	m.open(root)
	return m
}

// open goes on with the top level of the body. What is below it is read where somebody looks at it: all of what
// is the data, and nothing of an attribute.
func (m *message) open(top *node) {
	m.root = top
	m.form = m.whichForm()
	switch m.form {
	case formStructured:
		m.openStructured()
	case formBinary:
		m.openBody()
		m.checkContentTypes()
	case formBare:
		m.openBody()
	}
}

// openBody reads an event that has its data as body.
func (m *message) openBody() {
	m.openHeaders()
	if m.root != nil {
		if whole := m.readData(m.root, 1); whole != nil {
			m.root, m.data = whole, whole
		}
	}
}

// readData reads what parseTop passed over, or closes the message where it is too much.
func (m *message) readData(passed *node, depth int) *node {
	data, err := parseWithin(passed, depth)
	if err != nil {
		m.bad.add("body", "%s", err)
		m.closed = true
		return nil
	}
	if data.flaw == "" {
		data.flaw = passed.flaw
	}
	return data
}

// whichForm distinguishes the forms. Identity headers on a retry name the request, they make no event
// of a bare body: a dead letter comes back with them.
func (m *message) whichForm() form {
	found, event := m.headers.attributes()
	_, retry := m.headers["flow-worker-retry"]
	switch {
	case strings.HasPrefix(m.headers.mediaType(), "application/cloudevents"), m.root.member("specversion") != nil:
		return formStructured
	case event, found && !retry:
		return formBinary
	case m.root.likeEvent():
		return formStructured
	}
	return formBare
}

// likeEvent reports whether n must be meant as an event, for all that its specversion is missing: our data has none
// of these names.
func (n *node) likeEvent() bool {
	return (n.member("data") != nil || n.member("data_base64") != nil) &&
		slices.ContainsFunc([]string{"specversion", "id", "source", "type"}, func(name string) bool { return n.member(name) != nil || n.misspelled(name) != "" })
}

// misspelled returns the name of a member that is an attribute's but for its case, or nothing.
func (n *node) misspelled(attr string) string {
	if n == nil || n.kind != kindObject {
		return ""
	}
	for _, each := range n.members {
		if each.name != attr && strings.EqualFold(each.name, attr) {
			return each.name
		}
	}
	return ""
}

func (m *message) openStructured() {
	if t := m.headers.mediaType(); strings.HasPrefix(t, "application/cloudevents") &&
		t != ContentType && t != "application/cloudevents" {
		m.bad.add("header "+HeaderContentType, "unsupported event format; want %s, one event a message", ContentType)
	}
	if m.root == nil {
		return
	}
	if m.root.kind != kindObject {
		text := "want a JSON object"
		if m.root.kind == kindArray {
			text = hintBatch
		}
		m.bad.add("body", "not a CloudEvent; %s", text)
		return
	}
	for i, each := range m.root.members {
		switch {
		case each.name == "data":
			if data := m.readData(each.value, 2); data != nil {
				m.root.members[i].value = data
			}
		case !readsAttribute(each.name), each.value.absent(): // the JSON format says that null is the same as absent
		case each.value.flaw != "":
			m.attrs[each.name] = attribute{fault: each.value.flaw}
		case each.value.kind == kindString:
			m.attrs[each.name] = readAttribute(each.name, each.value.text)
		default:
			m.attrs[each.name] = attribute{fault: "must be a string"}
		}
	}
	if !m.closed {
		m.openData()
	} else if data := m.root.member("data"); data != nil && data.flaw == "" {
		m.dataRaw = m.body[data.start:data.end]
	}
}

// openData finds the data of a structured event. Of data and data_base64 one may be null, as some libraries
// write what is absent.
func (m *message) openData() {
	data, encoded := m.root.member("data"), m.root.member("data_base64")
	if encoded.absent() {
		encoded = nil
	} else if data.absent() && encoded != nil {
		data = nil
	}
	m.dataRaw = nil
	switch {
	case data != nil && encoded != nil:
		m.bad.add("/data_base64", "given beside /data; want one of them")
		m.data, m.dataRaw, m.printed = data, m.body[m.root.start:m.root.end], m.root
	case data != nil && data.flaw == flawTwice:
		m.data, m.dataRaw, m.printed = data, m.body[m.root.start:m.root.end], m.root
	case data != nil:
		m.data, m.dataRaw = data, m.body[data.start:data.end]
	case encoded != nil:
		m.openBase64(encoded)
	default:
		m.bad.add("/data", "required")
	}
	m.checkAttributeMedia()
}

func (m *message) openBase64(encoded *node) {
	m.dataRaw = m.body[encoded.start:encoded.end]
	raw, err := base64.StdEncoding.DecodeString(encoded.text)
	if encoded.kind != kindString || encoded.flaw != "" || err != nil {
		if _, secret := (dataCheck{}).inside(encoded.text); secret {
			m.bad.addAs(provision.ReasonPlaintextSecret, "/data_base64", "not standard base64; "+hintSecret)
			return
		}
		m.bad.add("/data_base64", "not standard base64 given once; want the alphabet with + and /, and = at the end")
		return
	}
	if m.dataRaw, err = PlainText(raw); err == nil {
		m.data, err = parse(m.dataRaw)
	} else {
		m.dataRaw = raw
	}
	if err != nil {
		m.data = nil
		m.bad.add("/data_base64", "%s", err)
	}
}

// checkContentTypes looks at the datacontenttype of a binary event. The NATS binding has it in the
// Content-Type; some senders write it as another ce- header, too.
func (m *message) checkContentTypes() {
	if _, _, err := m.headers.get(HeaderContentType); err != nil {
		m.bad.add("/datacontenttype", "header %s: %s", HeaderContentType, err)
	}
	m.checkMedia(m.headers.mediaType())
	m.checkAttributeMedia()
}

func (m *message) checkAttributeMedia() {
	if a, ok := m.attrs["datacontenttype"]; ok && a.fault == "" {
		m.checkMedia(mediaType(a.value))
	}
}

// checkMedia refuses data that is said to be anything but JSON.
func (m *message) checkMedia(media string) {
	if media != "" && !jsonMedia(media) {
		m.bad.add("/datacontenttype", "the data must be JSON; want application/json")
	}
}

// openHeaders reads the ce-* headers as attributes.
func (m *message) openHeaders() {
	if m.headers.tooMany() {
		m.bad.add("headers", "more than %d attributes", maxAttributes)
	}
	for name := range m.headers {
		if attr, ok := strings.CutPrefix(name, attributePrefix); ok && readsAttribute(attr) {
			m.attrs[attr] = m.headerAttribute(attr)
		}
	}
}

func (m *message) headerAttribute(name string) attribute {
	value, _, err := m.headers.get(attributePrefix + name)
	if err != nil {
		fault := err.Error()
		if names := spellings(m.sent, name); names != nil {
			fault += ", as the headers " + strings.Join(names, " and ") + "; send one of them"
		}
		return attribute{fault: fault}
	}
	if value, err = unescape(value); err != nil {
		return attribute{fault: err.Error()}
	}
	return readAttribute(name, value)
}

// faultToken is of an attribute that is as good as unreadable: nothing of it may be shown.
const faultToken = "holds what looks like a token or a password; no attribute is for secrets"

// readAttribute refuses what a CloudEvents string may not hold, and a token in an attribute that we know.
// A malformed trace context is refused by nobody: see trace.
func readAttribute(name, value string) attribute {
	for _, r := range value {
		if r < 0x20 || r >= 0x7f && r <= 0x9f {
			return attribute{fault: fmt.Sprintf("holds the control character U+%04X", r)}
		}
	}
	if knownAttribute(name) && !traceAttribute(name) && scrub.HoldsToken(value) {
		return attribute{fault: faultToken}
	}
	return attribute{value: value}
}

// Names of headers, as they are written. They are read without regard to case.
const (
	HeaderContentType = "Content-Type"
	HeaderMsgID       = "Nats-Msg-Id"
	HeaderRetry       = "Flow-Worker-Retry"
	HeaderReason      = "Flow-Worker-Reason"      // of a dead letter: the failure's reason
	HeaderRequestKey  = "Flow-Worker-Request-Key" // of a dead letter: provision.Key.String
	HeaderFailedAt    = "Flow-Worker-Failed-At"   // of a dead letter: RFC 3339, UTC
	HeaderRedacted    = "Flow-Worker-Redacted"    // of a dead letter: "true" where anything was removed
	HeaderTraceParent = "traceparent"
	HeaderTraceState  = "tracestate"
	attributePrefix   = "ce-" // before a CloudEvents attribute's name in the binary form
)

// ContentType is that of every event this package writes.
const ContentType = "application/cloudevents+json"

// headers are a message's headers by lower-case name, so that they can be read without case.
type headers map[string][]string // :: lower-case name → values

// otherPrefixes stand before an attribute's name in other bindings than that of NATS: Kafka's, and AMQP's and JMS's.
// A bridge from there leaves them as they are. They are read, and kept, as attributePrefix.
var otherPrefixes = []string{"ce_", "cloudevents_"}

func fold(in map[string][]string) headers {
	out := make(headers, len(in))
	var others []string
	for _, name := range slices.Sorted(maps.Keys(in)) {
		lower := strings.ToLower(name)
		if _, ok := otherBinding(lower); ok {
			others = append(others, name)
			continue
		}
		out[lower] = append(out[lower], in[name]...)
	}
	for _, name := range others {
		attr, _ := otherBinding(strings.ToLower(name))
		if at := attributePrefix + attr; !slices.Equal(out[at], in[name]) { // else both spellings say the same
			out[at] = append(out[at], in[name]...)
		}
	}
	return out
}

// otherBinding returns the attribute that a header in lower case is of in another binding.
func otherBinding(lower string) (attr string, ok bool) {
	for _, prefix := range otherPrefixes {
		if attr, ok = strings.CutPrefix(lower, prefix); ok {
			return attr, true
		}
	}
	return "", false
}

var errTwice = errors.New("given more than once")

// spellings returns how the names of an attribute's headers are written, where there is more than one.
func spellings(in map[string][]string, attr string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(in)) {
		lower := strings.ToLower(name)
		if other, ok := otherBinding(lower); lower == attributePrefix+attr || ok && other == attr {
			names = append(names, name)
		}
	}
	if len(names) < 2 {
		return nil
	}
	return names
}

// get returns the header's only value. It fails where there are several: readers differ in which
// one they take.
func (h headers) get(name string) (value string, ok bool, err error) {
	values := h[strings.ToLower(name)]
	switch len(values) {
	case 0:
		return "", false, nil
	case 1:
		return values[0], true, nil
	}
	return "", true, errTwice
}

// attributes reports whether any of the headers is a CloudEvents attribute, and whether one of those
// is more than a request's identity, which alone does not make an event.
func (h headers) attributes() (found, event bool) {
	for name := range h {
		attr, ok := strings.CutPrefix(name, attributePrefix)
		found = found || ok
		event = event || ok && attr != "id" && attr != "source"
	}
	return found, event
}

// maxAttributes bounds the attributes of a binary event: a broker lets tens of thousands through.
const maxAttributes = 256

// tooMany reports whether there are more attributes than maxAttributes.
func (h headers) tooMany() bool {
	n := 0
	for name := range h {
		if strings.HasPrefix(name, attributePrefix) {
			n++
		}
	}
	return n > maxAttributes
}

// mediaType returns the Content-Type without its parameters, in lower case.
func (h headers) mediaType() string {
	value, _, _ := h.get(HeaderContentType)
	return mediaType(value)
}

func mediaType(contentType string) string {
	media, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(media))
}

var errPercent = errors.New("not UTF-8 after percent-decoding; write each byte of UTF-8 that is not printable ASCII as %XX, and a percent sign as %25")

// unescape decodes the value of a binary attribute where the CloudEvents binding encodes: blanks, double quotes,
// percent signs and all that is not printable ASCII. Whatever else looks encoded is a part of the value, for the
// common libraries encode nothing: "order%2F123" has come as it is meant. It is the inverse of the binding's
// encoder, and changes nothing that such an encoder would have written in another way.
func unescape(value string) (string, error) {
	if strings.IndexByte(value, '%') >= 0 {
		var b strings.Builder
		for i := 0; i < len(value); i++ {
			c, ok := byte(0), false
			if value[i] == '%' && i+2 < len(value) {
				n, err := strconv.ParseUint(value[i+1:i+3], 16, 8)
				c, ok = byte(n), err == nil && encodes(byte(n))
			}
			if !ok {
				b.WriteByte(value[i])
				continue
			}
			b.WriteByte(c)
			i += 2
		}
		value = b.String()
	}
	if !utf8.ValidString(value) {
		return "", errPercent
	}
	return value, nil
}

// EncodeHeader returns the value of an attribute as a ce- header of the CloudEvents NATS binding has it, percent-encoded
// byte by byte. Decode reads it as the very same value, whatever that looks like.
func EncodeHeader(value string) string {
	var b strings.Builder
	for _, c := range []byte(value) {
		if encodes(c) {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// encodes reports whether the CloudEvents binding percent-encodes the byte.
func encodes(c byte) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '%' }

func jsonMedia(media string) bool {
	return media == "application/json" || media == "text/json" || strings.HasSuffix(media, "+json")
}
