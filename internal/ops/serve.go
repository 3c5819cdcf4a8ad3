// Package ops lets people and probes look at a running worker: liveness, readiness and metrics on one
// handler, and a read-only status page with its JSON on another, which only operators may reach.
//
// No endpoint changes anything, none shows a secret, and only GET and HEAD are answered. The package
// holds no connection to anything: what it shows comes from functions that it is given.
package ops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of a server. A profile of the usual 30 s must fit into the time for an answer.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 60 * time.Second
	idleTimeout       = 60 * time.Second
	shutdownTimeout   = 5 * time.Second
	maxHeaderBytes    = 16 << 10
	maxConns          = 128 // probes, Prometheus and a few operators need a dozen
)

// What a browser may do with an answer. The pages load their own style, script and icon and listen to
// their own events, and no script can turn text into markup. Everything else loads nothing, and nothing
// may be framed.
const (
	contentPolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	pagePolicy    = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; " +
		"form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

// NewHandler returns the handler for probes and Prometheus: /metrics (the text format, or OpenMetrics
// with exemplars on request), /healthz and /readyz. Anything but GET and HEAD is answered with 405. It
// answers to every host name, for probes use all sorts, and shows nothing of any tenant.
func NewHandler(health *Health, metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: 4,
		Timeout:             readTimeout,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		report := health.Report(r.Context())
		code := http.StatusOK
		if !report.Ready {
			code = http.StatusServiceUnavailable
		}
		writeJSON(w, code, report)
	})
	return withHeaders(mux, contentPolicy)
}

// StatusOptions say how the status page is served.
type StatusOptions struct {
	Pprof bool // serve /debug/pprof too
}

// NewStatusHandler returns the handler for operators: / and /requests/… for people, /status.json and
// /requests/….json for their programs. Each answer costs reads of the ledger and may name tenants, so it
// answers only requests whose Host is localhost or an address, for a web page could have its own name
// resolve to this address and read along; and it refuses what a browser asks for on behalf of another
// site's page, except to follow its links. Anything but GET and HEAD is answered with 405.
func NewStatusHandler(s *Status, o StatusOptions) http.Handler {
	mux := http.NewServeMux()
	newPages(s).mount(mux)
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, s.Snapshot(r.Context()))
	})
	if o.Pprof { // without pprof's cmdline: a command line may hold secrets
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", http.NotFound)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !knownHost(r.Host):
			http.Error(w, "this host name is not one of the status page's; ask for it by address or as localhost", http.StatusForbidden)
		case crossSite(r.Header):
			http.Error(w, "another site's page asks for this; the status page can only be opened, not embedded", http.StatusForbidden)
		default:
			mux.ServeHTTP(w, r)
		}
	})
	return withHeaders(guarded, pagePolicy)
}

// knownHost reports whether the status page answers to the host. Any address is fine: only a name can be
// made to resolve to this machine behind its users' backs.
func knownHost(hostPort string) bool {
	host := hostPort
	if h, _, err := net.SplitHostPort(hostPort); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	_, err := netip.ParseAddr(host)
	return err == nil || host == "localhost"
}

// crossSite reports whether a browser says that it loads a part of another origin's page, rather than
// following a link. Programs other than browsers say nothing.
func crossSite(h http.Header) bool {
	switch h.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return false
	}
	return h.Get("Sec-Fetch-Mode") != "navigate" || h.Get("Sec-Fetch-Dest") != "document"
}

// withHeaders adds the headers that keep a browser from doing more with an answer than to show it, and
// other sites' pages from reading or framing it. There are no CORS headers: nobody else may read.
func withHeaders(next http.Handler, policy string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// stoppingKey is the context key of the channel that is closed when the server begins to stop.
type stoppingKey struct{}

// Serve answers on ln until ctx ends, then gives requests under way a few seconds; streams of events end
// at once. It closes ln, and returns nil after an orderly end. Every step of a request has a time limit,
// headers are at most 16 KiB, and there are at most 128 connections. It speaks neither TLS nor HTTP/2.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	outliving := context.WithValue(context.WithoutCancel(ctx), stoppingKey{}, ctx.Done())
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         (&connLimit{max: maxConns}).changed,
		BaseContext:       func(net.Listener) context.Context { return outliving },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	select {
	case err := <-ended:
		return fmt.Errorf("ops: serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(outliving, shutdownTimeout)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close() // nothing is lost with an answer that is still under way
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// connLimit bounds a server's connections. When there is one too many, the one that has been without a
// request for longest is closed, so clients that send nothing, or half a header, can't keep a probe out.
// If all of them are serving requests, the new one is closed.
type connLimit struct {
	max int

	mu      sync.Mutex
	changes uint64
	conns   map[net.Conn]uint64 // :: connection → the change since which it waits for a request; 0 while it has one
}

// changed is an http.Server.ConnState. To net/http a connection has a request from the moment that a
// whole header was read.
func (l *connLimit) changed(c net.Conn, state http.ConnState) {
	if evicted := l.note(c, state); evicted != nil {
		_ = evicted.Close() // its own goroutine sees it, and reports StateClosed
	}
}

// note returns the connection to close, if any.
func (l *connLimit) note(c net.Conn, state http.ConnState) (evicted net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns = map[net.Conn]uint64{}
	}
	l.changes++
	_, known := l.conns[c]
	switch {
	case state == http.StateNew, known && state == http.StateIdle:
		l.conns[c] = l.changes
	case known && state == http.StateActive:
		l.conns[c] = 0
	case state == http.StateClosed, state == http.StateHijacked:
		delete(l.conns, c)
	}
	if len(l.conns) <= l.max {
		return nil
	}
	evicted = c
	for other, since := range l.conns {
		if since != 0 && since < l.conns[evicted] {
			evicted = other
		}
	}
	delete(l.conns, evicted)
	return evicted
}
