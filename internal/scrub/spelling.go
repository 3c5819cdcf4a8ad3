package scrub

import (
	"html"
	"strconv"
	"strings"
)

// unit is one reading of a place in a text: n bytes that stand for the byte b, folded, or for nothing.
type unit struct {
	b    byte
	n    int
	skip bool // stands for nothing: a blank, a NUL, or a break of a long line
	sep  bool // stands for nothing in a list of numbers
}

// encoders begin a spelling of a byte by others. A text without any holds of a secret only what it
// shows.
const encoders = "\\%&+=\x00"

// separators stand between the numbers of a list.
const separators = `,;:|-./"'`

// How often an encoding is undone that was applied again and again.
const (
	maxDepth       = 4
	maxBackslashes = 15 // three times
)

// read returns all readings of every place in t.
func read(t string) [][]unit {
	all := make([][]unit, len(t))
	store := make([]unit, 0, 2*len(t)) // most places have one reading
	for i := range len(t) {
		from := len(store)
		store = readAt(store, t, i)
		all[i] = store[from:len(store):len(store)]
	}
	return all
}

// readAt appends the readings of t at i. What t shows comes first.
func readAt(units []unit, t string, i int) []unit {
	rest := t[i:]
	units = append(units, unit{b: folded[t[i]], n: 1})
	switch {
	case t[i] == '%':
		return percent(units, rest)
	case t[i] == '=':
		return quotedPrintable(units, rest)
	case t[i] == '&':
		return entity(units, rest)
	case t[i] == '\\':
		return backslash(units, rest)
	case t[i] == '+':
		return append(units, unit{b: ' ', n: 1})
	case strings.IndexByte(separators, t[i]) >= 0:
		return append(units, unit{n: 1, sep: true})
	case prefixes(t[i]) && len(rest) >= 2:
		return prefix(units, rest)
	case blank(rune(t[i])) || t[i] == 0:
		return append(units, unit{n: 1, skip: true})
	}
	return units
}

// prefixes reports whether c begins what says how a number is written.
func prefixes(c byte) bool { return c == '0' || c == 'U' || c == 'u' }

// prefix reads 0x, 0o and U+, with zeros after them.
func prefix(units []unit, t string) []unit {
	if c := folded[t[1]]; t[0] == '0' && c != 'x' && c != 'o' || t[0] != '0' && t[1] != '+' {
		return units
	}
	for n := 2; n < len(t); n++ {
		if units = append(units, unit{n: n, sep: true}); t[n] != '0' || n == maxZeros {
			break
		}
	}
	return units
}

const maxZeros = 8

// percent reads %XX and %uXXXX, whose % may be encoded as %25 again and again.
func percent(units []unit, t string) []unit {
	for depth, n := 0, 1; depth < maxDepth && len(t) >= n+2; depth, n = depth+1, n+2 {
		if len(t) >= n+5 && folded[t[n]] == 'u' && t[n+1:n+3] == "00" {
			units = hexUnit(units, t[n+3:n+5], n+5)
			break
		}
		units = hexUnit(units, t[n:n+2], n+2)
		if t[n:n+2] != "25" {
			break
		}
	}
	return units
}

// quotedPrintable reads =XX, and a = at the end of a line.
func quotedPrintable(units []unit, t string) []unit {
	if len(t) >= 3 {
		units = hexUnit(units, t[1:3], 3)
	}
	if len(t) >= 2 && (t[1] == '\r' || t[1] == '\n') {
		units = append(units, unit{n: 2, skip: true})
	}
	return units
}

// maxEntity is how long the name of a character is that may be in a secret, with & and ;.
const maxEntity = 12

// entity reads &name;, &#N; and &#xN;.
func entity(units []unit, t string) []unit {
	end := strings.IndexByte(t[:min(len(t), maxEntity)], ';')
	if end < 0 {
		return units
	}
	if c := html.UnescapeString(t[:end+1]); len(c) == 1 {
		units = append(units, unit{b: folded[c[0]], n: end + 1})
	}
	return units
}

// longestEscape is what follows the backslashes: u{000064}.
const longestEscape = 9

// backslash reads what follows one or more backslashes: \uXXXX, \u{X}, \xXX, \OOO, a line break, or a
// character that needs none.
func backslash(units []unit, t string) []unit {
	t = t[:min(len(t), maxBackslashes+longestEscape)]
	rest := strings.TrimLeft(t, `\`)
	n := len(t) - len(rest)
	if rest == "" {
		return units
	}
	switch { // before the character itself, or \x78 would be read as an x with 78 after it
	case len(rest) >= 5 && folded[rest[0]] == 'u' && rest[1:3] == "00":
		units = hexUnit(units, rest[3:5], n+5)
	case len(rest) >= 4 && folded[rest[0]] == 'u' && rest[1] == '{':
		units = braces(units, rest, n)
	case rest[0] >= '0' && rest[0] <= '7':
		units = octal(units, rest, n)
	case len(rest) >= 3 && folded[rest[0]] == 'x':
		units = hexUnit(units, rest[1:3], n+3)
	case rest[0] == 'n' || rest[0] == 'r' || rest[0] == 't':
		units = append(units, unit{n: n + 1, skip: true})
	}
	return append(units, unit{b: folded[rest[0]], n: n + 1})
}

// braces reads u{X}, after n backslashes.
func braces(units []unit, rest string, n int) []unit {
	digits, _, ok := strings.Cut(rest[len("u{"):], "}")
	if digits = strings.TrimLeft(digits, "0"); !ok || digits == "" {
		return units
	}
	return hexUnit(units, digits, n+strings.IndexByte(rest, '}')+1)
}

// octal reads one to three digits, and four that begin with 0, after n backslashes.
func octal(units []unit, rest string, n int) []unit {
	for end := 1; end <= min(4, len(rest)) && (end < 4 || rest[0] == '0'); end++ {
		c, err := strconv.ParseUint(rest[:end], 8, 8)
		if err != nil {
			break
		}
		units = byteUnit(units, byte(c), n+end)
	}
	return units
}

func hexUnit(units []unit, digits string, n int) []unit {
	c, err := strconv.ParseUint(digits, 16, 8)
	if err != nil {
		return units
	}
	return byteUnit(units, byte(c), n)
}

// byteUnit adds a reading as one byte. A NUL may also be half of a character, in UTF-16.
func byteUnit(units []unit, c byte, n int) []unit {
	if c == 0 {
		units = append(units, unit{n: n, skip: true})
	}
	return append(units, unit{b: folded[c], n: n})
}
