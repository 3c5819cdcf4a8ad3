package ops

import (
	"bytes"
	_ "embed"
	"html/template"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

//go:embed page.html
var pageText string

// page is the parsed template. It is never changed.
var page = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("status").Funcs(template.FuncMap{
		"time":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") },
		"duration": func(seconds float64) string { return time.Duration(seconds * 1e9).Round(time.Second).String() },
	}).Parse(pageText))
})

// contentPolicy lets the page load nothing at all and be framed by no one; 'unsafe-inline' is for the
// one style element, and allows no script.
const contentPolicy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// StatusOptions say how the status page is served.
type StatusOptions struct {
	Hosts []string // names, beside localhost and addresses, that it may be asked for by
	Pprof bool     // serve /debug/pprof too
}

// NewStatusHandler returns the handler that operators look at: / for people, /status.json for their
// programs. It answers only requests whose Host is localhost, an address or one of the given names:
// otherwise a web page could have its own name resolve to this address and read along. Anything but
// GET and HEAD is answered with 405.
func NewStatusHandler(s *Status, o StatusOptions) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.servePage)
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, s.Snapshot(r.Context()))
	})
	if o.Pprof {
		mountPprof(mux)
	}
	return guard(mux, o.Hosts)
}

// mountPprof leaves out pprof's cmdline: a command line may hold secrets.
func mountPprof(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", http.NotFound)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}

func (s *Status) servePage(w http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer // so that an error does not leave half a page
	if err := page().Execute(&body, s.Snapshot(r.Context())); err != nil {
		http.Error(w, "the page cannot be written", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = body.WriteTo(w)
}

// reserved sets the headers that keep a browser from doing more with an answer than to show it, and
// others' pages from reading it or holding it in a frame. There are no CORS headers: nobody else may read.
func reserved(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY") // for what does not know frame-ancestors
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// guard refuses foreign hosts.
func guard(next http.Handler, hosts []string) http.Handler {
	return reserved(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !knownHost(r.Host, hosts) {
			http.Error(w, "this host name is not one of the status page's; ask for it by address or as localhost", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	}))
}

// knownHost reports whether a request may name the host. An address is fine, whatever it is: only a
// name can be made to resolve to this machine behind its users' backs.
func knownHost(hostPort string, hosts []string) bool {
	host := hostPort
	if h, _, err := net.SplitHostPort(hostPort); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" {
		return true
	}
	return slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, host) })
}
