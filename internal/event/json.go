package event

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Bounds of a message, far above what a request needs and low enough that none costs much to read.
const (
	maxDepth  = 64  // levels; a request has 5
	maxValues = 512 // values, of whatever kind; a request has 17, and every further attribute is one
	maxNumber = 64  // bytes of one number; a request has none
)

// The kinds of a node, as jsontext has them: the first byte of what it is written as.
const (
	kindObject = jsontext.KindBeginObject
	kindArray  = jsontext.KindBeginArray
	kindString = jsontext.KindString
	kindNull   = jsontext.KindNull
	kindTrue   = jsontext.KindTrue
	kindFalse  = jsontext.KindFalse
	kindNumber = jsontext.KindNumber
)

// node is one JSON value, with its place in the text it was read from and with all of several equal
// names, which a Go value would lose.
type node struct {
	kind       jsontext.Kind
	start, end int    // its place in the text
	raw        []byte // the text between them
	text       string // of a string, decoded
	members    []member
	items      []*node
	flaw       string // why two readers may disagree about it; empty if they can't
}

// member is one name and value of an object. An object may have several of one name.
type member struct {
	name       string
	start, end int // the name's place in the text
	value      *node
}

const (
	flawTwice  = "given more than once"
	flawString = "holds half a surrogate pair"
	flawName   = "its name holds half a surrogate pair"
	flawNumber = "a number outside the range of IEEE 754 doubles"
)

var (
	errTooDeep    = fmt.Errorf("nested deeper than %d levels", maxDepth)
	errTooMany    = fmt.Errorf("made of more than %d values, more than a request can have", maxValues)
	errLongNumber = fmt.Errorf("made with a number of more than %d bytes", maxNumber)
)

// parse reads one JSON value with nothing behind it. Flaws that don't stop it from being read are
// noted in the nodes. Its errors quote nothing of src.
func parse(src []byte) (*node, error) { return read(src, 0, 1, false) }

// parseTop is parse for the top level: objects and arrays below it are checked, and become nodes
// without content.
func parseTop(src []byte) (*node, error) { return read(src, 0, 1, true) }

// parseWithin is parse for a value that parseTop passed over at the given depth. Places are those in the whole text.
func parseWithin(n *node, depth int) (*node, error) { return read(n.raw, n.start, depth, false) }

func read(src []byte, at, depth int, shallow bool) (*node, error) {
	if len(bytes.TrimLeft(src, " \t\r\n")) == 0 {
		return nil, errors.New("empty; want a JSON object")
	}
	if !utf8.Valid(src) {
		return nil, errors.New("not valid UTF-8; want JSON in UTF-8")
	}
	// Equal names and halves of surrogate pairs are noted by the reader: what is wrong with one part of a
	// message must not keep it from being told under its name, with all else that is wrong.
	r := reader{src: src, at: at, shallow: shallow,
		dec: jsontext.NewDecoder(bytes.NewBuffer(src), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))}
	n, err := r.value(depth)
	if err != nil {
		return nil, r.explain(err)
	}
	end := int(r.dec.InputOffset())
	if rest := bytes.TrimLeft(src[end:], " \t\r\n"); len(rest) > 0 {
		return nil, syntaxError(len(src)-len(rest), src)
	}
	return n, nil
}

// syntaxError tells the byte that can't stand where it does, counted from one.
func syntaxError(offset int, src []byte) error {
	return fmt.Errorf("not JSON: syntax error at byte %d of %d", min(offset+1, len(src)), len(src))
}

// reader makes nodes of what a jsontext.Decoder reads.
type reader struct {
	src     []byte
	at      int // where src begins in the whole text
	dec     *jsontext.Decoder
	shallow bool
	values  int // seen so far
}

// explain says what is wrong with the syntax as it is found by reading all at once, at whatever depth it is.
func (r *reader) explain(err error) error {
	if _, ok := errors.AsType[*jsontext.SyntacticError](err); !ok {
		return err
	}
	r.dec.Reset(bytes.NewBuffer(r.src), r.dec.Options())
	_, again := r.dec.ReadValue()
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](again); ok {
		return syntaxError(int(syntax.ByteOffset), r.src)
	}
	return errors.New("not JSON")
}

func (r *reader) value(depth int) (*node, error) {
	if r.values++; r.values > maxValues {
		return nil, errTooMany
	}
	if depth > maxDepth {
		return nil, errTooDeep
	}
	kind := r.dec.PeekKind()
	if (kind != kindObject && kind != kindArray) || r.shallow && depth > 1 {
		return r.whole()
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return nil, err
	}
	n := &node{kind: kind, start: int(r.dec.InputOffset()) - 1}
	for next := r.dec.PeekKind(); next != jsontext.KindEndObject && next != jsontext.KindEndArray; next = r.dec.PeekKind() {
		if err := r.child(n, depth); err != nil {
			return nil, err
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return nil, err
	}
	return r.placed(n), nil
}

// child reads the next item of an array, or the next name and value of an object.
func (r *reader) child(n *node, depth int) error {
	if n.kind == kindArray {
		item, err := r.value(depth + 1)
		n.items = append(n.items, item)
		return err
	}
	name, err := r.whole()
	if err != nil {
		return err
	}
	value, err := r.value(depth + 1)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(n.members, func(m member) bool { return m.name == name.text }) { // of at most maxValues
		value.flaw = flawTwice
	} else if name.flaw != "" {
		value.flaw = flawName
	}
	n.members = append(n.members, member{name.text, name.start, name.end, value})
	return nil
}

// whole reads the next value as it is, and decodes it if it is a scalar.
func (r *reader) whole() (*node, error) {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return nil, err
	}
	n := r.placed(&node{kind: raw.Kind(), start: int(r.dec.InputOffset()) - len(raw)})
	switch {
	case n.kind == kindString:
		text, err := jsontext.AppendUnquote(nil, n.raw)
		if n.text = string(text); err != nil {
			n.flaw = flawString
		}
	case n.kind != kindNumber:
	case len(raw) > maxNumber && !r.shallow:
		return nil, errLongNumber
	case len(raw) > maxNumber:
		n.flaw = flawNumber // nobody reads it here
	default:
		if _, err := strconv.ParseFloat(string(raw), 64); err != nil {
			n.flaw = flawNumber
		}
	}
	return n, nil
}

// placed gives a node that was read to its end its place.
func (r *reader) placed(n *node) *node {
	n.end = int(r.dec.InputOffset())
	n.raw = r.src[n.start:n.end]
	n.start, n.end = n.start+r.at, n.end+r.at
	return n
}

// member returns the last value of that name, or nil.
func (n *node) member(name string) *node {
	var found *node
	if n != nil {
		for _, m := range n.members {
			if m.name == name {
				found = m.value
			}
		}
	}
	return found
}

// string returns the text of the member of that name, empty if there is none.
func (n *node) string(name string) string {
	if m := n.member(name); m != nil {
		return m.text
	}
	return ""
}

// absent reports whether n is a null that stands for nothing.
func (n *node) absent() bool { return n != nil && n.kind == kindNull && n.flaw == "" }

// dropNulls takes out null where it stands for an optional field.
func (n *node) dropNulls(s *jsonschema.Schema) {
	n.members = slices.DeleteFunc(n.members, func(m member) bool {
		return m.value.absent() && s.Properties[m.name] != nil && !slices.Contains(s.Required, m.name)
	})
	for _, m := range n.members {
		if below := s.Properties[m.name]; below != nil {
			m.value.dropNulls(below)
		}
	}
}

// canonical returns n by RFC 8785, without what dropNulls took out. It reports false where there is no
// such form: jsontext would write the nearest double for a number out of range, and make one request of
// two.
func (n *node) canonical() (out []byte, ok bool) {
	if n.flawed() {
		return nil, false
	}
	v := jsontext.Value(n.appendTo(make([]byte, 0, len(n.raw))))
	err := v.Canonicalize()
	return v, err == nil
}

func (n *node) flawed() bool {
	return n.flaw != "" || slices.ContainsFunc(n.items, (*node).flawed) ||
		slices.ContainsFunc(n.members, func(m member) bool { return m.value.flawed() })
}

// appendTo appends n as JSON, objects made up from their members.
func (n *node) appendTo(b []byte) []byte {
	if n.kind != kindObject || n.members == nil {
		return append(b, n.raw...)
	}
	b = append(b, '{')
	for i, m := range n.members {
		if i > 0 {
			b = append(b, ',')
		}
		b, _ = jsontext.AppendQuote(b, m.name) // valid UTF-8 by now
		b = m.value.appendTo(append(b, ':'))
	}
	return append(b, '}')
}

// plain returns the value as jsonschema wants it. Numbers are all 0: the request's schema has none,
// and a validator might spend minutes on 1e999999999.
func (n *node) plain() any {
	switch n.kind {
	case kindObject:
		m := make(map[string]any, len(n.members))
		for _, each := range n.members {
			m[each.name] = each.value.plain()
		}
		return m
	case kindArray:
		items := make([]any, len(n.items))
		for i, each := range n.items {
			items[i] = each.plain()
		}
		return items
	case kindString:
		return n.text
	case kindNull:
		return nil
	case kindTrue, kindFalse:
		return n.kind == kindTrue
	}
	return float64(0)
}
