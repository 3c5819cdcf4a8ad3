package flow

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// page is one page of a listing.
type page struct {
	found []provision.Found
	next  string // the query of the next page, "" on the last one
	count int    // of a page that only counts
}

// pageBody is a page as it is sent. Its frame is read strictly: if it has another form, it is not
// known whether something is missing. Its items are read leniently.
type pageBody struct {
	Items *[]item `json:"items"`
	Links *struct {
		Next *struct {
			Href *string `json:"href"`
		} `json:"next"`
	} `json:"_links"`
	// How other services of the platform page. What they hold back must not be taken for absent.
	Page lenient[struct {
		Next text `json:"next"`
	}] `json:"_page"`
	Token text `json:"continuationToken"`
	Count *int `json:"count"`
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
	var body pageBody
	if json.Unmarshal(a.body, &body) != nil {
		return page{}, unlistable("a page is not the JSON that was expected")
	}
	if body.Items == nil {
		if body.Count != nil && counted {
			return page{count: *body.Count}, nil
		}
		return page{}, unlistable("a page has no items")
	}
	var p page
	for n, i := range *body.Items {
		if connectionID(string(i.ID), s) == "" {
			return page{}, unlistable(fmt.Sprintf("item %d of a page has no usable id", n))
		}
		p.found = append(p.found, i.found())
	}
	if body.Links == nil || body.Links.Next == nil || body.Links.Next.Href == nil || *body.Links.Next.Href == "" {
		if body.Page.value.Next != "" || body.Token != "" {
			return page{}, unlistable("the page has a successor, but no link to it")
		}
		return p, nil
	}
	next, err := c.nextQuery(*body.Links.Next.Href)
	if err != nil {
		return page{}, err
	}
	p.next = next
	return p, nil
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
