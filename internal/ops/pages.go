package ops

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

//go:embed web
var web embed.FS

// templates are never changed.
var templates = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("").ParseFS(web, "web/*.html"))
})

// pages serves what people look at. All that it shows is looked up when it is asked for, at most once a
// second, however many ask.
type pages struct {
	*Status
	latest   *latest // nil where there is no ledger
	streams  chan struct{}
	searches chan struct{}

	mu   sync.Mutex // held while somebody looks
	at   time.Time
	snap Snapshot
}

// maxSearches is how many searches of the ledger there are at once.
const maxSearches = 4

func newPages(s *Status) *pages {
	p := &pages{Status: s, streams: make(chan struct{}, maxStreams), searches: make(chan struct{}, maxSearches)}
	if s.Sources.Ledger != nil {
		p.latest = newLatest(s.Sources.Ledger)
	}
	return p
}

func (p *pages) mount(mux *http.ServeMux) {
	for name, kind := range map[string]string{"style.css": "text/css", "app.js": "text/javascript", "icon.svg": "image/svg+xml"} {
		body, _ := web.ReadFile("web/" + name) // a missing one fails the tests
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind+"; charset=utf-8")
			_, _ = w.Write(body)
		})
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		c, trouble := choiceOf(r.URL.Query())
		if trouble != "" {
			p.render(w, http.StatusBadRequest, "message.html", message{frame: p.frame(p.current(r.Context())), Heading: "No such filter", Text: trouble})
			return
		}
		p.render(w, http.StatusOK, "overview.html", p.look(r.Context(), c))
	})
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		c, trouble := choiceOf(r.URL.Query())
		if trouble != "" {
			http.Error(w, "no such filter: "+trouble, http.StatusBadRequest)
			return
		}
		p.stream(w, r, func(ctx context.Context) any { return p.look(ctx, c) })
	})
	mux.HandleFunc("GET /requests", p.search)
	mux.HandleFunc("GET /requests/{key}", p.request)
	mux.HandleFunc("GET /requests/{key}/events", p.requestEvents)
}

// current returns a snapshot that is at most a second old.
func (p *pages) current(ctx context.Context) Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at.IsZero() || time.Since(p.at) >= streamEvery {
		p.snap = p.Snapshot(context.WithoutCancel(ctx)) // it is for all who ask; its parts have time limits
		p.at = time.Now()
	}
	return p.snap
}

func (p *pages) look(ctx context.Context, c choice) overview {
	requests, trouble := p.requests(ctx)
	return p.overview(p.current(ctx), requests, trouble, c)
}

func (p *pages) requests(ctx context.Context) ([]Request, string) {
	if p.latest == nil {
		return nil, errNoLedger.Error()
	}
	return p.latest.list(ctx)
}

func (p *pages) render(w http.ResponseWriter, code int, name string, data any) {
	var body bytes.Buffer // so that an error does not leave half a page
	if err := templates().ExecuteTemplate(&body, name, data); err != nil {
		http.Error(w, "the page cannot be written", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	_, _ = body.WriteTo(w)
}

// message is a page that says why there is nothing to see.
type message struct {
	frame
	Heading, Text string
	Rows          []requestRow
}

var errNoLedger = errors.New("this worker knows no ledger")

// request answers with one request's story, as a page or, where ".json" follows its key, as JSON.
func (p *pages) request(w http.ResponseWriter, r *http.Request) {
	name, asJSON := r.PathValue("key"), false
	if _, err := provision.ParseKey(name); err != nil { // a key has three parts, so one that ends in ".json" needs no care
		name, asJSON = strings.CutSuffix(name, ".json")
	}
	st, code, trouble := p.story(r.Context(), name)
	switch {
	case trouble != "" && asJSON:
		writeJSON(w, code, map[string]string{"error": trouble})
	case trouble != "":
		p.render(w, code, "message.html", message{frame: p.frame(p.current(r.Context())), Heading: "No story to tell", Text: text(trouble)})
	case asJSON:
		writeJSON(w, code, st)
	default:
		p.render(w, code, "request.html", p.storyPage(p.current(r.Context()), st))
	}
}

// story returns what is known of a request, or the status code of an answer that says why nothing is.
func (p *pages) story(ctx context.Context, name string) (st Story, code int, trouble string) {
	key, err := provision.ParseKey(name)
	if err != nil {
		return st, http.StatusNotFound, "This is no request's address. It ends in <tenant>.<source>.<id>, written as the ledger writes its keys."
	}
	if p.Sources.Ledger == nil {
		return st, http.StatusNotFound, errNoLedger.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	rec, err := p.Sources.Ledger.Record(ctx, key)
	switch {
	case errors.Is(err, provision.ErrNoRecord):
		return st, http.StatusNotFound, "The ledger has no record of this request: no worker has taken it up yet, or its record was written more than 30 days ago."
	case err != nil:
		return st, http.StatusBadGateway, "The ledger can't be read: " + shorten(err.Error(), maxReasonLen)
	}
	return storyOf(rec, time.Now()), http.StatusOK, ""
}

func (p *pages) requestEvents(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("key")
	st, code, trouble := p.story(r.Context(), name)
	if trouble != "" {
		http.Error(w, trouble, code)
		return
	}
	last := p.storyPage(p.current(r.Context()), st)
	p.stream(w, r, func(ctx context.Context) any {
		if st, _, trouble := p.story(ctx, name); trouble == "" {
			last = p.storyPage(p.current(ctx), st)
		}
		return last // what can't be read now is shown as it was
	})
}

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
		m.Text = "The ledger knows a request from when a worker has first taken it up, until 30 days after its last change."
		if len(query) > provision.MaxKeyPart {
			m.Text = fmt.Sprintf("An id has at most %d bytes, and this text has %s.", provision.MaxKeyPart, number(len(query)))
			break
		}
		requests, _ := p.requests(r.Context())
		if m.Rows = near(requests, query, snap.At); len(m.Rows) > 0 {
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

// Bounds of the streams of server-sent events.
const (
	maxStreams   = 32               // at once; a browser that is refused asks again
	streamEvery  = time.Second      // between looks for what has changed
	streamQuiet  = 15 * time.Second // after which something is sent though nothing has changed
	streamLife   = 15 * time.Minute // then the browser connects again
	streamWrite  = 5 * time.Second  // for one event: who reads slower is cut off
	retryMillis  = "2000"           // how long a browser waits before it connects again
	streamsFull  = "too many people are watching; the page itself still works"
	streamsEnded = "event: bye\ndata: {}\n\n"
)

// stream sends what look returns, whenever that has changed, as server-sent events, until the reader
// goes, the worker stops or the time is over. At most maxStreams are served at once.
func (p *pages) stream(w http.ResponseWriter, r *http.Request, look func(context.Context) any) {
	select {
	case p.streams <- struct{}{}:
		defer func() { <-p.streams }()
	default:
		w.Header().Set("Retry-After", "10")
		http.Error(w, streamsFull, http.StatusServiceUnavailable)
		return
	}
	stopping, _ := r.Context().Value(stoppingKey{}).(<-chan struct{}) // nil, which is never closed, outside Serve
	ctx, cancel := context.WithTimeout(r.Context(), streamLife)
	defer cancel()
	s := sender{w: w, c: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // proxies must not hold it back
	if err := s.write([]byte("retry: " + retryMillis + "\n\n")); err != nil || r.Method == http.MethodHead {
		return
	}
	tick := time.NewTicker(streamEvery)
	defer tick.Stop()
	for {
		if err := s.send(look(ctx)); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-stopping:
			_ = s.write([]byte(streamsEnded))
			return
		}
	}
}

// sender writes events. Each has a time limit of its own, which takes the place of the server's for
// whole answers.
type sender struct {
	w    http.ResponseWriter
	c    *http.ResponseController
	last []byte // what was sent last
	at   time.Time
}

func (s *sender) send(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if bytes.Equal(data, s.last) {
		if time.Since(s.at) < streamQuiet {
			return nil
		}
		return s.write([]byte(": still here\n\n"))
	}
	s.last = data
	return s.write(append(append([]byte("data: "), data...), "\n\n"...)) // JSON has no line breaks
}

func (s *sender) write(event []byte) error {
	s.at = time.Now()
	_ = s.c.SetWriteDeadline(s.at.Add(streamWrite)) // where that can't be had the server's own stays
	if _, err := s.w.Write(event); err != nil {
		return err
	}
	return s.c.Flush()
}
