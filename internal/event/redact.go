package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strconv"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

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
	sum := sha256.Sum256(body)
	out, err := marshal(struct {
		Bytes  int    `json:"bytes"`
		SHA256 string `json:"sha256"`
	}{len(body), hex.EncodeToString(sum[:])})
	if err != nil {
		panic(err) // an int and hex digits
	}
	return out
}
