package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/gowebpki/jcs"
)

// Bounds of a message, far above what a request needs and low enough that none costs much to read.
const (
	maxDepth  = 64  // levels; a request has 5
	maxValues = 512 // values, of whatever kind; a request has 17, and every further attribute is one
	maxNumber = 64  // bytes of one number; a request has none
)

// The kinds of a node: the first byte of what it is written as.
const (
	kindObject = '{'
	kindArray  = '['
	kindString = '"'
	kindNull   = 'n'
	kindTrue   = 't'
	kindFalse  = 'f'
	kindNumber = '0'
)

// node is one JSON value, with its place in the text it was read from. encoding/json alone would
// lose that place and all but the last of several equal keys.
type node struct {
	kind       byte
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

// parse reads one JSON value with nothing behind it. Flaws that don't stop it from being read are
// noted in the nodes. Its errors quote nothing of src.
func parse(src []byte) (*node, error) {
	if !utf8.Valid(src) {
		return nil, errors.New("not valid UTF-8")
	}
	if !json.Valid(src) {
		var ignored json.RawMessage
		return nil, syntaxError(json.Unmarshal(src, &ignored), src)
	}
	s := scanner{src: src}
	return s.value(1)
}

func syntaxError(err error, src []byte) error {
	if len(bytes.TrimSpace(src)) == 0 {
		return errors.New("empty; want a JSON object")
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("not JSON: syntax error at byte %d of %d", syntax.Offset, len(src))
	}
	return errors.New("not JSON")
}

// scanner walks over text that is known to be valid JSON.
type scanner struct {
	src     []byte
	pos     int
	values  int  // seen so far
	shallow bool // objects and arrays below the top level are skipped
}

var (
	errTooDeep    = fmt.Errorf("nested deeper than %d levels", maxDepth)
	errTooMany    = fmt.Errorf("made of more than %d values, more than a request can have", maxValues)
	errLongNumber = fmt.Errorf("made with a number of more than %d bytes", maxNumber)
)

// next returns the next byte that is neither blank nor a separator, without consuming it.
func (s *scanner) next() byte {
	for bytes.IndexByte([]byte(" \t\r\n,:"), s.src[s.pos]) >= 0 {
		s.pos++
	}
	return s.src[s.pos]
}

func (s *scanner) value(depth int) (*node, error) {
	if s.values++; s.values > maxValues {
		return nil, errTooMany
	}
	if depth > maxDepth {
		return nil, errTooDeep
	}
	n := &node{kind: s.next(), start: s.pos}
	err := s.content(n, depth)
	n.end = s.pos
	n.raw = s.src[n.start:n.end]
	if err == nil {
		n.settle()
	}
	return n, err
}

func (s *scanner) content(n *node, depth int) error {
	switch {
	case n.kind == kindString:
		s.skipString()
	case n.kind != kindObject && n.kind != kindArray:
		return s.skipLiteral()
	case s.shallow && depth > 1:
		s.skipNested()
	case n.kind == kindObject:
		return s.object(n, depth)
	default:
		return s.array(n, depth)
	}
	return nil
}

func (s *scanner) object(n *node, depth int) error {
	s.pos++
	var seen names
	for s.next() != '}' {
		name := &node{kind: kindString, start: s.pos}
		s.skipString()
		name.end = s.pos
		name.raw = s.src[name.start:name.end]
		name.settle()
		value, err := s.value(depth + 1)
		if err != nil {
			return err
		}
		if seen.add(n.members, name.text) {
			value.flaw = flawTwice
		} else if name.flaw != "" {
			value.flaw = "its name holds half a surrogate pair"
		}
		n.members = append(n.members, member{name.text, name.start, name.end, value})
	}
	s.pos++
	return nil
}

const flawTwice = "given more than once"

// names are those of one object. Few are searched for among its members; a set is made of many.
type names map[string]bool

const fewNames = 16

// add reports whether the name is one of members already.
func (s *names) add(members []member, name string) (twice bool) {
	if len(members) < fewNames {
		return slices.ContainsFunc(members, func(m member) bool { return m.name == name })
	}
	if *s == nil {
		*s = make(names, 4*fewNames)
		for _, m := range members {
			(*s)[m.name] = true
		}
	}
	twice = (*s)[name]
	(*s)[name] = true
	return twice
}

func (s *scanner) array(n *node, depth int) error {
	s.pos++
	for s.next() != ']' {
		item, err := s.value(depth + 1)
		if err != nil {
			return err
		}
		n.items = append(n.items, item)
	}
	s.pos++
	return nil
}

func (s *scanner) skipString() {
	for s.pos++; s.src[s.pos] != '"'; s.pos++ {
		if s.src[s.pos] == '\\' {
			s.pos++
		}
	}
	s.pos++
}

func (s *scanner) skipLiteral() error {
	start := s.pos
	for s.pos < len(s.src) && bytes.IndexByte([]byte(" \t\r\n,]}"), s.src[s.pos]) < 0 {
		s.pos++
	}
	if s.pos-start > maxNumber {
		return errLongNumber
	}
	return nil
}

// settle decodes a scalar and notes what RFC 8785 has no canonical form for.
func (n *node) settle() {
	switch n.kind {
	case kindString:
		if bytes.IndexByte(n.raw, '\\') < 0 {
			n.text = string(n.raw[1 : len(n.raw)-1])
			return
		}
		_ = json.Unmarshal(n.raw, &n.text) // valid by now, and a string
		if bytes.Contains(n.raw, []byte(`\u`)) && !canonical(n.raw) {
			n.flaw = "holds half a surrogate pair"
		}
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		n.kind = kindNumber
		if !canonical(n.raw) {
			n.flaw = "a number outside the range of IEEE 754 doubles"
		}
	}
}

func canonical(raw []byte) bool {
	_, err := jcs.Transform(raw)
	return err == nil
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
