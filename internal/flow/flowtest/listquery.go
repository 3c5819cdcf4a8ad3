package flowtest

import (
	"slices"
	"strconv"
	"strings"
)

// listParams are the query parameters of GET /connections.
var listParams = []string{"property", "limit", "count", "orderby", "continuationToken"}

// listQuery reads the query of GET /connections. With a continuation token the token's own filters
// and order count, not the query's; a limit may be given anew.
func (x *exchange) listQuery(p plan) (listQuery, *flowFault) {
	q := listQuery{cursor: cursor{Limit: x.em.cfg.PageSize}, omit: p.omit, fold: p.foldNames}
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
