package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

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
