package flowtest

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// chunkSize is how many connections a list looks at between two locks.
const chunkSize = 512

// links is the _links of a list; empty on the last page.
type links struct {
	Next *link `json:"next,omitempty"`
}

type link struct {
	Href string `json:"href"`
}

// cursor is what a continuation token holds: the whole query and the last connection shown.
type cursor struct {
	Properties []string `json:"p,omitempty"`
	OrderBy    string   `json:"o,omitempty"`
	Limit      int      `json:"l"`
	After      uint64   `json:"a"`
	Key        string   `json:"k,omitempty"` // the sort key of After, for lists with an OrderBy
}

// listQuery is a list request that was understood.
type listQuery struct {
	cursor
	filters []filter
	omit    []string
	fold    bool   // its filters on names mind no case
	field   string // to order by; empty means newest first
	down    bool
	count   bool
}

// list answers GET /connections with what is listed by now.
func (x *exchange) list() answer {
	lag := x.plan.lag
	q, bad := x.listQuery(x.plan)
	if bad != nil {
		return x.flowError(bad.code, bad.args...)
	}
	now := x.em.cfg.Clock()
	visible := func(c *conn) bool {
		return !c.listedAt.After(now) && (lag == 0 || !c.created.Add(lag).After(now)) && matchAll(c, q.filters, q.fold, now)
	}
	if q.count {
		return jsonAnswer(http.StatusOK, map[string]int{"count": len(x.gather(q, visible, 0, 0))})
	}
	var page []*conn
	if q.field == "" {
		page = x.gather(q, visible, q.After, q.Limit+1)
	} else {
		page = q.ordered(x.gather(q, visible, 0, 0), now)
	}
	return q.page(page, now)
}

// page answers with the first Limit of the connections that are left.
func (q listQuery) page(rest []*conn, now time.Time) answer {
	var l links
	if len(rest) > q.Limit {
		rest = rest[:q.Limit]
		last := rest[q.Limit-1]
		next := q.cursor
		next.After = last.seq
		if q.field != "" {
			next.Key = last.sortKey(q.field, now)
		}
		l.Next = &link{"/connections?continuationToken=" + url.QueryEscape(next.encode())}
	}
	items := make([]any, 0, len(rest))
	for _, c := range rest {
		items = append(items, c.view(now).without(q.omit))
	}
	return jsonAnswer(http.StatusOK, struct {
		Items []any `json:"items"`
		Links links `json:"_links"`
	}{items, l})
}

// gather returns up to limit (0: all) connections older than before (0: the newest), newest first.
func (x *exchange) gather(q listQuery, want func(*conn) bool, before uint64, limit int) []*conn {
	var out []*conn
	for {
		part := x.em.store.chunk(x.scope(), q.onlyName(), before, chunkSize)
		for _, c := range part {
			if want(c) {
				out = append(out, c)
			}
			if limit > 0 && len(out) == limit {
				return out
			}
		}
		if len(part) < chunkSize {
			return out
		}
		before = part[len(part)-1].seq
	}
}

// onlyName returns the one name that the filters ask for, nil if they ask for none or several.
func (q listQuery) onlyName() *string {
	for _, f := range q.filters {
		if !q.fold && f.path == "name" && f.op == "==" && len(f.values) == 1 {
			return &f.values[0]
		}
	}
	return nil
}

// ordered sorts by q.field and drops what earlier pages showed.
func (q listQuery) ordered(all []*conn, now time.Time) []*conn {
	keys := make(map[*conn]string, len(all))
	for _, c := range all {
		keys[c] = c.sortKey(q.field, now)
	}
	order := func(aKey string, aSeq uint64, bKey string, bSeq uint64) int {
		n := cmp.Or(strings.Compare(aKey, bKey), cmp.Compare(aSeq, bSeq))
		if q.down {
			return -n
		}
		return n
	}
	slices.SortFunc(all, func(a, b *conn) int { return order(keys[a], a.seq, keys[b], b.seq) })
	if q.After == 0 {
		return all
	}
	i, _ := slices.BinarySearchFunc(all, struct{}{}, func(c *conn, _ struct{}) int {
		if order(keys[c], c.seq, q.Key, q.After) <= 0 {
			return -1
		}
		return 1
	})
	return all[i:]
}

// sortKey returns a text by which connections sort as they do by field.
func (c *conn) sortKey(field string, now time.Time) string {
	if at := times[field]; at != nil {
		return fmt.Sprintf("%020d", at(c))
	}
	return fields[field](c, now)
}

func (c cursor) encode() string {
	b, _ := json.Marshal(c) // strings and numbers always can be
	for len(b)%3 == 0 {     // so that every token ends in "=", which clients must escape
		b = append(b, ' ')
	}
	return base64.StdEncoding.EncodeToString(b)
}

func decodeCursor(token string) (cursor, *flowFault) {
	var c cursor
	b, err := base64.StdEncoding.DecodeString(token)
	if err != nil || json.Unmarshal(b, &c) != nil || c.Limit < 1 || c.Limit > maxPageSize || c.After == 0 {
		return c, fault("1453-400", "continuationToken")
	}
	return c, nil
}

// listParams are the query parameters of GET /connections.
var listParams = []string{"property", "limit", "count", "orderby", "continuationToken"}

// listQuery reads the query of GET /connections. With a continuation token the token's own filters
// and order count, not the query's; a new limit may be given.
func (x *exchange) listQuery(p plan) (listQuery, *flowFault) {
	q := listQuery{cursor: cursor{Limit: defaultPageSize}, omit: p.omit, fold: p.foldNames}
	if bad := x.checkListParams(p.refuse); bad != nil {
		return q, bad
	}
	q.Properties, q.OrderBy = x.query["property"], x.query.Get("orderby")
	if token := x.query.Get("continuationToken"); token != "" {
		var bad *flowFault
		if q.cursor, bad = decodeCursor(token); bad != nil {
			return q, bad
		}
	}
	if bad := q.setLimit(x.query.Get("limit"), x.query.Get("count")); bad != nil {
		return q, bad
	}
	for _, p := range q.Properties {
		f, bad := parseFilter(p)
		if bad != nil {
			return q, bad
		}
		q.filters = append(q.filters, f)
	}
	if p.unordered {
		q.OrderBy = "id"
	}
	return q, q.setOrder(q.OrderBy)
}

func (x *exchange) checkListParams(refused []string) *flowFault {
	if x.queryErr != nil {
		return fault("1453-400", "that is not percent-encoded")
	}
	for _, name := range refused {
		switch value := x.query.Get(name); {
		case !x.query.Has(name):
		case name == "property":
			return fault("1449-400", value)
		case name == "orderby":
			return fault("1433-400", value)
		default:
			return fault("1451-400", name)
		}
	}
	for name := range x.query {
		if !slices.Contains(listParams, name) {
			return fault("1451-400", name)
		}
	}
	return nil
}

func (q *listQuery) setLimit(limit, count string) *flowFault {
	switch count {
	case "", "false":
	case "true":
		q.count = true
	default:
		return fault("1453-400", "count="+count)
	}
	if limit == "" {
		return nil
	}
	if q.count {
		return fault("1401-400")
	}
	n, err := strconv.Atoi(limit)
	if err != nil || n < 1 {
		return fault("1453-400", "limit="+limit)
	}
	q.Limit = min(n, maxPageSize)
	return nil
}

// setOrder reads an orderby such as "-createdAt". A blank is a "+" that nobody escaped.
func (q *listQuery) setOrder(s string) *flowFault {
	if s == "" || s == "-createdAt" {
		return nil // newest first, as always
	}
	name := strings.TrimLeft(s, "+- ")
	if len(s)-len(name) > 1 {
		return fault("1432-400")
	}
	if fields[name] == nil && times[name] == nil {
		return fault("1433-400", name)
	}
	q.field, q.down = name, s[0] == '-'
	return nil
}

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
