package ops

import (
	"net"
	"net/http"
	"sync"
)

// maxConns is how many connections a server keeps. Probes, Prometheus and a few operators need a dozen.
const maxConns = 128

// connLimit bounds a server's connections. When one too many comes, the one that has been without a
// request for longest has to go: so clients that open connections and send nothing, or half a header,
// can't keep a probe out. Where every connection is at work, the new one goes.
type connLimit struct {
	max int

	mu    sync.Mutex
	turn  uint64              // grows with every change
	conns map[net.Conn]uint64 // :: connection → turn since which it has waited for a request; 0 while at work
}

// changed is an http.Server.ConnState. To net/http a connection is at work from the moment that it has
// read a whole header.
func (l *connLimit) changed(c net.Conn, state http.ConnState) {
	if extra := l.note(c, state); extra != nil {
		_ = extra.Close() // its own goroutine sees it, and tells of StateClosed
	}
}

// note returns the connection that has to go, if any.
func (l *connLimit) note(c net.Conn, state http.ConnState) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn++
	switch state {
	case http.StateNew:
		return l.admit(c)
	case http.StateActive:
		l.set(c, 0)
	case http.StateIdle:
		l.set(c, l.turn)
	case http.StateClosed, http.StateHijacked:
		delete(l.conns, c)
	}
	return nil
}

// set leaves out connections that were told to go: they count no more.
func (l *connLimit) set(c net.Conn, waiting uint64) {
	if _, ok := l.conns[c]; ok {
		l.conns[c] = waiting
	}
}

func (l *connLimit) admit(c net.Conn) net.Conn {
	if l.conns == nil {
		l.conns = map[net.Conn]uint64{}
	}
	l.conns[c] = l.turn
	if len(l.conns) <= l.max {
		return nil
	}
	out := c
	for each, waiting := range l.conns {
		if waiting != 0 && waiting < l.conns[out] {
			out = each
		}
	}
	delete(l.conns, out)
	return out
}
