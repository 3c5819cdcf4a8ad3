package loopback

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// oneConn is a listener that gives one connection and then nothing until it is closed.
type oneConn struct {
	conn   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error { l.once.Do(func() { close(l.closed) }); return nil }

func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Name: "one"} }

// Who is slow, or says too much, is cut off here too, but nobody is who only waits for an answer.
func TestLimits(t *testing.T) {
	t.Parallel()
	const host = "Host: localhost\r\n"
	for name, c := range map[string]struct {
		send   string
		answer string
		lasts  time.Duration
	}{
		"nothing":         {"", "", readHeaderTimeout},
		"half a header":   {"GET / HTTP/1.1\r\nHost: lo", "", readHeaderTimeout},
		"a long header":   {"GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("x", 1<<20), "HTTP/1.1 431 ", 0},
		"a slow body":     {"POST / HTTP/1.1\r\n" + host + "Content-Length: 9\r\n\r\n{", "HTTP/1.1 200 ", readTimeout},
		"then nothing":    {"GET / HTTP/1.1\r\n" + host + "\r\n", "HTTP/1.1 200 ", idleTimeout},
		"a long hang":     {"GET /hang HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n", "HTTP/1.1 200 ", 10 * time.Minute},
		"too long a hang": {"GET /forever HTTP/1.1\r\n" + host + "\r\n", "", writeTimeout + idleTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/hang":
						<-time.After(10 * time.Minute)
					case "/forever":
						<-time.After(writeTimeout + time.Second)
					}
					_, _ = io.Copy(io.Discard, r.Body)
				}))
				ln := &oneConn{conn: make(chan net.Conn), closed: make(chan struct{})}
				go func() { _ = srv.Serve(ln) }()
				ours, theirs := net.Pipe()
				ln.conn <- theirs
				start := time.Now()
				go func() { _, _ = io.WriteString(ours, c.send) }()
				answer, _ := io.ReadAll(io.LimitReader(ours, 1<<16))
				if took := time.Since(start); took > c.lasts+time.Second {
					t.Errorf("it lasted %v, want %v", took, c.lasts)
				}
				if !strings.HasPrefix(string(answer), c.answer) || c.answer == "" && len(answer) > 0 {
					t.Errorf("answer %.60q, want %q", answer, c.answer)
				}
				ours.Close()
				_ = srv.Close()
				synctest.Wait()
			})
		})
	}
}
