package ops

import (
	"bytes"
	"context"
	"embed"
	"errors"
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

// addressed takes the path of a story apart. What is a key leads to its page, also where its id is "json": a key
// has three parts, and ".json" behind one makes a fourth.
func addressed(path string) (name string, asJSON bool) {
	if _, err := provision.ParseKey(path); err == nil {
		return path, false
	}
	return strings.CutSuffix(path, ".json")
}

// request answers with one request's story, as a page or, where ".json" follows its key, as JSON.
func (p *pages) request(w http.ResponseWriter, r *http.Request) {
	name, asJSON := addressed(r.PathValue("key"))
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
	return tell(rec, time.Now()), http.StatusOK, ""
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
