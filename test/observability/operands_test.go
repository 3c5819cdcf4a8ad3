package observability

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// An alert that is silent has no answer, as it should. So it is taken apart: operands returns the parts
// that the set operators outside of parentheses join, each with its comparison turned into one that
// answers 0 or 1, so that only a series that does not exist leaves it without an answer. What absent()
// looks for, with the comparison inside of it, has to be there.
func operands(expr string) (parts []string) {
	for _, part := range split(expr, setOperator) {
		if m := absent.FindStringSubmatch(part); m != nil {
			part = m[1]
		}
		sides := split(part, comparison)
		if len(sides) == 2 {
			op := comparison.FindString(part[len(sides[0]):])
			part = sides[0] + op + "bool " + sides[1]
		}
		parts = append(parts, strings.TrimSpace(part))
	}
	return parts
}

var (
	setOperator = regexp.MustCompile(`^\s(?:and|or|unless)\s+`)
	comparison  = regexp.MustCompile(`^\s+(?:==|!=|<=|>=|<|>)\s+`)
	absent      = regexp.MustCompile(`^\s*absent\((.*)\)\s*$`)
)

// split cuts expr where op begins outside of parentheses, braces, brackets and strings.
func split(expr string, op *regexp.Regexp) (parts []string) {
	depth, quoted, begin := 0, false, 0
	for i := 0; i < len(expr); i++ {
		switch c := expr[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
		case strings.IndexByte("([{", c) >= 0:
			depth++
		case strings.IndexByte(")]}", c) >= 0:
			depth--
		case depth == 0:
			if found := op.FindString(expr[i:]); found != "" {
				parts = append(parts, expr[begin:i])
				i += len(found) - 1
				begin = i + 1
			}
		}
	}
	return append(parts, expr[begin:])
}

func TestOperands(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string][]string{
		`a > 5`: {`a > bool 5`},
		"max(a) > 0\nand sum(b{x=\"and or\"}) == 0\n  unless max(c) == 1\n": {`max(a) > bool 0`, `sum(b{x="and or"}) == bool 0`, `max(c) == bool 1`},
		`max(a and on (job) b == 1) > 0 or (c unless d)`:                    {`max(a and on (job) b == 1) > bool 0`, `(c unless d)`},
		`absent(up{job="w"} == 1)`:                                          {`up{job="w"} == bool 1`},
		`rate(orders[5m]) * 3`:                                              {`rate(orders[5m]) * 3`},
		`a{l=">"} <= 0.5 * b`:                                               {`a{l=">"} <= bool 0.5 * b`},
	} {
		if got := operands(expr); !slices.Equal(got, want) {
			t.Errorf("operands of %q:\n%q, want\n%q", expr, got, want)
		}
	}
}
