package event

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
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
	raw        string // the text between them
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
func parse(src []byte) (*node, error) { return checked(src, false) }

// parseTop is parse for the top level: objects and arrays below it become nodes without content.
func parseTop(src []byte) (*node, error) { return checked(src, true) }

func checked(src []byte, shallow bool) (*node, error) {
	if err := checkSyntax(src); err != nil {
		return nil, err
	}
	return read(string(src), 0, 1, shallow)
}

// parseWithin is parse for a value that parseTop passed over at the given depth. Places are those in the whole text.
func parseWithin(n *node, depth int) (*node, error) { return read(n.raw, n.start, depth, false) }

// anySyntax lets equal names and halves of surrogate pairs pass: they become flaws of a node, for what is wrong with
// one part of a message must not keep it from being reported under its name, with all else that is wrong.
var anySyntax = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

func checkSyntax(src []byte) error {
	switch {
	case !utf8.Valid(src):
		return errors.New("not valid UTF-8; want JSON in UTF-8")
	case jsontext.Value(src).IsValid(anySyntax...):
		return nil
	case len(bytes.TrimLeft(src, " \t\r\n")) == 0:
		return errors.New("empty; want a JSON object")
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(src), anySyntax...)
	_, err := dec.ReadValue()
	offset := int(dec.InputOffset())
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		offset = int(syntax.ByteOffset)
	} else { // there is more behind the value
		offset = len(src) - len(bytes.TrimLeft(src[offset:], " \t\r\n"))
	}
	return fmt.Errorf("not JSON: syntax error at byte %d of %d", min(offset+1, len(src)), len(src)) // from one
}

// reader makes nodes of a text that is known to be JSON.
type reader struct {
	src     string
	at      int // where src begins in the whole text
	pos     int // in src
	shallow bool
	values  int    // seen so far
	nodes   []node // to be used next
}

func read(src string, at, depth int, shallow bool) (*node, error) {
	r := reader{src: src, at: at, shallow: shallow}
	r.blanks()
	return r.value(depth)
}

func (r *reader) blanks() {
	for r.pos < len(r.src) && r.src[r.pos] <= ' ' {
		r.pos++
	}
}

// more reports whether another member or item begins here, and moves to it, or else behind the end of its parent.
func (r *reader) more() bool {
	r.blanks()
	if r.src[r.pos] == ',' {
		r.pos++
		r.blanks()
	}
	if c := r.src[r.pos]; c == '}' || c == ']' {
		r.pos++
		return false
	}
	return true
}

// value reads the value that begins here.
func (r *reader) value(depth int) (*node, error) {
	if r.values++; r.values > maxValues {
		return nil, errTooMany
	}
	if depth > maxDepth {
		return nil, errTooDeep
	}
	if len(r.nodes) == 0 {
		r.nodes = make([]node, 12)
	}
	n := &r.nodes[0]
	r.nodes = r.nodes[1:]
	start, err := r.pos, error(nil)
	switch n.kind = jsontext.Kind(r.src[start]); n.kind {
	case kindString:
		n.text, n.flaw = r.string()
	case kindTrue, kindFalse, kindNull:
		r.pos += len("true")
		if n.kind == kindFalse {
			r.pos++
		}
	case kindObject, kindArray:
		if r.shallow && depth > 1 {
			r.skip()
			break
		}
		for r.pos++; err == nil && r.more(); {
			err = r.child(n, depth)
		}
	default:
		n.kind = kindNumber
		n.flaw, err = r.number()
	}
	if err != nil {
		return nil, err
	}
	n.raw = r.src[start:r.pos]
	n.start, n.end = start+r.at, r.pos+r.at
	return n, nil
}

// child reads the next item of an array, or the next name and value of an object.
func (r *reader) child(n *node, depth int) error {
	if n.kind == kindArray {
		item, err := r.value(depth + 1)
		n.items = append(n.items, item)
		return err
	}
	m := member{start: r.pos + r.at}
	name, flaw := r.string()
	m.name, m.end = name, r.pos+r.at
	r.blanks()
	r.pos++ // the colon
	r.blanks()
	value, err := r.value(depth + 1)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(n.members, func(m member) bool { return m.name == name }) { // of at most maxValues
		value.flaw = flawTwice
	} else if flaw != "" {
		value.flaw = flawName
	}
	if m.value = value; n.members == nil {
		n.members = make([]member, 0, 8)
	}
	n.members = append(n.members, m)
	return nil
}

// quoted passes over the string that begins here.
func (r *reader) quoted() (escaped bool) {
	for r.pos++; r.src[r.pos] != '"'; r.pos++ {
		if r.src[r.pos] == '\\' {
			escaped = true
			r.pos++
		}
	}
	r.pos++
	return escaped
}

// string reads the string that begins here.
func (r *reader) string() (text, flaw string) {
	start := r.pos
	if !r.quoted() {
		return r.src[start+1 : r.pos-1], ""
	}
	out, err := jsontext.AppendUnquote(nil, r.src[start:r.pos])
	if err != nil {
		flaw = flawString
	}
	return string(out), flaw
}

// number reads the number that begins here. Nobody reads a long one where the reader is shallow.
func (r *reader) number() (flaw string, err error) {
	start := r.pos
	for r.pos < len(r.src) && strings.IndexByte("+-.0123456789eE", r.src[r.pos]) >= 0 {
		r.pos++
	}
	if r.pos-start > maxNumber {
		if r.shallow {
			return flawNumber, nil
		}
		return "", errLongNumber
	}
	if _, err := strconv.ParseFloat(r.src[start:r.pos], 64); err != nil {
		flaw = flawNumber
	}
	return flaw, nil
}

// skip passes over the object or array that begins here.
func (r *reader) skip() {
	for depth := 0; ; r.pos++ {
		switch r.src[r.pos] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				r.pos++
				return
			}
		case '"':
			r.quoted()
			r.pos--
		}
	}
}

// member returns the last value of that name, or nil.
func (n *node) member(name string) *node {
	if n != nil {
		for i := len(n.members) - 1; i >= 0; i-- {
			if n.members[i].name == name {
				return n.members[i].value
			}
		}
	}
	return nil
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

// canonical returns n by RFC 8785, without what dropNulls took out, and sorts its members so. It reports false where
// there is no such form: the nearest double for a number out of range would make one request of two.
func (n *node) canonical() (out []byte, ok bool) {
	if n.flawed() {
		return nil, false
	}
	return n.appendCanonical(make([]byte, 0, len(n.raw))), true
}

func (n *node) flawed() bool {
	return n.flaw != "" || slices.ContainsFunc(n.items, (*node).flawed) ||
		slices.ContainsFunc(n.members, func(m member) bool { return m.value.flawed() })
}

func (n *node) appendCanonical(b []byte) []byte {
	switch n.kind {
	case kindObject:
		slices.SortFunc(n.members, func(a, b member) int { return compareUTF16(a.name, b.name) })
		b = append(b, '{')
		for i, m := range n.members {
			if i > 0 {
				b = append(b, ',')
			}
			b, _ = jsontext.AppendQuote(b, m.name) // it is valid UTF-8, or had a flaw
			b = m.value.appendCanonical(append(b, ':'))
		}
		return append(b, '}')
	case kindArray:
		b = append(b, '[')
		for i, item := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.appendCanonical(b)
		}
		return append(b, ']')
	case kindString:
		b, _ = jsontext.AppendQuote(b, n.text) // likewise
		return b
	case kindNumber:
		v := jsontext.Value(n.raw)
		_ = v.Canonicalize() // it is a number
		return append(b, v...)
	}
	return append(b, n.raw...)
}

// compareUTF16 compares two strings by their UTF-16 code units, as RFC 8785 sorts names: what is beyond U+FFFF, and
// begins with a byte from F0 on, is there made of surrogates, which come before U+E000 (EE 80 80).
func compareUTF16(a, b string) int {
	for i := range min(len(a), len(b)) {
		if x, y := a[i], b[i]; x != y {
			if x >= 0xee && y >= 0xee && (x >= 0xf0) != (y >= 0xf0) {
				x, y = y, x
			}
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(a), len(b))
}

// byteOrderMark is what some editors and libraries put before UTF-8.
var byteOrderMark = []byte("\xef\xbb\xbf")

// encodings are the ways in which JSON is written that is no UTF-8, by how a text begins: with a mark, or with
// zero bytes around its first character, which is ASCII in JSON. "." stands for any byte but zero.
var encodings = []struct{ begin, name, iconv string }{
	{"\xff\xfe\x00\x00", "UTF-32 (little-endian)", "UTF-32"},
	{"\x00\x00\xfe\xff", "UTF-32 (big-endian)", "UTF-32"},
	{"\xff\xfe", "UTF-16 (little-endian)", "UTF-16"},
	{"\xfe\xff", "UTF-16 (big-endian)", "UTF-16"},
	{".\x00\x00\x00", "UTF-32 (little-endian)", "UTF-32LE"},
	{"\x00\x00\x00.", "UTF-32 (big-endian)", "UTF-32BE"},
	{".\x00", "UTF-16 (little-endian)", "UTF-16LE"},
	{"\x00.", "UTF-16 (big-endian)", "UTF-16BE"},
}

// PlainText returns the text without the byte order mark that it may begin with. It fails on
// UTF-16 and UTF-32, with or without a mark, and on nothing else: whether the rest is UTF-8 is for others to say.
func PlainText(text []byte) ([]byte, error) {
	for _, e := range encodings {
		if begins(text, e.begin) {
			return nil, fmt.Errorf("in %s; want UTF-8, as JSON must be. Save it as UTF-8 or convert it: iconv -f %s -t UTF-8 (PowerShell writes UTF-8 with Set-Content -Encoding utf8)", e.name, e.iconv)
		}
	}
	return bytes.TrimPrefix(text, byteOrderMark), nil
}

func begins(text []byte, pattern string) bool {
	if len(text) < len(pattern) {
		return false
	}
	for i := range len(pattern) {
		if pattern[i] == '.' && text[i] == 0 || pattern[i] != '.' && text[i] != pattern[i] {
			return false
		}
	}
	return true
}
