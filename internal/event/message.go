package event

import (
	"encoding/base64"
	"fmt"
	"strings"

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
	attrs   map[string]attribute // :: name → as sent
	root    *node                // the body; nil where it could not be parsed
	closed  bool                 // root, if any, is only the top level of a body that is not read further
	data    *node                // nil where there is none, or none that could be parsed
	dataRaw []byte               // the bytes that data was to be read from
	base64  *node                // the data_base64 member that dataRaw came from, if any
	bad     violations
}

// opened takes a message apart. A body longer than max bytes is not looked into.
func opened(in map[string][]string, body []byte, max int) *message {
	m := &message{headers: fold(in), attrs: map[string]attribute{}, dataRaw: body}
	if len(body) > max {
		m.bad.add("body", "%d bytes long; at most %d are allowed", len(body), max)
		m.open(nil)
		return m
	}
	root, err := parse(body)
	if err != nil {
		m.bad.add("body", "%s", err)
		m.closed = true
		root = parseTop(body)
	}
	m.open(root)
	return m
}

func (m *message) open(root *node) {
	m.root = root
	m.form = m.whichForm()
	switch m.form {
	case formStructured:
		m.openStructured()
	case formBinary:
		m.openBody(root)
		m.checkContentTypes()
	case formBare:
		m.openBody(root)
	}
}

// openBody reads an event that has its data as body.
func (m *message) openBody(root *node) {
	m.openHeaders()
	if !m.closed {
		m.data = root
	}
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
	}
	return formBare
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
		m.bad.add("body", "not a CloudEvent; want a JSON object")
		return
	}
	for _, each := range m.root.members {
		m.openMember(each)
	}
	if !m.closed {
		m.openData()
	} else if data := m.root.member("data"); data != nil && data.flaw == "" {
		m.dataRaw = data.raw
	}
}

// openMember reads one member of a structured event as an attribute. The JSON format says that null
// is the same as absent.
func (m *message) openMember(each member) {
	if each.name == "data" || each.name == "data_base64" {
		return
	}
	a := attribute{}
	switch each.value.kind {
	case kindString:
		a = readAttribute(each.name, each.value.text)
	case kindNull:
		if each.value.flaw == "" {
			return
		}
	case kindObject, kindArray:
		a.fault = "must be a string"
	default:
		if knownAttribute(each.name) {
			a.fault = "must be a string"
		}
	}
	if each.value.flaw != "" {
		a = attribute{fault: each.value.flaw}
	}
	m.attrs[each.name] = a
}

// openData finds the data of a structured event.
func (m *message) openData() {
	data, encoded := m.root.member("data"), m.root.member("data_base64")
	m.dataRaw = nil
	switch {
	case data != nil && encoded != nil:
		m.bad.add("/data_base64", "given beside /data; want one of them")
		m.data, m.dataRaw = data, m.root.raw
	case data != nil && data.flaw == flawTwice:
		m.data, m.dataRaw = data, m.root.raw
	case data != nil:
		m.data, m.dataRaw = data, data.raw
	case encoded != nil:
		m.openBase64(encoded)
	default:
		m.bad.add("/data", "required")
	}
	m.checkAttributeMedia()
}

func (m *message) openBase64(encoded *node) {
	m.base64, m.dataRaw = encoded, encoded.raw
	raw, err := base64.StdEncoding.DecodeString(encoded.text)
	if encoded.kind != kindString || encoded.flaw != "" || err != nil {
		m.bad.add("/data_base64", "not standard base64 given once")
		return
	}
	m.dataRaw = raw
	if m.data, err = parse(raw); err != nil {
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

// openHeaders reads the ce-* headers as attributes, of too many only the known.
func (m *message) openHeaders() {
	many := m.headers.tooMany()
	if many {
		m.bad.add("headers", "more than %d attributes", maxAttributes)
	}
	for name := range m.headers {
		if attr, ok := strings.CutPrefix(name, attributePrefix); ok && (!many || knownAttribute(attr)) {
			m.attrs[attr] = m.headerAttribute(attr)
		}
	}
}

func (m *message) headerAttribute(name string) attribute {
	value, _, err := m.headers.get(attributePrefix + name)
	if err != nil {
		return attribute{fault: err.Error()}
	}
	if value, err = unescape(value); err != nil {
		return attribute{fault: err.Error()}
	}
	return readAttribute(name, value)
}

// faultToken is of an attribute that is as good as unreadable: nothing of it may be told.
const faultToken = "holds what looks like a token or a password; no attribute is for secrets"

// readAttribute refuses what a CloudEvents string may not hold, and a token in an attribute that we know.
// Others are kept nowhere, and a malformed trace context is refused by nobody: see trace.
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
