package ops

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// search answers /requests?id=…: the one request with the id leads to its story, several are listed, and
// where there is none, what is like it among the latest.
func (p *pages) search(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query().Get("id")
	if strings.TrimSpace(query) == "" {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	found, trouble := p.find(r.Context(), query)
	if len(found) == 0 && trouble == "" && query != strings.TrimSpace(query) { // as it was pasted
		query = strings.TrimSpace(query)
		found, trouble = p.find(r.Context(), query)
	}
	if len(found) == 1 {
		http.Redirect(w, r, storyURL(found[0].Key), http.StatusSeeOther)
		return
	}
	snap := p.current(r.Context())
	m := message{frame: p.frame(snap)}
	m.Query = text(query)
	code := http.StatusOK
	switch {
	case trouble != "":
		code, m.Heading, m.Text = http.StatusBadGateway, "The search failed", text(trouble)
	case len(found) == 0:
		requests, _ := p.requests(r.Context())
		m.Rows = near(requests, query, snap.At)
		code, m.Heading, m.Text = http.StatusNotFound, "No request has exactly this id", "The ledger knows a request from when a worker has first taken it up, until 30 days after its last change."
		if len(m.Rows) > 0 {
			m.Text += " These of the latest have it in their id, name or connection:"
		}
	default:
		m.Heading = fmt.Sprintf("%d requests have this id", len(found))
		m.Text = "They are of several tenants or sources."
		for _, rec := range found {
			row := rowOf(requestOf(Written{Record: rec}), snap.At)
			row.Name += " from " + row.Source
			m.Rows = append(m.Rows, row)
		}
	}
	m.Title = m.Heading + " · flow-worker"
	p.render(w, code, "message.html", m)
}

// find returns the records with the id, or the one whose key was given, and what went wrong.
func (p *pages) find(ctx context.Context, query string) (found []provision.Record, trouble string) {
	if p.Sources.Ledger == nil {
		return nil, errNoLedger.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	select {
	case p.searches <- struct{}{}:
		defer func() { <-p.searches }()
	case <-ctx.Done():
		return nil, "too many searches are under way; try again"
	}
	if key, err := provision.ParseKey(query); err == nil {
		if rec, err := p.Sources.Ledger.Record(ctx, key); err == nil {
			return []provision.Record{rec}, ""
		}
	}
	for rec, err := range p.Sources.Ledger.ByID(ctx, query) {
		if err != nil {
			return nil, shorten(err.Error(), maxReasonLen)
		}
		if found = append(found, rec); len(found) == maxFound {
			break
		}
	}
	return found, ""
}
