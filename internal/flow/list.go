package flow

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Limits of a listing.
const (
	pageSize  = "100" // the most that the Flow Service gives
	fullPage  = 100
	maxStale  = 20 // pages in a row that show nothing new; of a listing that goes on so, nothing is believed
	pageTries = 8  // of a page after the first: the more pages, the less may each fail
	orderSeen = 20 // connections in a row, each older than what is asked for, that end an ordered listing
)

// Find returns every connection in the account's sandbox that q asks for, over all pages, or an error:
// never a part. Each page is asked for several times; a refused bearer token is renewed once. Where the
// Flow Service refuses a filter or an order, it is asked without, to the end. What it lists is returned
// whether it fits the filter or not: better one too many for the caller to look at than the one that was
// sought missed. An error without a Cause won't go away by itself.
func (c *Client) Find(ctx context.Context, as provision.Account, q provision.Query) ([]provision.Found, error) {
	began := time.Now()
	l := listing{client: c, as: as, q: q, seen: map[string]bool{}}
	err := l.read(ctx)
	c.logCall(ctx, opList, as, began, err)
	if err != nil {
		return nil, err
	}
	return l.found, nil
}

// Get returns one connection by its id. It is asked for up to 4 times; a refused bearer token is renewed
// once.
func (c *Client) Get(ctx context.Context, as provision.Account, id string) (provision.Found, error) {
	began := time.Now()
	l := listing{client: c, as: as}
	p, err := l.ask(ctx, maxTries, c.one, c.base.JoinPath("connections", url.PathEscape(id)), "")
	var found provision.Found
	switch {
	case err != nil:
	case len(p.found) != 1 || !strings.EqualFold(p.found[0].ID, id):
		err = unlistable("the answer has another connection than the one asked for")
	default:
		found = p.found[0]
	}
	c.logCall(ctx, opGet, as, began, err)
	if err != nil {
		return provision.Found{}, err
	}
	return found, nil
}

// unfilterable are the characters that have, or may have, a meaning in a property filter: a comma
// separates alternatives, quotes may enclose a value, the others make operators and parameters. What
// holds one of them is not filtered by.
const unfilterable = `,"&=<>~\`

// filters returns one query for each name that is asked for, or one for all. They are empty where nothing
// can be filtered by. Blanks are %20: the documentation shows that, and "+" is not known to work.
func filters(q provision.Query) (queries []string) {
	names := q.Names
	if len(names) == 0 || slices.ContainsFunc(names, func(n string) bool { return strings.ContainsAny(n, unfilterable) }) {
		names = []string{""}
	}
	for _, name := range names {
		query := ""
		for _, f := range []struct{ property, value string }{{"name", name}, {"connectionSpec.id", q.SpecID}} {
			if f.value != "" && !strings.ContainsAny(f.value, unfilterable) {
				value := strings.ReplaceAll(url.QueryEscape(f.value), "+", "%20")
				query += "property=" + f.property + "==" + value + "&"
			}
		}
		queries = append(queries, query)
	}
	return queries
}

// The queries of a listing without filters, the best first.
const (
	newestFirst = "orderby=-createdAt&limit=" + pageSize
	inAnyOrder  = "limit=" + pageSize
	counting    = "count=true" // how many it has
)

// listing is one Find, or one Get.
type listing struct {
	client  *Client
	as      provision.Account
	q       provision.Query
	found   []provision.Found
	seen    map[string]bool // ids
	renewed bool            // a bearer token was refused and replaced already
}

// read reads the listing that q asks for.
func (l *listing) read(ctx context.Context) *provision.CallError {
	for _, filter := range filters(l.q) {
		plans := []string{newestFirst, inAnyOrder, ""}
		if l.q.Since.IsZero() && !l.q.Newest {
			plans = plans[1:]
		}
		if filter != "" {
			plans = slices.Insert(plans, 0, filter+inAnyOrder)
		}
		for i, query := range plans {
			begun, err := l.pages(ctx, query, i == 0 && filter != "")
			if err == nil {
				break
			}
			if begun || !refusesQuery(err) || i == len(plans)-1 {
				return err
			}
		}
	}
	return nil
}

// refusesQuery reports whether an answer may be a refusal of the query's parameters rather than of the call.
// What else it may be, another query is refused for, too.
func refusesQuery(err *provision.CallError) bool {
	switch err.Status {
	case http.StatusBadRequest, http.StatusRequestURITooLong, http.StatusUnprocessableEntity:
		return err.Verdict == provision.VerdictRejected
	}
	return false
}

// pages reads a listing page by page, from its first query to its end, and reports whether it had a first
// page. One that isn't narrowed by a filter ends before, where nothing that is new enough can follow.
func (l *listing) pages(ctx context.Context, query string, narrowed bool) (begun bool, err *provision.CallError) {
	asked, shown := map[string]bool{}, map[string]bool{}
	order, tries, stale := ordering{since: l.q.Since}, maxTries, 0
	for read := 1; ; read++ {
		begun = read > 1
		p, err := l.ask(ctx, tries, l.client.lists, l.client.base.JoinPath("connections"), query)
		if err != nil {
			return begun, err
		}
		news := slices.DeleteFunc(slices.Clone(p.found), func(f provision.Found) bool { return shown[f.ID] })
		for _, f := range news {
			shown[f.ID] = true
			if !l.seen[f.ID] && (l.q.Want == nil || l.q.Want(f)) {
				l.found = append(l.found, f)
				l.seen[f.ID] = true
			}
		}
		switch {
		case !narrowed && (l.q.Newest || order.over(news)):
			return true, nil
		case p.next == "" && (p.count > max(len(p.found), len(shown)) || p.pages > read):
			return true, unlistable("it has more than it shows, and no link to it")
		case p.next == "" && len(p.found) >= fullPage:
			return true, l.whole(ctx, query, len(shown))
		case p.next == "":
			return true, nil
		}
		if stale++; len(news) > 0 {
			stale = 0
		}
		asked[query] = true
		if query, tries = p.next, pageTries; asked[query] {
			return true, unlistable("the pages of the listing go round in a circle")
		}
		if stale == maxStale {
			return true, unlistable("the listing goes on, but shows nothing new")
		}
	}
}

// whole makes sure that a listing whose last page is full ends there, and wasn't cut: a part of its documentation
// says that it shows no more than 100. Where the Flow Service doesn't count, its list is believed.
func (l *listing) whole(ctx context.Context, query string, shown int) *provision.CallError {
	count := counting
	if filter, _, narrowed := strings.Cut(query, inAnyOrder); narrowed && filter != "" && strings.HasPrefix(filter, "property=") {
		count = filter + count
	}
	p, err := l.ask(ctx, maxTries, l.client.lists, l.client.base.JoinPath("connections"), count)
	switch {
	case err != nil && refusesQuery(err):
		return nil
	case err != nil:
		return err
	case p.count > shown:
		return unlistable(fmt.Sprintf("it shows %d of %d connections, and no link to the others", shown, p.count))
	}
	return nil
}

// ordering knows whether a listing was seen to be in the order of creation, newest first.
type ordering struct {
	since   time.Time
	last    time.Time
	older   int // how many in a row are older than since
	without bool
}

// over reports whether the listing was in order until now, and has come to what is too old. A few old ones
// are no proof of an order, and a time that can't be read is none either.
func (o *ordering) over(news []provision.Found) bool {
	for _, f := range news {
		if f.CreatedAt.IsZero() || !o.last.IsZero() && f.CreatedAt.After(o.last) {
			o.without = true
		}
		o.last = f.CreatedAt
		if o.older++; !f.CreatedAt.Before(o.since) {
			o.older = 0
		}
	}
	return !o.without && o.older >= orderSeen
}

// ask gets one page, with a new bearer token if the first one is refused.
func (l *listing) ask(ctx context.Context, tries int, via http.RoundTripper, u *url.URL, query string) (page, *provision.CallError) {
	u.RawQuery = query
	for {
		g, err := l.client.grant(ctx, l.as)
		if err != nil {
			return page{}, err
		}
		s := scrubberOf(l.as.Credentials, g.token)
		var p page
		err = l.client.repeatUpTo(ctx, tries, func() *provision.CallError {
			a, cerr := l.client.get(ctx, via, u.String(), "the list of connections", maxList, l.as, g, s)
			if cerr == nil {
				p, cerr = l.client.readPage(a, strings.HasSuffix(query, counting), s)
			}
			return cerr
		})
		if err == nil || err.Verdict != provision.VerdictUnauthorized {
			return p, err
		}
		if !l.client.drop(l.as, g) || l.renewed {
			return page{}, err
		}
		l.renewed = true
		l.client.onRetry(err.Target, err.Cause)
	}
}

// unlistable is the error of a listing that can't be read to its end. What it lists stays unknown.
func unlistable(why string) *provision.CallError { return unreadable("the list of connections", why) }

// page is one page of a listing.
type page struct {
	found []provision.Found
	next  string // the query of the next page, "" on the last one
	count int    // how many there are, by the page's own word; 0 where it has none
	pages int    // of the listing, likewise
}

// pageBody is a page as it is sent. Its frame is read strictly: if it has another form, it is not
// known whether something is missing. Its items are read leniently.
type pageBody struct {
	Items *[]item `json:"items"`
	Links *struct {
		Next *object `json:"next"`
	} `json:"_links"`
}

// item is a connection as it is listed. It has no field for the token, so that is never kept.
type item struct {
	ID          text    `json:"id"`
	Etag        text    `json:"etag"`
	Name        text    `json:"name"`
	Description written `json:"description"`
	State       text    `json:"state"`
	CreatedAt   instant `json:"createdAt"`

	ConnectionSpec lenient[struct {
		ID      text `json:"id"`
		Version text `json:"version"`
	}] `json:"connectionSpec"`
	Auth lenient[struct {
		Params lenient[struct {
			Domain    text `json:"domain"`
			ClusterID text `json:"clusterId"`
			Database  text `json:"database"`
			Catalog   text `json:"catalog"`
		}] `json:"params"`
	}] `json:"auth"`
}

func (i item) found() provision.Found {
	spec, params := i.ConnectionSpec.value, i.Auth.value.Params.value
	return provision.Found{
		Connection: provision.Connection{ID: string(i.ID), Etag: string(i.Etag)},
		Name:       string(i.Name), Description: string(i.Description.text), Undescribed: !i.Description.there,
		CreatedAt: i.CreatedAt.Time, State: string(i.State),
		SpecID: string(spec.ID), SpecVersion: string(spec.Version),
		Domain: string(params.Domain), ClusterID: string(params.ClusterID),
		Database: string(params.Database), Catalog: string(params.Catalog),
	}
}

// readPage reads a page, or the number that stands in its place where it was asked to count. The errors of the JSON
// decoder are not passed on, for they may quote it.
func (c *Client) readPage(a answer, counted bool, s scrubber) (page, *provision.CallError) {
	frame, ok := readObject(a.body)
	var body pageBody
	if !ok || json.Unmarshal(a.body, &body) != nil {
		return page{}, unlistable("a page is not the JSON that was expected")
	}
	if frame.misspelled("items", "_links") != "" {
		return page{}, unlistable("a page has the name of a member in another case")
	}
	var p page
	if why := p.readFrame(frame); why != "" {
		return page{}, unlistable(why)
	}
	if body.Items == nil {
		var count *int
		if counted && frame["items"] == nil && json.Unmarshal(frame["count"], &count) == nil && count != nil {
			return p, nil
		}
		return page{}, unlistable("a page has no items")
	}
	for n, i := range *body.Items {
		if connectionID(string(i.ID), s) == "" {
			return page{}, unlistable(fmt.Sprintf("item %d of a page has no usable id", n))
		}
		p.found = append(p.found, i.found())
	}
	if body.Links == nil || body.Links.Next == nil {
		return p, nil
	}
	link := *body.Links.Next
	href, raw := link.text("href"), string(link["href"])
	switch {
	case href != "":
		var err *provision.CallError
		p.next, err = c.nextQuery(href)
		return p, err
	case raw != "" && raw != "null" && raw != `""`, !link.only("href"):
		return page{}, unlistable("the link to the next page can't be read")
	}
	return p, nil
}

// fineStates are the words for a listing that succeeded.
var fineStates = []string{"ok", "success", "successful", "succeeded", "complete", "completed", "done"}

// readFrame reads what a page says about itself, beside its items and the link to the next page, in the ways of
// other services, too: what they hold back must not be taken for absent. It returns why the page can't be
// believed.
func (p *page) readFrame(frame object) (why string) {
	linked, more := false, false
	var walk func(path string, members map[string]any)
	walk = func(path string, members map[string]any) {
		for name, value := range members {
			at, is := path+name, folded(name)
			if at == "_links.next" {
				link, _ := value.(map[string]any)
				linked = linked || link["href"] != nil && link["href"] != ""
				continue
			}
			switch {
			case saysFailure(name, value, fineStates):
				why = "a page says that something failed"
			case slices.Contains(partMembers, is) && !empty(value), is == "complete" && value == false:
				why = "a page says that it is not complete"
			case slices.Contains(countMembers, is):
				p.count = max(p.count, howMany(value))
			case slices.Contains(pagesMembers, is):
				p.pages = max(p.pages, howMany(value))
			case slices.Contains(lastMembers, is):
				more = more || value == false
			case strings.Contains(is, "next"), strings.HasPrefix(is, "continu"), strings.HasPrefix(is, "hasmore"), is == "cursor", is == "more":
				more = more || !empty(value)
			}
			if inner, ok := value.(map[string]any); ok {
				walk(at+".", inner)
			}
		}
	}
	members := map[string]any{}
	for name, raw := range frame {
		var value any
		if name != "items" && json.Unmarshal(raw, &value) == nil {
			members[name] = value
		}
	}
	walk("", members)
	if why == "" && more && !linked {
		why = "the page has a successor, but no link to it"
	}
	return why
}

// Members of a page, folded, by which services say how much there is.
var (
	partMembers  = []string{"partial", "ispartial", "incomplete", "isincomplete", "incompleteresults", "truncated", "istruncated", "timedout", "degraded", "warning", "warnings"}
	countMembers = []string{"count", "total", "totalcount", "totalresults", "totalitems", "totalelements", "totalrecords", "totalsize", "odatacount"}
	pagesMembers = []string{"pages", "totalpages", "pagecount"}
	lastMembers  = []string{"last", "lastpage", "islast"}
)

// howMany returns a number, which may be of any size or written as a string; 0 for anything else.
func howMany(value any) int {
	n, ok := value.(float64)
	if text, is := value.(string); is && !ok {
		n, _ = strconv.ParseFloat(text, 64)
	}
	return int(min(max(n, 0), math.MaxInt32))
}

// nextQuery returns the query of the next page's link. The link is usually relative to the base
// address ("/connections?continuationToken=…"), may be absolute, and must stay on the listing itself:
// the bearer token goes where it points.
func (c *Client) nextQuery(href string) (string, *provision.CallError) {
	u, err := url.Parse(href)
	if err != nil {
		return "", unlistable("the link to the next page is no URL")
	}
	elsewhere := u.Scheme != "" && u.Scheme != c.base.Scheme || u.Host != "" && !strings.EqualFold(u.Host, c.base.Host) || u.User != nil || u.Opaque != ""
	here := u.Path == "" || u.Path == "connections" || u.Path == "/connections" || u.Path == c.base.JoinPath("connections").Path
	if elsewhere || !here {
		return "", unlistable("the link to the next page leads elsewhere; it was not followed")
	}
	if u.RawQuery == "" {
		return "", unlistable("the link to the next page names no page")
	}
	return u.RawQuery, nil
}

// Spec is a connection spec, as far as it shows whether requests can name it. What the Flow Service leaves
// out is empty.
type Spec struct {
	ID, Name, Version string
	AuthSpecs         []string // names of its ways to authenticate
}

const theSpec = "the connection spec"

// specBody is a connection spec as it is sent.
type specBody struct {
	Items []struct {
		ID       text `json:"id"`
		Name     text `json:"name"`
		Version  text `json:"version"`
		AuthSpec []struct {
			Name text `json:"name"`
		} `json:"authSpec"`
	} `json:"items"`
}

// Spec returns the connection spec with this id. Its error is a *provision.CallError, with the status 404
// where there is none. It asks once, and renews a refused bearer token never.
func (c *Client) Spec(ctx context.Context, as provision.Account, id string) (Spec, error) {
	began := time.Now()
	s, err := c.spec(ctx, as, id)
	c.logCall(ctx, opGet, as, began, err)
	if err != nil {
		return Spec{}, err
	}
	return s, nil
}

func (c *Client) spec(ctx context.Context, as provision.Account, id string) (Spec, *provision.CallError) {
	g, cerr := c.grant(ctx, as)
	if cerr != nil {
		return Spec{}, cerr
	}
	s := scrubberOf(as.Credentials, g.token)
	a, cerr := c.get(ctx, c.lists, c.base.JoinPath("connectionSpecs", url.PathEscape(id)).String(), theSpec, maxBody, as, g, s)
	if cerr != nil {
		return Spec{}, cerr
	}
	return readSpec(a, id, s)
}

// readSpec reads a connection spec. The errors of the JSON decoder are not passed on, for they may quote it.
func readSpec(a answer, id string, s scrubber) (Spec, *provision.CallError) {
	var body specBody
	if json.Unmarshal(a.body, &body) != nil {
		return Spec{}, unreadable(theSpec, "it is not the JSON that was expected")
	}
	for _, i := range body.Items {
		if string(i.ID) != id {
			continue
		}
		spec := Spec{ID: id, Name: s.message(string(i.Name)), Version: s.message(string(i.Version))}
		for _, auth := range i.AuthSpec {
			spec.AuthSpecs = append(spec.AuthSpecs, s.message(string(auth.Name)))
		}
		return spec, nil
	}
	return Spec{}, unreadable(theSpec, "the answer has another one than the one asked for")
}
