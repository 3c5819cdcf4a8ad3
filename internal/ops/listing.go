package ops

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// storyURL returns where a request's story is. A key has no characters that a URL gives a meaning to.
func storyURL(k provision.Key) string { return "/requests/" + k.String() }

func rowOf(r Request, now time.Time) requestRow {
	row := requestRow{URL: storyURL(r.Key), ID: text(r.Key.ID), Tenant: text(r.Key.Tenant), Source: text(r.Key.Source), Name: text(r.Name),
		At: machine(r.UpdatedAt), Ago: ago(now, r.UpdatedAt),
		Posts: number(r.Posts), What: text(r.Hindrance)}
	row.State, row.Tone = pill(r)
	switch {
	case r.Reason != "":
		row.What = text(string(r.Reason) + ": " + r.Hindrance)
	case r.Connection != "":
		row.What = "connection " + text(r.Connection)
	}
	return row
}

// pill says in a word or two where a request stands, and how that is to be taken.
func pill(r Request) (words, tone string) {
	switch {
	case r.Adopted:
		return "adopted", "good"
	case r.heldUp():
		return "held up", "odd"
	}
	return cmp.Or(stateNames[r.State], text(string(r.State))), stateTones[r.State]
}

// heldUp reports whether something was in the way before the first POST.
func (r Request) heldUp() bool { return r.State == provision.StateClaimed && r.Hindrance != "" }

// group is a choice of states to list.
type group struct {
	name, label string
	states      []provision.State // empty means all
}

var groups = []group{
	{"", "All latest", nil},
	{"open", "Not ended", []provision.State{provision.StateClaimed, provision.StatePosting, provision.StateUnknown, provision.StateWaiting}},
	{"unknown", "Looked up", []provision.State{provision.StateUnknown}},
	{"waiting", "Waiting or held up", []provision.State{provision.StateWaiting}},
	{"failed", "Failed", []provision.State{provision.StateFailed}},
	{"created", "Created", []provision.State{provision.StateCreated}},
}

func (g group) has(r Request) bool {
	return len(g.states) == 0 || slices.Contains(g.states, r.State) || g.name == "waiting" && r.heldUp()
}

// choice is what is to be listed, as the query of the page's URL says.
type choice struct{ group, tenant string }

// choiceOf returns the choice, or what is wrong with it: to show all instead would pass for an answer.
func choiceOf(q url.Values) (c choice, trouble string) {
	c = choice{group: q.Get("state"), tenant: q.Get("tenant")}
	if !slices.ContainsFunc(groups, func(g group) bool { return g.name == c.group }) {
		return choice{}, "state=" + text(shorten(c.group, maxShown)) + " is none. There are " + groupNames() + "."
	}
	if c.tenant != "" && !provision.ValidTenant(c.tenant) {
		return choice{}, "tenant=" + text(shorten(c.tenant, maxShown)) + " is none: a tenant has 1 to 63 of a-z, 0-9, _ and -."
	}
	return c, ""
}

// maxShown is how many bytes are shown of what somebody asked for.
const maxShown = 80

func groupNames() string {
	var names []string
	for _, g := range groups[1:] {
		names = append(names, "state="+g.name)
	}
	return strings.Join(names, ", ")
}

// filtersNote says what the numbers beside the filters count.
var filtersNote = fmt.Sprintf("Counted are only the latest requests, of each state at most %d.", maxPerState)

// maxListed is how many requests are shown.
const maxListed = 50

// listed returns the rows of what was chosen, and a word on what is not among them.
func listed(requests []Request, c choice, now time.Time) (rows []requestRow, note string) {
	g := groups[slices.IndexFunc(groups, func(g group) bool { return g.name == c.group })]
	matching := 0
	for _, r := range requests {
		if !g.has(r) || c.tenant != "" && r.Key.Tenant != c.tenant {
			continue
		}
		if matching++; matching <= maxListed {
			rows = append(rows, rowOf(r, now))
		}
	}
	switch {
	case matching == 0:
		note = "None among the requests that were written lately."
	case matching > maxListed:
		note = fmt.Sprintf("These are the latest %d. A search by id finds every request of the last 30 days, and so does worker list.", maxListed)
	}
	return rows, note
}

// filters returns the links by which states are chosen, with how many requests each would show.
func filters(requests []Request, c choice) []filterLink {
	links := make([]filterLink, len(groups))
	for i, g := range groups {
		n := 0
		for _, r := range requests {
			if g.has(r) && (c.tenant == "" || r.Key.Tenant == c.tenant) {
				n++
			}
		}
		links[i] = filterLink{Label: g.label, Count: number(n), URL: choice{g.name, c.tenant}.url("/")}
		if g.name == c.group {
			links[i].Current = "true"
		}
	}
	return links
}

// near returns those of the requests that have the text in their id, name or connection.
func near(requests []Request, query string, now time.Time) (rows []requestRow) {
	query = strings.ToLower(query)
	for _, r := range requests {
		for _, in := range []string{r.Key.ID, r.Name, r.Connection} {
			if strings.Contains(strings.ToLower(in), query) {
				rows = append(rows, rowOf(r, now))
				break
			}
		}
	}
	return rows[:min(len(rows), maxFound)]
}

// url returns the page that shows the choice.
func (c choice) url(page string) string {
	q := url.Values{}
	if c.group != "" {
		q.Set("state", c.group)
	}
	if c.tenant != "" {
		q.Set("tenant", c.tenant)
	}
	if len(q) == 0 {
		return page
	}
	return page + "?" + q.Encode()
}
