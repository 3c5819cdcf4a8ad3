package flowtest

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// filter is one property of a list query: path, operator, and values of which one must fit.
type filter struct {
	path   string
	op     string // "==", "<", "<=", ">" or ">="
	values []string
}

// flowFault is an entry of the catalogue and what fills its text.
type flowFault struct {
	code string
	args []any
}

func fault(code string, args ...any) *flowFault { return &flowFault{code, args} }

const operatorBytes = "=<>!~"

// fields are the texts of a connection that filters and orderby know besides params.
var fields = map[string]func(*conn, time.Time) string{
	"id":                     func(c *conn, _ time.Time) string { return c.id },
	"name":                   func(c *conn, _ time.Time) string { return c.name },
	"description":            func(c *conn, _ time.Time) string { return c.description },
	"state":                  (*conn).state,
	"createdBy":              func(c *conn, _ time.Time) string { return account(c.creator) },
	"updatedBy":              func(c *conn, _ time.Time) string { return account(c.updater) },
	"createdClient":          func(c *conn, _ time.Time) string { return c.creator },
	"updatedClient":          func(c *conn, _ time.Time) string { return c.updater },
	"sandboxId":              func(c *conn, _ time.Time) string { return sandboxID(c.in) },
	"sandboxName":            func(c *conn, _ time.Time) string { return c.in.sandbox },
	"imsOrgId":               func(c *conn, _ time.Time) string { return c.in.org },
	"connectionSpec.id":      func(c *conn, _ time.Time) string { return c.specID },
	"connectionSpec.version": func(c *conn, _ time.Time) string { return c.specVersion },
	"auth.specName":          func(c *conn, _ time.Time) string { return c.specName },
	"version":                func(c *conn, _ time.Time) string { return c.etag },
	"etag":                   func(c *conn, _ time.Time) string { return c.etag },
}

// times are the fields of a connection that are numbers of milliseconds.
var times = map[string]func(*conn) int64{
	"createdAt": func(c *conn) int64 { return c.created.UnixMilli() },
	"updatedAt": func(c *conn) int64 { return c.updated.UnixMilli() },
}

const paramPrefix = "auth.params."

// parseFilter reads a property such as `name=="a",b`.
func parseFilter(s string) (filter, *flowFault) {
	i := strings.IndexAny(s, operatorBytes)
	if i <= 0 {
		return filter{}, fault("1453-400", s)
	}
	f := filter{path: s[:i]}
	op, err := operator(s[i:])
	if err != nil {
		return filter{}, err
	}
	f.op = op
	if !knownField(f.path) {
		return filter{}, fault("1449-400", f.path)
	}
	text := s[i+len(op):]
	if text == "" {
		return filter{}, fault("1453-400", s)
	}
	for _, v := range strings.Split(text, ",") {
		f.values = append(f.values, unquote(v))
	}
	return f, f.check(text)
}

// operator returns the operator that s begins with.
func operator(s string) (string, *flowFault) {
	for _, op := range []string{"==", ">=", "<=", ">", "<"} {
		if strings.HasPrefix(s, op) {
			return op, nil
		}
	}
	run := s[:len(s)-len(strings.TrimLeft(s, operatorBytes))]
	if run == "~" {
		return "", fault("1440-400", run)
	}
	return "", fault("1450-400", run)
}

func knownField(path string) bool {
	name, isParam := strings.CutPrefix(path, paramPrefix)
	return fields[path] != nil || times[path] != nil || isParam && name != ""
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

// check finds what the service refuses in a filter that can be read.
func (f filter) check(text string) *flowFault {
	several := len(f.values) > 1
	switch {
	case f.path == "id" && f.op != "==":
		return fault("1448-400", f.op, f.path)
	case times[f.path] != nil:
		if _, err := strconv.ParseInt(f.values[0], 10, 64); err != nil || several {
			return fault("1452-400", text, f.path)
		}
	case several && f.op != "==":
		return fault("1443-400", f.op)
	case f.path == "state":
		for _, v := range f.values {
			if !slices.Contains([]string{stateEnabled, "disabled", stateInitializing}, v) {
				return fault("1456-400", v)
			}
		}
	}
	return nil
}

func (f filter) matches(c *conn, fold bool, now time.Time) bool {
	if at := times[f.path]; at != nil {
		want, _ := strconv.ParseInt(f.values[0], 10, 64) // check has read it
		return holds(f.op, cmp.Compare(at(c), want))
	}
	have, ok := c.text(f.path, now)
	if fold && f.path == "name" && f.op == "==" {
		return slices.ContainsFunc(f.values, func(want string) bool { return strings.EqualFold(have, want) })
	}
	return ok && slices.ContainsFunc(f.values, func(want string) bool { return holds(f.op, strings.Compare(have, want)) })
}

// text returns the text at path as answers show it; false if the connection has none.
func (c *conn) text(path string, now time.Time) (string, bool) {
	if get := fields[path]; get != nil {
		return get(c, now), true
	}
	name := strings.TrimPrefix(path, paramPrefix)
	switch p := c.params[name].(type) {
	case nil:
		return "", false
	case string:
		if slices.Contains(c.secret, name) {
			return masked, true
		}
		return p, true
	default:
		return fmt.Sprint(p), !slices.Contains(c.secret, name)
	}
}

func holds(op string, order int) bool {
	switch op {
	case "==":
		return order == 0
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	default:
		return order >= 0
	}
}

// matchAll reports whether c passes every filter.
func matchAll(c *conn, filters []filter, fold bool, now time.Time) bool {
	return !slices.ContainsFunc(filters, func(f filter) bool { return !f.matches(c, fold, now) })
}
