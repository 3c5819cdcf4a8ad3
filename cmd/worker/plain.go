package main

import "github.com/flow-worker/flow-worker/internal/story"

// plain returns text that others wrote as a terminal may show it, on one line.
func plain(text string) string { return story.Printable(text) }

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
