package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"

	"github.com/flow-worker/flow-worker/internal/story"
)

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

// confirm asks on stderr and reads one line. Whatever is not a yes is a no.
func (c *cli) confirm(ctx context.Context, question string) (bool, error) {
	fmt.Fprint(c.stderr, question)
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1)
	go func() { // reading can't be called off
		text, err := bufio.NewReader(c.stdin).ReadString('\n')
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		if a.err != nil && !errors.Is(a.err, io.EOF) {
			return false, a.err
		}
		text := strings.ToLower(strings.TrimSpace(a.text))
		return text == "y" || text == "yes", nil
	case <-ctx.Done():
		fmt.Fprintln(c.stderr)
		return false, nil
	}
}

// colours reports whether stdout takes colours: a terminal, unless NO_COLOR is set.
func (c *cli) colours() bool {
	for _, kv := range c.environ {
		if name, value, _ := strings.Cut(kv, "="); name == "NO_COLOR" && value != "" || kv == "TERM=dumb" {
			return false
		}
	}
	return isTerminal(c.stdout)
}

// isTerminal reports whether a standard stream is one.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// printJSON writes v on one line.
func (c *cli) printJSON(v any) error {
	enc := json.NewEncoder(c.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printTable writes rows aligned in columns.
func (c *cli) printTable(rows ...[]string) error { return printRows(c.stdout, rows) }

// printList is printTable, but on a terminal long values are shortened.
func (c *cli) printList(rows ...[]string) error {
	if isTerminal(c.stdout) {
		rows = fit(rows)
	}
	return c.printTable(rows...)
}

func printRows(to io.Writer, rows [][]string) error {
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = plain(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // a buffer takes all
	for line := range strings.Lines(table.String()) {
		if _, err := io.WriteString(to, strings.TrimRight(line, " \n")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// ambiguous lists the requests that an id may mean, below a header, and returns the wrong use.
func (c *cli) ambiguous(rows [][]string) error {
	n := len(rows) - 1
	if err := printRows(c.stderr, rows); err != nil {
		return err
	}
	return usagef("%d requests have this id; say which by --tenant and --source", n)
}
