package flow

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Limits of a listing.
const (
	pageSize = "100" // the most that the Flow Service gives
	maxPages = 1000  // of a listing that has not ended by then, nothing is believed
)

// Find returns every connection in the account's sandbox that q matches, over all pages, or an error:
// never a part. Each page is asked for up to 4 times; a refused bearer token is renewed once. A
// connection whose listing leaves out its name or its connection spec is returned too: better one too
// many for the caller to look at than the one that was sought missed. An error without a Cause won't
// go away by itself.
func (c *Client) Find(ctx context.Context, as provision.Account, q provision.Query) ([]provision.Found, error) {
	began := time.Now()
	found, err := c.find(ctx, as, q)
	c.told(ctx, opList, as, began, err)
	if err != nil {
		return nil, err
	}
	return found, nil
}

func (c *Client) find(ctx context.Context, as provision.Account, q provision.Query) ([]provision.Found, *provision.CallError) {
	l := listing{client: c, as: as}
	var found []provision.Found
	query, seen := firstQuery(q), map[string]bool{}
	for range maxPages {
		p, err := l.page(ctx, query)
		if err != nil {
			return nil, err
		}
		for _, f := range p.found {
			if matches(f, q) {
				found = append(found, f)
			}
		}
		if p.next == "" {
			return found, nil
		}
		seen[query] = true
		if query = p.next; seen[query] {
			return nil, unlistable("the pages of the listing go round in a circle")
		}
	}
	return nil, unlistable("the listing has more than 1000 pages")
}

// matches compares exactly, by bytes, whatever the Flow Service took the filter to mean.
func matches(f provision.Found, q provision.Query) bool {
	same := func(have, want string) bool { return want == "" || have == "" || have == want }
	return same(f.Name, q.Name) && same(f.SpecID, q.SpecID)
}

// unfilterable are the characters that have, or may have, a meaning in a property filter: a comma
// separates alternatives, quotes may enclose a value, the others make operators and parameters. What
// holds one of them is not filtered by, only compared here.
const unfilterable = `,"&=<>~\`

// firstQuery returns the query of a listing's first page. Blanks are %20: the documentation shows
// that, and "+" is not known to work.
func firstQuery(q provision.Query) string {
	var parts []string
	for _, f := range []struct{ property, value string }{{"name", q.Name}, {"connectionSpec.id", q.SpecID}} {
		if f.value != "" && !strings.ContainsAny(f.value, unfilterable) {
			value := strings.ReplaceAll(url.QueryEscape(f.value), "+", "%20")
			parts = append(parts, "property="+f.property+"=="+value)
		}
	}
	return strings.Join(append(parts, "limit="+pageSize), "&")
}

// listing is one Find.
type listing struct {
	client  *Client
	as      provision.Account
	renewed bool // a bearer token was refused and replaced already
}

// page gets one page, with a new bearer token if the first one is refused.
func (l *listing) page(ctx context.Context, query string) (page, *provision.CallError) {
	for {
		g, err := l.client.grant(ctx, l.as)
		if err != nil {
			return page{}, err
		}
		p, err := l.client.getPage(ctx, l.as, g, query)
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

func (c *Client) getPage(ctx context.Context, as provision.Account, g grant, query string) (page, *provision.CallError) {
	var p page
	err := c.repeat(ctx, func() (cerr *provision.CallError) {
		p, cerr = c.getPageOnce(ctx, as, g, query)
		return cerr
	})
	if err != nil {
		return page{}, err
	}
	return p, nil
}

func (c *Client) getPageOnce(ctx context.Context, as provision.Account, g grant, query string) (page, *provision.CallError) {
	s := scrubberOf(as.Credentials, g.token)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	u := c.base.JoinPath("connections")
	u.RawQuery = query
	req, err := c.request(ctx, http.MethodGet, u.String(), nil, as, g)
	if err != nil {
		return page{}, unlistable("a page's address is unusable")
	}
	a, err := exchange(c.get, req, maxList)
	switch {
	case err != nil:
		return page{}, unanswered(provision.TargetFlow, provision.VerdictUnknown, err, s)
	case a.status != http.StatusOK:
		return page{}, judge(a, s)
	case a.bodyErr != nil:
		cerr := unanswered(provision.TargetFlow, provision.VerdictUnknown, a.bodyErr, s)
		cerr.Status = a.status
		return page{}, cerr
	}
	return c.readPage(a, s)
}

// unlistable is the error of a listing that can't be read to its end. What it lists stays unknown.
func unlistable(why string) *provision.CallError {
	return &provision.CallError{
		Verdict: provision.VerdictUnknown, Target: provision.TargetFlow, Cause: provision.CauseStatus,
		Status: http.StatusOK, Message: "can't read the list of connections: " + why,
	}
}
