package event

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

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
		m.dataRaw = text
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

// whichForm tells the forms apart. Identity headers on a retry name the request, they make no event
// of a bare body: a dead letter comes back with them.
func (m *message) whichForm() form {
	mediaType := m.headers.mediaType()
	found, event := m.headers.attributes()
	_, retry := m.headers["flow-worker-retry"]
	switch {
	case strings.HasPrefix(mediaType, "application/cloudevents"), m.root.member("specversion") != nil:
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
		if each.name != "data" {
			m.openMember(each)
		} else if data := m.readData(each.value, 2); data != nil {
			m.root.members[i].value = data
		}
	}
	if !m.closed {
		m.openData()
	} else if data := m.root.member("data"); data != nil && data.flaw == "" {
		m.dataRaw = []byte(data.raw)
	}
}

// openMember reads one member of a structured event as an attribute, if it is one that the worker reads. The JSON
// format says that null is the same as absent.
func (m *message) openMember(each member) {
	if !readsAttribute(each.name) || each.value.kind == kindNull && each.value.flaw == "" {
		return
	}
	a := attribute{fault: "must be a string"}
	if each.value.kind == kindString {
		a = readAttribute(each.name, each.value.text)
	}
	if each.value.flaw != "" {
		a = attribute{fault: each.value.flaw}
	}
	m.attrs[each.name] = a
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
		m.data, m.dataRaw, m.printed = data, []byte(m.root.raw), m.root
	case data != nil && data.flaw == flawTwice:
		m.data, m.dataRaw, m.printed = data, []byte(m.root.raw), m.root
	case data != nil:
		m.data, m.dataRaw = data, []byte(data.raw)
	case encoded != nil:
		m.openBase64(encoded)
	default:
		m.bad.add("/data", "required")
	}
	m.checkAttributeMedia()
}

func (m *message) openBase64(encoded *node) {
	m.dataRaw = []byte(encoded.raw)
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
	m.checkMedia(m.headers.mediaType(), "/datacontenttype")
	m.checkAttributeMedia()
}

func (m *message) checkAttributeMedia() {
	if a, ok := m.attrs["datacontenttype"]; ok && a.fault == "" {
		m.checkMedia((headers{"content-type": {a.value}}).mediaType(), "/datacontenttype")
	}
}

// checkMedia refuses data that is said to be anything but JSON.
func (m *message) checkMedia(mediaType, at string) {
	if mediaType != "" && !jsonMedia(mediaType) {
		m.bad.add(at, "the data must be JSON; want application/json")
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

// faultToken is of an attribute that is as good as unreadable: nothing of it may be told.
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
