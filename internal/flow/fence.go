package flow

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errTooLate = errors.New("the time for this POST is over")
	errSealed  = errors.New("the call was given up before it was sent")
	errNoFence = errors.New("flow: bug: a POST without a fence")
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
	writing int  // Writes under way
	sent    bool // at least one byte was accepted by the network, or that can't be ruled out
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
// have been dialed for another one, or used by others before. Where that can't be done nothing can be said of what
// goes through: then the request counts as sent.
func (f *fence) arm(got httptrace.GotConnInfo) {
	err := errNoFence
	if c := fencedConnOf(got.Conn); c != nil {
		err = c.use(f)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = f.sent || err != nil
	f.armed = true
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

// seal stops all further writes and reports whether a byte of the request may have been sent. Only
// after it the answer "none" is final: net/http may still be about to write when it returns.
func (f *fence) seal() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sealed = true
	return f.sent || f.armed && f.writing > 0
}

// enter begins a Write. A Write that fails to enter sends nothing.
func (f *fence) enter() error {
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

// leave ends a Write of which n bytes went out.
func (f *fence) leave(n int) {
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
		GotConn:              f.arm, // WroteRequest comes before the last flush: no help
		GotFirstResponseByte: f.answered,
	})
}

// fencedDial wraps what dial returns in the fence of the call. A call without a fence gets no
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
		c := &fencedConn{Conn: conn}
		if err := c.use(f); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return c, nil
	}
}

// fencedConn is a connection for one request at a time: that of the fence that is on it. net/http gives an HTTP/1.1
// connection to the next request when the one before is written and answered whole.
type fencedConn struct {
	net.Conn
	fence atomic.Pointer[fence]
}

// use puts f on the connection.
func (c *fencedConn) use(f *fence) error {
	c.fence.Store(f)
	if err := c.SetWriteDeadline(f.mono); err != nil {
		return fmt.Errorf("set write deadline: %w", err)
	}
	return nil
}

// Write writes b unless the fence is closed.
func (c *fencedConn) Write(b []byte) (int, error) {
	f := c.fence.Load()
	if err := f.enter(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	f.leave(n)
	return n, err
}
