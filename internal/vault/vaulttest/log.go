package vaulttest

import (
	"context"
	"strings"
	"sync"
)

// Request is one line of the request log. It holds no header and no body, so no secret.
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
