package ops

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

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
	if m.Query = text(query); len(query) > provision.MaxKeyPart {
		m.Query = text(shorten(query, maxShown))
	}
	code := http.StatusOK
	switch {
	case trouble != "":
		code, m.Heading, m.Text = http.StatusBadGateway, "The search failed", text(trouble)
	case len(found) == 0:
		code, m.Heading = http.StatusNotFound, "No request has exactly this id"
		m.Text, m.Rows = p.instead(r.Context(), query, snap.At)
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

// instead returns what there is to say and to show where no request has the id.
func (p *pages) instead(ctx context.Context, query string, now time.Time) (words string, rows []requestRow) {
	if len(query) > provision.MaxKeyPart {
		return fmt.Sprintf("An id has at most %d bytes, and this text has %s.", provision.MaxKeyPart, number(len(query))), nil
	}
	requests, _ := p.requests(ctx)
	words = "The ledger knows a request from when a worker has first taken it up, until 30 days after its last change."
	if rows = near(requests, query, now); len(rows) > 0 {
		words += " These of the latest have it in their id, name or connection:"
	}
	return words, rows
}

// find returns the record whose key was given, those with the id, and what went wrong. What is too
// long for an id is no request's.
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
		switch rec, err := p.Sources.Ledger.Record(ctx, key); {
		case err == nil:
			found = append(found, rec) // another request may have this very text as its id
		case !errors.Is(err, provision.ErrNoRecord):
			return nil, shorten(err.Error(), maxReasonLen)
		}
	}
	if len(query) > provision.MaxKeyPart {
		return found, ""
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
