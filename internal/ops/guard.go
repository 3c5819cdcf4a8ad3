package ops

import (
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"strings"
)

// What a browser may do with an answer. The pages may load the style, the script and the icon that come
// with them, and listen to their events, and no text can become markup by a script. Nothing else may
// load anything at all, and nothing may be framed.
const (
	contentPolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	pagePolicy    = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; " +
		"form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

// StatusOptions say how the status page is served.
type StatusOptions struct {
	Hosts []string // names, beside localhost and addresses, that it may be asked for by
	Pprof bool     // serve /debug/pprof too
}

// NewStatusHandler returns the handler that operators look at: / and /requests/… for people, /status.json
// and /requests/….json for their programs. It answers only requests whose Host is localhost, an address
// or one of the given names: otherwise a web page could have its own name resolve to this address and
// read along. It refuses what a browser asks for on behalf of others' pages, but for their links: each
// answer costs reads of the ledger. Anything but GET and HEAD is answered with 405.
func NewStatusHandler(s *Status, o StatusOptions) http.Handler {
	mux := http.NewServeMux()
	newPages(s).mount(mux)
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, s.Snapshot(r.Context()))
	})
	if o.Pprof {
		mountPprof(mux)
	}
	return reserved(guard(mux, o.Hosts), pagePolicy)
}

// mountPprof leaves out pprof's cmdline: a command line may hold secrets.
func mountPprof(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", http.NotFound)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}

// reserved sets the headers that keep a browser from doing more with an answer than to show it, and
// others' pages from reading it or holding it in a frame. There are no CORS headers: nobody else may read.
func reserved(next http.Handler, policy string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY") // for what does not know frame-ancestors
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// guard refuses foreign hosts and pages.
func guard(next http.Handler, hosts []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !knownHost(r.Host, hosts) {
			http.Error(w, "this host name is not one of the status page's; ask for it by address or as localhost", http.StatusForbidden)
			return
		}
		if foreign(r.Header) {
			http.Error(w, "another site's page asks for this; the status page can only be opened, not embedded", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// foreign reports whether a browser says that it asks for a page of another origin, and not to open what it
// gets in the place of that page. What isn't a browser says nothing.
func foreign(h http.Header) bool {
	switch h.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return false
	}
	return h.Get("Sec-Fetch-Mode") != "navigate" || h.Get("Sec-Fetch-Dest") != "document"
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
