package flowtest

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
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

// cursor is what a continuation token holds: the whole query and the last connection told.
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
func (x *exchange) list() answer { return x.listAs(plan{}) }

// listAs answers GET /connections, bent by the plan's faults.
func (x *exchange) listAs(p plan) answer {
	lag := p.lag
	q, bad := x.listQuery(p)
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

// ordered sorts by q.field and drops what earlier pages told.
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
