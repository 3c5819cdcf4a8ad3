package flow

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http/httptrace"
	"slices"
	"sync"
	"time"
)

var (
	errTooLate = errors.New("the time for this POST is over")
	errSealed  = errors.New("the call was given up before it was sent")
	errNoFence = errors.New("flow: bug: a POST without a fence")
	errEnded   = errors.New("the connection was closed because a POST on it was given up before it was written")
)

// fence stands between one POST and its network connection. It lets no byte through after its time
// or after it was sealed, and knows whether any byte of the request may have gone through.
//
// The check is made in each Write, right before the system call: a process that is stopped between
// planning a POST and sending it, and goes on after the time is over, sends nothing.
type fence struct {
	wall time.Time // without a monotonic reading: right even if the machine was suspended
	mono time.Time // with one: right even if the wall clock was set back

	mu      sync.Mutex
	armed   bool // the connection is set up; what is written from now on is the request
	sealed  bool
	writing int         // Writes under way
	sent    bool        // at least one byte was accepted by the network, or that can't be ruled out
	shared  *fencedConn // the HTTP/2 connection that the request may still write to; nil with HTTP/1.1
	own     *fencedConn // the HTTP/1.1 connection that the request has, until done
	reused  bool        // own was used before
}

// newFence returns a fence that closes at notAfter, or at ctx's deadline if that is earlier.
func newFence(ctx context.Context, notAfter time.Time) *fence {
	now := time.Now()
	f := &fence{wall: notAfter.Round(0), mono: monotonic(now, notAfter)}
	if d, ok := ctx.Deadline(); ok {
		f.wall, f.mono = earlier(f.wall, d.Round(0)), earlier(f.mono, monotonic(now, d))
	}
	return f
}

// monotonic returns t with a monotonic reading. If t has one already, the earlier of the two counts:
// they differ if the wall clock was set since.
func monotonic(now, t time.Time) time.Time {
	return earlier(now.Add(t.Round(0).Sub(now.Round(0))), t)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// check returns errTooLate once the time is over by either clock.
func (f *fence) check() error {
	now := time.Now()
	if !now.Before(f.mono) || !now.Round(0).Before(f.wall) {
		return errTooLate
	}
	return nil
}

// arm marks the end of dialing and handshakes, and puts the fence on the connection that the request got, which may
// have been dialed for another one, or be used by others. Where that can't be done nothing can be said of what
// goes through: then the request counts as sent. A second call means that net/http, which gave up the first connection
// without having written to it, tries another one.
func (f *fence) arm(got httptrace.GotConnInfo) {
	f.armOn(fencedConnOf(got.Conn), speaksHTTP2(got.Conn))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reused = got.Reused
}

func (f *fence) armOn(c *fencedConn, http2 bool) {
	f.written(httptrace.WroteRequestInfo{}) // to the first connection nothing is written any more
	f.done(false)
	var shared, own *fencedConn
	var err error
	switch {
	case c == nil:
		err = errNoFence
	case http2:
		c.share(f)
		shared = c
	default:
		if err = errTooLate; c.acquire(f.mono) {
			err, own = c.use(f), c
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = f.sent || err != nil
	f.armed = true
	f.shared, f.own = shared, own
}

// written takes the fence off an HTTP/2 connection. There net/http reports the request as written after its last byte
// is flushed, or after it stopped writing for good. With HTTP/1.1 the report comes before the last flush, so it is no
// help.
func (f *fence) written(httptrace.WroteRequestInfo) {
	f.mu.Lock()
	c := f.shared
	f.shared = nil
	f.mu.Unlock()
	if c != nil {
		c.unshare(f)
	}
}

// answered marks the request as sent, whatever was seen of it going through.
func (f *fence) answered() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = true
}

// fencedConnOf returns the connection to the network below conn, or nil if it has no fence.
func fencedConnOf(conn net.Conn) *fencedConn {
	for {
		switch c := conn.(type) {
		case *fencedConn:
			return c
		case interface{ NetConn() net.Conn }: // TLS
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

// speaksHTTP2 reports whether conn carries many requests at once.
func speaksHTTP2(conn net.Conn) bool {
	c, ok := conn.(*tls.Conn)
	return ok && c.ConnectionState().NegotiatedProtocol == "h2"
}

// seal stops all further writes and reports whether a byte of the request may have been sent. Only
// after it the answer "none" is final: net/http may still be about to write when it returns. An HTTP/2 connection
// that the request was not yet written to as a whole is closed, for nobody knows whose bytes come next.
func (f *fence) seal() bool {
	f.mu.Lock()
	f.sealed = true
	sent, c := f.sent || f.armed && f.writing > 0, f.shared
	f.mu.Unlock()
	if c != nil {
		c.end()
	}
	return sent
}

// release ends the call of a POST that has an answer. The answer can come before net/http has reported the request as
// written: then the fence stays on its HTTP/2 connection until that report, and others go on using it.
func (f *fence) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sealed = f.sealed || f.shared == nil
}

// repeats reports whether id is what the request before on the same HTTP/1.1 connection was answered with, too: then
// the server answered that one twice, and the answer is not this request's.
func (f *fence) repeats(id string) bool {
	f.mu.Lock()
	c := f.own
	f.mu.Unlock()
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	repeated := c.last == id
	c.last = id
	return repeated
}

// lost reports whether the HTTP/1.1 connection that the request got had been ended by then.
func (f *fence) lost() bool {
	f.mu.Lock()
	c := f.own
	f.mu.Unlock()
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// done ends the use of an HTTP/1.1 connection. One that is not kept is closed, lest what else the server sends on it
// be taken for the answer to the next request; that is so after all but a plain success. It reports whether the
// connection had been used before.
func (f *fence) done(keep bool) (reused bool) {
	f.mu.Lock()
	c := f.own
	f.own = nil
	reused = f.reused
	f.mu.Unlock()
	if c == nil {
		return false
	}
	if !keep {
		c.end()
	}
	<-c.taken // put there by acquire
	return reused
}

// beginWrite lets a Write through, or says why not. One that it refuses sends nothing.
func (f *fence) beginWrite() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sealed {
		return errSealed
	}
	if err := f.check(); err != nil {
		return err
	}
	f.writing++
	return nil
}

// endWrite ends a Write of which n bytes went out.
func (f *fence) endWrite(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writing--
	f.sent = f.sent || f.armed && n > 0
}

type fenceKey struct{}

// fenced returns a context that carries f to the connection that is dialed under it.
func fenced(ctx context.Context, f *fence) context.Context {
	ctx = context.WithValue(ctx, fenceKey{}, f)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              f.arm,
		WroteRequest:         f.written,
		GotFirstResponseByte: f.answered,
	})
}

// fencedDial wraps what dial returns in a fence that closes when that of the call does. A call without a fence gets no
// connection.
func fencedDial(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		f, ok := ctx.Value(fenceKey{}).(*fence)
		if !ok {
			return nil, errNoFence
		}
		ctx, cancel := context.WithDeadline(ctx, f.mono) // net/http dials on when its request was given up
		defer cancel()
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c := newFencedConn(conn)
		// No byte of a request is written before arm. The fence here is not the call's own, which may be sealed when
		// others already wait for this connection.
		if err := c.use(&fence{wall: f.wall, mono: f.mono}); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return c, nil
	}
}

// fencedConn is a connection with the fences of the requests that may write to it.
//
// With HTTP/1.1 that is one at a time: net/http gives the connection to the next request when the one before is written
// and answered whole. With HTTP/2 there are as many as got the connection and are not yet written whole. A Write may
// hold bytes of any of them, so it needs all their fences open and counts as sent for each. A fence that is closed ends
// the connection: what was written before counts as sent, and is looked up; what follows is not sent. That hits as many
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

// acquire waits until the answer to the HTTP/1.1 request before is judged, which it is within microseconds of net/http's
// giving the connection away. It returns false if that does not come in time.
func (c *fencedConn) acquire(until time.Time) bool {
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
	begun := make([]*fence, 0, 16)
	n, err := 0, error(nil)
	c.mu.Lock()
	if c.ended {
		err = errEnded
	}
	for _, f := range c.fences {
		if err == nil {
			err = f.beginWrite()
		}
		if err != nil {
			break
		}
		begun = append(begun, f)
	}
	http2 := c.http2
	c.mu.Unlock()
	if err == nil {
		n, err = c.Conn.Write(b)
	} else if http2 {
		c.end() // net/http does not look at every error
	}
	for _, f := range begun {
		f.endWrite(n)
	}
	return n, err
}
