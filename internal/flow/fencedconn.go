package flow

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// fencedConn is a connection with the fences of the requests that may write to it.
//
// With HTTP/1.1 that is one at a time: net/http gives the connection to the next request when the one before is written
// and answered whole. With HTTP/2 there are as many as got the connection and are not yet written whole. A Write may
// hold bytes of any of them, so it needs all their fences open and counts as sent for each. A fence that is closed ends
// the connection: what was written before counts as sent, and is looked up; the rest is not sent. That hits as many
// POSTs as the server allows streams on a connection, commonly 100 to 256, and it is rare: a request is written within
// microseconds of getting its connection unless the process was stopped or the server does not read.
type fencedConn struct {
	net.Conn

	taken chan struct{} // holds a value while an HTTP/1.1 request has it, until its answer is judged

	mu     sync.Mutex
	fences []*fence
	http2  bool   // several fences at once
	ended  bool   // nothing is written any more
	last   string // the connection id that was last answered on it
}

func newFencedConn(conn net.Conn) *fencedConn {
	return &fencedConn{Conn: conn, taken: make(chan struct{}, 1)}
}

// take waits until the answer to the HTTP/1.1 request before is judged, which it is within microseconds of net/http's
// giving the connection away. It returns false if that does not come in time.
func (c *fencedConn) take(until time.Time) bool {
	select {
	case c.taken <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case c.taken <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}

func (c *fencedConn) leave() {
	select {
	case <-c.taken:
	default:
	}
}

// told notes the id that a request was answered with. It returns false where that was the last one's, too.
func (c *fencedConn) told(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	repeated := c.last == id
	c.last = id
	return !repeated
}

// use puts f on the connection, instead of what was on it.
func (c *fencedConn) use(f *fence) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fences = append(c.fences[:0], f)
	if c.ended {
		return nil // nothing is written to it
	}
	return c.setDeadline()
}

// share puts f on the connection, beside those of other requests.
func (c *fencedConn) share(f *fence) {
	c.mu.Lock()
	if !c.http2 {
		c.http2, c.fences = true, nil // the handshake is over
	}
	c.fences = append(c.fences, f)
	err := c.setDeadline()
	c.mu.Unlock()
	if err != nil {
		c.end()
	}
}

// unshare takes f off the connection.
func (c *fencedConn) unshare(f *fence) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.fences, f); i >= 0 {
		c.fences = slices.Delete(c.fences, i, i+1)
		_ = c.setDeadline() // it fails on a closed connection only, where nothing is written
	}
}

// setDeadline ends a Write that hangs when the first fence closes.
func (c *fencedConn) setDeadline() error {
	var end time.Time
	for i, f := range c.fences {
		if i == 0 || f.mono.Before(end) {
			end = f.mono
		}
	}
	if err := c.SetWriteDeadline(end); err != nil {
		return fmt.Errorf("set write deadline: %w", err)
	}
	return nil
}

// end closes the connection for all that use it.
func (c *fencedConn) end() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	_ = c.Conn.Close() // nothing can be done about it, and nothing is written anyway
}

// Write writes b unless a fence is closed. Frames that belong to no request, like those that answer the server's
// settings, need no fence, so they pass where there is none.
func (c *fencedConn) Write(b []byte) (int, error) {
	entered := make([]*fence, 0, 16)
	n, err := 0, error(nil)
	c.mu.Lock()
	if c.ended {
		err = errEnded
	}
	for _, f := range c.fences {
		if err == nil {
			err = f.enter()
		}
		if err != nil {
			break
		}
		entered = append(entered, f)
	}
	http2 := c.http2
	c.mu.Unlock()
	if err == nil {
		n, err = c.Conn.Write(b)
	} else if http2 {
		c.end() // net/http does not look at every error
	}
	for _, f := range entered {
		f.leave(n)
	}
	return n, err
}
