package flow

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// TestOnePostWhateverTheServerDoes counts the POSTs that arrive while the server misbehaves after it
// has read one.
func TestOnePostWhateverTheServerDoes(t *testing.T) {
	t.Parallel()
	say := func(s string) func(net.Conn) {
		return func(c net.Conn) { _, _ = fmt.Fprint(c, s) }
	}
	for name, tc := range map[string]struct {
		server func(net.Conn)
		cause  provision.Cause
	}{
		"closes":           {func(net.Conn) {}, provision.CauseNetwork},
		"resets":           {func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }, provision.CauseNetwork},
		"half a head":      {say("HTTP/1.1 201 Created\r\nContent-Le"), provision.CauseNetwork},
		"no HTTP":          {say("220 smtp ready " + staticBearer + "\r\n\r\n"), provision.CauseNetwork},
		"malformed header": {say("HTTP/1.1 201 Created\r\n" + dbxToken + "\r\n\r\n"), provision.CauseNetwork},
		"bad status":       {say("HTTP/1.1 abc\r\n\r\n"), provision.CauseNetwork},
		"half a body":      {say("HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{\"id\":\"c1\","), provision.CauseNetwork},
		"bad chunks":       {say("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), provision.CauseNetwork},
		"switches":         {say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"), provision.CauseStatus},
		"502, empty":       {say("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), provision.CauseStatus},
		"500, cut":         {say("HTTP/1.1 500 Oops\r\nContent-Length: 99\r\n\r\n<html>"), provision.CauseStatus},
		"endless head":     {say("HTTP/1.1 201 Created\r\nX: " + strings.Repeat("x", 300<<10) + "\r\n\r\n"), provision.CauseNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, hits := serveRaw(t, tc.server)
			_, err := newRig(t, url).create(t, staticAccount())
			if err == nil || err.Verdict != provision.VerdictUnknown || err.Cause != tc.cause {
				t.Errorf("%+v: want an unknown outcome, cause %s", err, tc.cause)
			}
			hits.want(t, postCall, 1)
		})
	}
}

// TestOnePostPerAnswer lets the server answer every status there is.
func TestOnePostPerAnswer(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	url, hits := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/elsewhere")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, `{"type":"https://ns.adobe.com/aep/errors/FLOW-1-400","errorMessage":"no"}`)
	})
	r := newRig(t, url)
	posts := 0
	for s := 200; s < 600; s++ {
		status.Store(int64(s))
		_, said := r.Create(t.Context(), staticAccount(), newConnection(), time.Now().Add(time.Minute))
		err := callError(t, said)
		posts++
		if err == nil || err.Status != s || err.Verdict != statusVerdict(s) || err.RetryAfter != 7*time.Second {
			t.Errorf("status %d: %+v", s, err)
		}
	}
	r.checkNoLeak(t, nil)
	hits.want(t, postCall, posts)
	hits.want(t, "POST /elsewhere", 0)
	hits.want(t, "GET /elsewhere", 0)
}

// countingServer makes connections and counts what it is asked by.
func countingServer(t *testing.T) (s *httptest.Server, conns, posts *atomic.Int64) {
	t.Helper()
	conns, posts = new(atomic.Int64), new(atomic.Int64)
	s = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 201, fmt.Sprintf(`{"id":"c%d"}`, posts.Add(1)))
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s, conns, posts
}

// TestPostsUseConnectionsAgain: one after the other they share one.
func TestPostsUseConnectionsAgain(t *testing.T) {
	t.Parallel()
	s, conns, posts := countingServer(t)
	r := newRig(t, s.URL)
	for range 20 {
		if _, err := r.create(t, staticAccount()); err != nil {
			t.Fatal(err)
		}
	}
	if posts.Load() != 20 || conns.Load() >= 20 { // where the machine is slow one may have been idle too long
		t.Errorf("%d POSTs on %d connections, want 20 on fewer", posts.Load(), conns.Load())
	}
}

// TestNoPostIsRepeatedOnAConnectionThatIsGone closes connections between POSTs: each Create sends one at most, and
// says that it is unknown where it can't know.
func TestNoPostIsRepeatedOnAConnectionThatIsGone(t *testing.T) {
	t.Parallel()
	s, _, posts := countingServer(t)
	r := newRig(t, s.URL)
	made, unknown := int64(0), int64(0)
	for range 50 {
		_, err := r.create(t, staticAccount())
		switch cerr := callError(t, err); {
		case cerr == nil:
			made++
		case cerr.Verdict == provision.VerdictUnknown:
			unknown++
		case cerr.Verdict != provision.VerdictNotSent:
			t.Errorf("%+v, want unknown or not sent", cerr)
		}
		s.CloseClientConnections()
	}
	if n := posts.Load(); n < made || n > made+unknown {
		t.Errorf("%d POSTs arrived, %d were made and %d unknown", n, made, unknown)
	}
}

func TestNothingSentWithoutAConnection(t *testing.T) {
	t.Parallel()
	url, hits := serve(t, func(http.ResponseWriter, *http.Request) {})
	refused := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }
	gone := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			err = c.Close() // the first write will fail
		}
		return deadlineless{c}, err
	}
	for name, tc := range map[string]struct {
		dial  dialFunc
		time  time.Duration
		cause provision.Cause
	}{
		"refused":          {refused, time.Minute, provision.CauseNetwork},
		"dial hangs":       {never(t), 200 * time.Millisecond, provision.CauseTimeout},
		"closed by itself": {gone, time.Minute, provision.CauseNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, url, func(c *Config) { c.DialContext = tc.dial })
			_, err := r.Create(t.Context(), staticAccount(), newConnection(), time.Now().Add(tc.time))
			cerr := callError(t, err)
			if cerr == nil || cerr.Verdict != provision.VerdictNotSent || cerr.Cause != tc.cause || cerr.Target != provision.TargetFlow {
				t.Errorf("%+v: want not sent, cause %s", cerr, tc.cause)
			}
			hits.want(t, postCall, 0)
		})
	}
}

// deadlineless is a connection that is closed without anybody having noticed yet.
type deadlineless struct{ net.Conn }

func (deadlineless) SetWriteDeadline(time.Time) error { return nil }

func TestCreateOverTLS(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			t.Errorf("protocol %s, want HTTP/1.1", r.Proto)
		}
		reply(w, 201, `{"id":"c1"}`)
	}))
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	trusting := newRig(t, s.URL, func(c *Config) { c.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12} })
	if made, err := trusting.create(t, staticAccount()); err != nil || made.ID != "c1" {
		t.Errorf("%+v, %v: want c1", made, err)
	}
	_, err := newRig(t, s.URL).create(t, staticAccount())
	if err == nil || err.Verdict != provision.VerdictNotSent {
		t.Errorf("%+v: want not sent, for the certificate is unknown", err)
	}
}

// TestServerLeavesAfterTheHandshake tells the bytes of a TLS handshake from those of the request: if
// the server leaves before anything was written, nothing was sent.
func TestServerLeavesAfterTheHandshake(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a request arrived")
	}))
	t.Cleanup(s.Close)
	var conn net.Conn
	r := newRig(t, s.URL, func(c *Config) {
		c.TLS = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the certificate is not what is tested
		c.DialContext = func(ctx context.Context, network, addr string) (_ net.Conn, err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, addr)
			return deadlineless{conn}, err
		}
	})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { _ = conn.Close() },
	})
	_, err := r.Create(ctx, staticAccount(), newConnection(), time.Now().Add(time.Minute))
	if cerr := callError(t, err); cerr == nil || cerr.Verdict != provision.VerdictNotSent {
		t.Errorf("%+v: want not sent", cerr)
	}
}

// TestCancelWhileServerWorks: who gives up a POST that is out does not know how it ends.
func TestCancelWhileServerWorks(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	url, hits := serveRaw(t, func(c net.Conn) {
		cancel()
		_, _ = c.Read(make([]byte, 1)) // until the client is gone
	})
	_, err := newRig(t, url).Create(ctx, staticAccount(), newConnection(), time.Now().Add(time.Minute))
	if cerr := callError(t, err); cerr == nil || cerr.Verdict != provision.VerdictUnknown || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v: want unknown, canceled", cerr)
	}
	hits.want(t, postCall, 1)
}

// byHand serves HTTP/1.1 connections with answers written by hand, and counts requests and connections. The handler
// returns whether the connection goes on.
func byHand(t *testing.T, answer func(w io.Writer, n int64) bool) (url string, requests, conns *atomic.Int64) {
	t.Helper()
	requests, conns = new(atomic.Int64), new(atomic.Int64)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			all.Go(func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for {
					req, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					if !answer(conn, requests.Add(1)) {
						return
					}
				}
			})
		}
	})
	return "http://" + l.Addr().String(), requests, conns
}

func writeAnswer(w io.Writer, status int, body string) {
	fmt.Fprintf(w, "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

// TestAnsweredTwice: a server that answers a POST twice has the next one on the connection told what is not its own.
// That is never believed: a success that repeats an id is unknown, and after a refusal the connection isn't used again.
func TestAnsweredTwice(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]bool{"success": false, "refusal": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, _, _ := byHand(t, func(w io.Writer, n int64) bool {
				twice := 1 + n%2 // each second POST is answered once, some time after the repeat of the one before
				for range twice {
					if refused && n%2 == 1 {
						writeAnswer(w, 400, fmt.Sprintf(`{"errorMessage":"no %d"}`, n))
					} else {
						writeAnswer(w, 201, fmt.Sprintf(`{"id":"c%d"}`, n))
					}
				}
				return true
			})
			r := newRig(t, url)
			seen := map[string]bool{}
			for i := range 60 {
				conn, err := r.create(t, staticAccount())
				cerr := callError(t, err)
				if cerr == nil && seen[conn.ID] {
					t.Fatalf("POST %d: was told %s, as another one before", i, conn.ID)
				}
				if cerr == nil {
					seen[conn.ID] = true
				} else if cerr.Verdict == provision.VerdictRejected && !refused {
					t.Errorf("POST %d: %+v", i, cerr)
				}
			}
			if len(seen) == 0 {
				t.Error("none was believed")
			}
			if refused && len(seen) != 30 {
				t.Errorf("%d of 30 successes were believed: a refusal's connection was used again", len(seen))
			}
		})
	}
}

// TestServerClosesInSilence: where connections are closed after an answer that doesn't say so, a few POSTs are lost at
// first, and then each has a connection of its own.
func TestServerClosesInSilence(t *testing.T) {
	t.Parallel()
	url, requests, _ := byHand(t, func(w io.Writer, n int64) bool {
		writeAnswer(w, 201, fmt.Sprintf(`{"id":"c%d"}`, n))
		return false
	})
	r := newRig(t, url)
	lost := 0
	for range 100 {
		if _, err := r.create(t, staticAccount()); err != nil {
			lost++
		}
	}
	if lost > 3 || requests.Load() > 100 {
		t.Errorf("%d of 100 POSTs lost, %d arrived", lost, requests.Load())
	}
}

// TestRefusalsLoseNoOtherPost: the connection of a refusal is closed, and a POST that had just got it goes by another
// one. It is not taken for one whose outcome nobody knows.
func TestRefusalsLoseNoOtherPost(t *testing.T) {
	t.Parallel()
	url, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 400, `{"type":"https://ns.adobe.com/aep/errors/FLOW-1413-400","title":"no","status":400}`)
	})
	r := newRig(t, url)
	const workers, each = 16, 60
	var all sync.WaitGroup
	var other atomic.Int64
	for range workers {
		all.Go(func() {
			for range each {
				_, err := r.create(t, staticAccount())
				if cerr := callError(t, err); cerr == nil || cerr.Verdict != provision.VerdictRejected {
					if other.Add(1) == 1 {
						t.Logf("%+v: %v", cerr, cerr.Err)
					}
				}
			}
		})
	}
	all.Wait()
	if n := other.Load(); n > 0 {
		t.Errorf("%d of %d refusals were taken for something else", n, workers*each)
	}
	hits.want(t, postCall, workers*each)
}
