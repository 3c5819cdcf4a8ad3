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
	skip bool // stands for nothing: a blank, or a break of a long line
}

// encoders begin a spelling of a byte by others. A text without any holds of a secret only what it
// shows.
const encoders = `\%&+=`

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
	case blank(rune(t[i])):
		return append(units, unit{n: 1, skip: true})
	}
	return units
}

// percent reads %XX, whose % may be encoded as %25 again and again.
func percent(units []unit, t string) []unit {
	for depth, n := 0, 1; depth < maxDepth && len(t) >= n+2; depth, n = depth+1, n+2 {
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

// backslash reads what follows one or more backslashes: \uXXXX, \xXX, a line break, or a character
// that needs none.
func backslash(units []unit, t string) []unit {
	rest := strings.TrimLeft(t[:min(len(t), maxBackslashes+5)], `\`)
	n := min(len(t), maxBackslashes+5) - len(rest)
	if rest == "" {
		return units
	}
	switch { // before the character itself, or \x78 would be read as an x with 78 after it
	case len(rest) >= 5 && folded[rest[0]] == 'u' && rest[1:3] == "00":
		units = hexUnit(units, rest[3:5], n+5)
	case len(rest) >= 3 && folded[rest[0]] == 'x':
		units = hexUnit(units, rest[1:3], n+3)
	case rest[0] == 'n' || rest[0] == 'r' || rest[0] == 't':
		units = append(units, unit{n: n + 1, skip: true})
	}
	return append(units, unit{b: folded[rest[0]], n: n + 1})
}

func hexUnit(units []unit, digits string, n int) []unit {
	c, err := strconv.ParseUint(digits, 16, 8)
	if err != nil {
		return units
	}
	return append(units, unit{b: folded[byte(c)], n: n})
}
