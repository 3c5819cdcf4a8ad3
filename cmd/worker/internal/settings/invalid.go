package settings

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with one variable.
type Problem struct {
	Name string `json:"name"`
	Text string `json:"problem"` // what is wrong and what would be right, never a secret

	Missing bool `json:"missing,omitempty"` // there is no value, as opposed to a wrong one
}

// Invalid is the error of Load.
type Invalid struct {
	Problems []Problem
}

// Error lists all problems, one a line.
func (e *Invalid) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d wrong setting", len(e.Problems))
	if len(e.Problems) > 1 {
		b.WriteByte('s')
	}
	b.WriteByte(':')
	for _, p := range e.Problems {
		fmt.Fprintf(&b, "\n  %s: %s", p.Name, p.Text)
	}
	return b.String()
}

// has reports whether a problem with the named variable is known already, so that checks across
// variables don't build on a value that could not be read.
func (e *Invalid) has(names ...string) bool {
	for _, p := range e.Problems {
		for _, n := range names {
			if p.Name == n {
				return true
			}
		}
	}
	return false
}

func (e *Invalid) add(name, text string) {
	e.Problems = append(e.Problems, Problem{Name: name, Text: text})
}

func (e *Invalid) missing(name, text string) {
	e.Problems = append(e.Problems, Problem{Name: name, Text: text, Missing: true})
}

// OnlyMissing reports whether every problem is a value that is yet to be set.
func (e *Invalid) OnlyMissing() bool {
	return !slices.ContainsFunc(e.Problems, func(p Problem) bool { return !p.Missing })
}
