package vaulttest

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Outage is a way for the server to fail. The zero value is none.
type Outage struct {
	Status     int           // answered instead of the truth, such as 500, 502, 503, 429 or 412
	Hang       bool          // no answer until the caller leaves or the outage changes; then the truth
	Path       string        // only paths that begin so, such as "/v1/auth/"; empty means all
	Times      int           // how many requests it lasts; 0 means until it is changed
	RetryAfter time.Duration // sent as Retry-After, in whole seconds; 0 means not sent
	Body       string        // sent as it is, as a proxy would; empty means Vault's own form
}

// SetOutage replaces the outage; the zero Outage ends it.
func (s *Server) SetOutage(o Outage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outage = o
	close(s.cleared)
	s.cleared = make(chan struct{})
}

// faulty lets the outage have the request, and reports whether that answered it.
func (s *Server) faulty(w *reply, r *http.Request) bool {
	s.mu.Lock()
	o, cleared := s.outage, s.cleared
	hit := (o.Hang || o.Status != 0) && strings.HasPrefix(r.URL.Path, o.Path)
	if hit && o.Times > 0 {
		if s.outage.Times--; s.outage.Times == 0 {
			s.outage = Outage{}
		}
	}
	s.mu.Unlock()
	if !hit {
		return false
	}
	if !o.Hang {
		o.write(w)
		return true
	}
	select {
	case <-cleared:
		return false
	case <-r.Context().Done():
		w.status = 0
		return true
	}
}

func (o Outage) write(w *reply) {
	if o.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(o.RetryAfter/time.Second)))
	}
	if o.Body == "" {
		w.fail(o.Status, "internal error")
		return
	}
	w.WriteHeader(o.Status)
	_, _ = io.WriteString(w, o.Body) // the client has gone; nobody listens
}

// Deny refuses the given paths to all tokens but root. A path is written as in a policy, without
// "/v1/"; a "*" at its end stands for anything.
func (s *Server) Deny(paths ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = append(s.denied, paths...)
}

// Permit takes back every Deny.
func (s *Server) Permit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = nil
}

func (s *Server) isDenied(tok *token, path string) bool {
	return !tok.root && matchesAny(s.denied, path)
}

// allows is Vault's policy check, made small.
func (s *Server) allows(tok *token, path string) bool {
	if tok.root {
		return true
	}
	self := strings.HasPrefix(path, "auth/token/") && strings.HasSuffix(path, "-self")
	return !s.isDenied(tok, path) && (self || matchesAny(tok.allow, path))
}

func matchesAny(patterns []string, path string) bool {
	for _, p := range patterns {
		if prefix, ok := strings.CutSuffix(p, "*"); p == path || ok && strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

// Request is one entry of the request log. It holds no header and no body, so no secret.
type Request struct {
	Method string
	Path   string // with "/v1/", without query
	Status int    // what was answered; 0 where the caller left first
}

// maxLog is how many of the latest requests are kept.
const maxLog = 1024

type requestLog struct {
	mu      sync.Mutex
	entries []Request
	changed chan struct{} // closed at every new entry
}

func (l *requestLog) add(r Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == maxLog {
		l.entries = append(l.entries[:0], l.entries[1:]...)
	}
	l.entries = append(l.entries, r)
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *requestLog) snapshot() ([]Request, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Request(nil), l.entries...), l.changed
}

// Requests returns the latest requests, at most 1024, the oldest first. A request enters the log when
// it has been answered.
func (s *Server) Requests() []Request {
	entries, _ := s.log.snapshot()
	return entries
}

// Count returns how many of the latest requests have a path that begins with prefix, such as
// "/v1/secret/".
func (s *Server) Count(prefix string) int { return countPrefix(s.Requests(), prefix) }

// Wait returns when at least n of the latest requests have a path that begins with prefix, or with
// ctx's error.
func (s *Server) Wait(ctx context.Context, prefix string, n int) error {
	for {
		entries, changed := s.log.snapshot()
		if countPrefix(entries, prefix) >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func countPrefix(entries []Request, prefix string) int {
	n := 0
	for _, r := range entries {
		if strings.HasPrefix(r.Path, prefix) {
			n++
		}
	}
	return n
}
