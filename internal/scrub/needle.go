package scrub

import (
	"encoding/base64"
	"encoding/hex"
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
	coded bool // base64: a find is but a part of what was encoded
}

// minDigits is how many digits of base64 must show a secret alone. It lets "secret" in base64 be
// recognized, but not what is shorter.
const minDigits = 8

// needlesOf returns the forms of a secret. Bytes of each may be spelled in many ways: see read.
func needlesOf(secret string) []needle {
	all := []needle{newNeedle(secret, Part)}
	all[0].alone = len(secret) < Safe
	all = append(all, newNeedle(hex.EncodeToString([]byte(secret)), 2*Safe), newNeedle(inNumbers(secret), 3*Safe))
	if len(secret) >= Safe {
		all = append(all, newNeedle(reversed(secret), Part))
	}
	for shift := range 3 {
		if form := inBase64(secret, shift); len(form) >= minDigits {
			n := newNeedle(form, Part)
			n.coded = true
			all = append(all, n)
		}
	}
	return all
}

func newNeedle(text string, part int) needle {
	return needle{text: fold(text), part: min(part, len(text)), loose: strings.ContainsFunc(text, blank)}
}

// inNumbers returns the bytes of secret as decimal numbers, as programs print them by mistake. The blanks
// in between are ignored in every text.
func inNumbers(secret string) string {
	var b strings.Builder
	for i := range len(secret) {
		b.WriteString(strconv.Itoa(int(secret[i])))
	}
	return b.String()
}

func reversed(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

// inBase64 returns those digits of secret's base64 form that do not depend on what stands before and
// after it, where shift bytes, or three more, stand before it.
func inBase64(secret string, shift int) string {
	const bits = 6
	digits := base64.RawStdEncoding.EncodeToString([]byte("\x00\x00"[:shift] + secret))
	from, to := (8*shift+bits-1)/bits, 8*(shift+len(secret))/bits
	return digits[from:to]
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
		if u.skip {
			continue
		}
		for from := strings.IndexByte(n.text, u.b); from >= 0 && len(n.text)-from >= n.part; {
			if to, ok := n.run(low, units, i, from); ok {
				end = max(end, to)
			}
			next := strings.IndexByte(n.text[from+1:], u.b)
			if next < 0 {
				break
			}
			from += 1 + next
		}
	}
	return end
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
		case u.skip && inside:
			step.needle--
		case u.skip || u.b != n.text[at.needle]:
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
