//go:build soak

package soak

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

// meter counts the requests on their way to a handler.
type meter struct {
	next    http.Handler
	mu      sync.Mutex
	at      []time.Time
	aborted int // POSTs of connections whose client had gone before the answer
}

func newMeter(next http.Handler) *meter { return &meter{next: next} }

// ServeHTTP implements http.Handler.
func (m *meter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.at = append(m.at, time.Now())
	m.mu.Unlock()
	m.next.ServeHTTP(w, r)
	// While a handler runs, only the client's going ends the request's context.
	if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/connections") && r.Context().Err() != nil {
		m.mu.Lock()
		m.aborted++
		m.mu.Unlock()
	}
}

func (m *meter) cut() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.aborted
}

// rates returns the number of requests in each whole second of [from, to).
func (m *meter) rates(from, to time.Time) []int {
	bins := make([]int, max(0, int(to.Sub(from)/time.Second)))
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, at := range m.at {
		if i := int(at.Sub(from) / time.Second); !at.Before(from) && i < len(bins) {
			bins[i]++
		}
	}
	return bins
}
