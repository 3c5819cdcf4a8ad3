package flow

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/flow-worker/flow-worker/internal/provision"
)

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

// readPage reads a page, or the number that stands in its place where it was asked to count. The errors of the JSON decoder are not passed on, for they may quote it.
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
	href := body.Links.Next.text("href")
	if raw := string((*body.Links.Next)["href"]); href == "" && (raw != "" && raw != "null" && raw != `""` || !body.Links.Next.only("href")) {
		return page{}, unlistable("the link to the next page can't be read")
	}
	if href == "" {
		return p, nil
	}
	next, err := c.nextQuery(href)
	if err != nil {
		return page{}, err
	}
	p.next = next
	return p, nil
}

// fineStates are the words for a listing that succeeded.
var fineStates = []string{"ok", "success", "successful", "succeeded", "complete", "completed", "done"}

// readFrame reads what a page says about itself, beside its items and the link to the next page, in the ways of
// other services, too: what they hold back must not be taken for absent. It returns why the page can't be
// believed.
func (p *page) readFrame(frame object) (why string) {
	linked := false
	var walk func(path string, members map[string]any)
	walk = func(path string, members map[string]any) {
		for name, value := range members {
			at, is := path+name, folded(name)
			switch {
			case at == "_links.next":
				link, _ := value.(map[string]any)
				linked = linked || link["href"] != nil && link["href"] != ""
				continue
			case saysFailure(name, value, fineStates):
				why = "a page says that something failed"
			case slices.Contains(partMembers, is) && !empty(value):
				why = "a page says that it is not complete"
			case is == "complete" && value == false:
				why = "a page says that it is not complete"
			case slices.Contains(countMembers, is):
				p.count = max(p.count, howMany(value))
			case slices.Contains(pagesMembers, is):
				p.pages = max(p.pages, howMany(value))
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
	if why == "" && !linked && promisesMore("", members) {
		why = "the page has a successor, but no link to it"
	}
	return why
}

// Members of a page, folded, by which services say how much there is.
var (
	partMembers  = []string{"partial", "ispartial", "incomplete", "isincomplete", "incompleteresults", "truncated", "istruncated", "timedout", "degraded", "warning", "warnings"}
	countMembers = []string{"count", "total", "totalcount", "totalresults", "totalitems", "totalelements", "totalrecords", "totalsize", "odatacount"}
	pagesMembers = []string{"pages", "totalpages", "pagecount"}
)

// promisesMore reports whether a member, other than the link that is followed, says that there is another page.
func promisesMore(path string, members map[string]any) bool {
	for name, value := range members {
		at, is := path+name, folded(name)
		if at == "_links.next" {
			continue
		}
		more := strings.Contains(is, "next") || strings.HasPrefix(is, "continu") || strings.HasPrefix(is, "hasmore") || is == "cursor" || is == "more"
		last := is == "last" || is == "lastpage" || is == "islast"
		if more && !empty(value) || last && value == false {
			return true
		}
		if inner, ok := value.(map[string]any); ok && promisesMore(at+".", inner) {
			return true
		}
	}
	return false
}

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
	abroad := u.Scheme != "" && u.Scheme != c.base.Scheme || u.Host != "" && !strings.EqualFold(u.Host, c.base.Host) || u.User != nil || u.Opaque != ""
	here := u.Path == "" || u.Path == "connections" || u.Path == "/connections" || u.Path == c.base.JoinPath("connections").Path
	if abroad || !here {
		return "", unlistable("the link to the next page leads elsewhere; it was not followed")
	}
	if u.RawQuery == "" {
		return "", unlistable("the link to the next page names no page")
	}
	return u.RawQuery, nil
}
