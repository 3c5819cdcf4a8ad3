package main

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// plain returns text that others wrote as a terminal may show it: what is not printable (control
// characters, what turns the direction of the text, what has no width) is written as in Go's quoted
// strings, so that nothing can pass for something else. Printable text stays as it is.
func plain(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1, !strconv.IsPrint(r):
			quoted := strconv.Quote(text[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteRune(r)
		}
		text = text[size:]
	}
	return b.String()
}

// columnMax is how many characters of a value a list shows on a terminal.
const columnMax = 40

// fit returns rows with all columns but the last one shortened to columnMax characters.
func fit(rows [][]string) [][]string {
	out := make([][]string, len(rows))
	for i, row := range rows {
		for j, cell := range row {
			if runes := []rune(plain(cell)); j < len(row)-1 && len(runes) > columnMax {
				cell = string(runes[:columnMax-1]) + "…"
			}
			out[i] = append(out[i], cell)
		}
	}
	return out
}
