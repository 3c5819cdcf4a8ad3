package vaulttest

import (
	"io"
	"net/http"
	"strconv"
	"strings"
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

func (o Outage) hits(path string) bool {
	return (o.Hang || o.Status != 0) && strings.HasPrefix(path, o.Path)
}

// SetOutage begins an outage in place of the present one; the zero Outage ends it.
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
	hit := o.hits(r.URL.Path)
	if hit && o.Times > 0 {
		if s.outage.Times--; s.outage.Times == 0 {
			s.outage = Outage{}
		}
	}
	s.mu.Unlock()
	if !hit {
		return false
	}
	if o.Hang {
		return !hang(w, r, cleared)
	}
	o.write(w)
	return true
}

// hang waits, and reports whether the truth is to be told after it.
func hang(w *reply, r *http.Request, cleared <-chan struct{}) bool {
	select {
	case <-cleared:
		return true
	case <-r.Context().Done():
		w.status = 0
		return false
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
	_, _ = io.WriteString(w, o.Body) // the client has gone; there is nobody to tell
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
