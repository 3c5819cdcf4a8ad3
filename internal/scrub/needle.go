package scrub

import (
	"encoding/base32"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
)

// needle is one form of a secret, folded.
type needle struct {
	text  string
	part  int  // bytes of text that are a find
	alone bool // a find must not have a letter or digit beside it
	loose bool // it has blanks, so they can't be ignored
	coded bool // base64 or base32: a find is but a part of what was encoded
	list  bool // one number for each byte: what separates numbers is ignored
}

// minDigits is how many digits of base64 must show a secret alone. It lets "secret" in base64 be
// recognized, but not what is shorter.
const minDigits = 8

// needlesOf returns the forms of a secret. Bytes of each may be spelled in many ways: see read.
func needlesOf(secret string) []needle {
	all := []needle{newNeedle(secret, Part)}
	all[0].alone = len(secret) < Safe
	for _, form := range []struct{ base, width, part int }{{16, 2, 2 * Safe}, {10, 1, 3 * Safe}, {8, 3, 3 * Safe}} {
		n := newNeedle(inNumbers(secret, form.base, form.width), form.part)
		n.list = true
		all = append(all, n)
	}
	if len(secret) >= Safe {
		all = append(all, newNeedle(reversed(secret), Part))
	}
	for _, code := range []code{{base64.RawStdEncoding, 6, 3}, {base32.StdEncoding.WithPadding(base32.NoPadding), 5, 5}} {
		for shift := range code.bytes {
			if form := code.digits(secret, shift); len(form) >= minDigits {
				n := newNeedle(form, Part)
				n.coded = true
				all = append(all, n)
			}
		}
	}
	return all
}

func newNeedle(text string, part int) needle {
	return needle{text: fold(text), part: min(part, len(text)), loose: strings.ContainsFunc(text, blank)}
}

// inNumbers returns the bytes of secret as numbers, as programs print them by mistake, without anything in
// between. Each has zeros before it up to the width.
func inNumbers(secret string, base, width int) string {
	b := make([]byte, 0, 3*len(secret))
	for _, c := range []byte(secret) {
		from := len(b)
		b = strconv.AppendUint(b, uint64(c), base)
		for len(b)-from < width {
			b = slices.Insert(b, from, '0')
		}
	}
	return string(b)
}

func reversed(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

// code is base64 or base32.
type code struct {
	encoding interface{ EncodeToString([]byte) string }
	bits     int // of a digit
	bytes    int // that fill a number of digits
}

// digits returns those digits of secret's form that do not depend on what stands before and after it, where
// shift bytes, or c.bytes more, stand before it.
func (c code) digits(secret string, shift int) string {
	all := c.encoding.EncodeToString([]byte("\x00\x00\x00\x00"[:shift] + secret))
	from, to := (8*shift+c.bits-1)/c.bits, 8*(shift+len(secret))/c.bits
	return all[from:to]
}

// sharedBy reports whether t may hold n or enough of it. Enough of it, wherever it begins, covers one
// of the blocks that t is cut into. A loose needle is never ruled out.
func (n needle) sharedBy(t string) bool {
	if n.loose {
		return true
	}
	block := (n.part + 1) / 2
	for i := 0; len(t) >= n.part && i+block <= len(t); i += block {
		if strings.Contains(n.text, t[i:i+block]) {
			return true
		}
	}
	return false
}

// find returns where n, or enough of it, stands in a text: low is its folded form, units its readings.
func (n needle) find(low string, units [][]unit) (found []span) {
	for i := 0; i < len(low); {
		end := n.longest(low, units, i)
		if end == i || n.alone && !isAlone(low, i, end) {
			i++
			continue
		}
		s := span{i, end}
		if n.coded {
			s = wholeCode(low, s)
		}
		found = append(found, s)
		i = s.to
	}
	return found
}

// longest returns where the longest find ends that begins at i; i if there is none.
func (n needle) longest(low string, units [][]unit, i int) int {
	end := i
	for _, u := range units[i] {
		if u.skip || u.sep {
			continue
		}
		key := n.key(units, i, u)
		for from := strings.Index(n.text, key); from >= 0 && len(n.text)-from >= n.part; {
			if to, ok := n.run(low, units, i, from); ok {
				end = max(end, to)
			}
			next := strings.Index(n.text[from+1:], key)
			if next < 0 {
				break
			}
			from += 1 + next
		}
	}
	return end
}

// key returns the first bytes of every find at i that begins with u: u's own, and a few more if they can be read in
// one way only.
func (n needle) key(units [][]unit, i int, u unit) string {
	var key [Shortest]byte
	key[0] = u.b
	size := 1
	for i += u.n; size < min(n.part, Shortest) && i < len(units) && len(units[i]) == 1; i++ {
		key[size] = units[i][0].b
		size++
	}
	return string(key[:size])
}

// place is a pair of positions, in a text and in a needle.
type place struct{ text, needle int }

// maxSteps bounds the work on one place where a text can be read in very many ways.
const maxSteps = 1 << 13

// run reports whether the text from i on reads as enough of n, from the given byte of n on, and where
// that ends. Where the text can be read in several ways it tries them all, within maxSteps.
func (n needle) run(low string, units [][]unit, i, from int) (end int, ok bool) {
	if n.text[from:] == low[i:min(len(low), i+len(n.text)-from)] {
		return i + len(n.text) - from, true
	}
	most := 0
	open := []place{{i, from}}
	for steps := 0; len(open) > 0 && steps < maxSteps; {
		at := open[len(open)-1]
		open = open[:len(open)-1]
		for more := true; more && steps < maxSteps; steps++ {
			if at.needle-from > most && at.needle-from >= n.part {
				most, end, ok = at.needle-from, at.text, true
			}
			if at.text == len(units) || at.needle == len(n.text) {
				break
			}
			at, open, more = n.advance(units[at.text], at, open, at.needle > from)
		}
	}
	return end, ok
}

// advance goes on by one byte of the needle, or over something that stands for none, and puts the
// other ways to go on among open.
func (n needle) advance(units []unit, at place, open []place, inside bool) (place, []place, bool) {
	next, more := at, false
	for _, u := range units {
		step := place{at.text + u.n, at.needle + 1}
		switch {
		case inside && (u.skip || u.sep && n.list):
			step.needle--
		case u.skip || u.sep || u.b != n.text[at.needle]:
			continue
		}
		if !more {
			next, more = step, true
			continue
		}
		open = append(open, step)
	}
	return next, open, more
}

// wholeCode returns s grown to all of the base64 text around it.
func wholeCode(low string, s span) span {
	for s.from > 0 && digit64(low[s.from-1]) {
		s.from--
	}
	for s.to < len(low) && digit64(low[s.to]) {
		s.to++
	}
	for s.to < len(low) && low[s.to] == '=' {
		s.to++
	}
	return s
}

func digit64(c byte) bool { return wordByte(c) || strings.IndexByte("+/", c) >= 0 }

func isAlone(low string, from, to int) bool {
	return (from == 0 || !wordByte(low[from-1])) && (to == len(low) || !wordByte(low[to]))
}

func wordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
}
