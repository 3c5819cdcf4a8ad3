package ops

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// An answer under way when the context ends still arrives whole.
func TestServeEndsOrderly(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ln := listen(t)
	under, release, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(under)
		<-release
		_, _ = io.WriteString(w, "whole")
	})
	go func() { ended <- Serve(ctx, ln, h, slog.New(slog.DiscardHandler)) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer := make(chan string, 1)
	go func() {
		resp, err := client.Get("http://" + ln.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answer <- string(body)
	}()
	<-under
	stop()
	close(release)
	if got := <-answer; got != "whole" {
		t.Errorf("answer %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) { // to dial would find whoever has taken the port since
		t.Errorf("still listening: %v", err)
	}
}

func TestServeTellsWhyItCannot(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	ln.Close()
	err := Serve(t.Context(), ln, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), ln.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

// pipes is a listener whose connections are in memory, so that a test can own their time.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.once.Do(func() { close(p.closed) }); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

func (p *pipes) dial(send string) net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	_, _ = io.WriteString(client, send)
	return client
}

// An answer that does not come to its end must not keep the process from ending.
func TestServeCutsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		ln, under, ended := newPipes(), make(chan struct{}), make(chan error, 1)
		h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { close(under); <-r.Context().Done() })
		go func() { ended <- Serve(ctx, ln, h, slog.New(slog.DiscardHandler)) }()
		defer ln.dial("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").Close()
		<-under
		start := time.Now()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != shutdownTimeout {
			t.Errorf("took %v, want %v", took, shutdownTimeout)
		}
	})
}

// A client that sends half a request does not hold its connection for long.
func TestServeCutsSlowClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		ln, ended := newPipes(), make(chan error, 1)
		go func() { ended <- Serve(ctx, ln, http.NotFoundHandler(), slog.New(slog.DiscardHandler)) }()
		start := time.Now()
		conn := ln.dial("GET / HTTP/1.1\r\nHost: lo")
		defer conn.Close()
		_, _ = io.Copy(io.Discard, conn)
		if took := time.Since(start); took != readHeaderTimeout {
			t.Errorf("cut after %v, want %v", took, readHeaderTimeout)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// both are the two handlers that a worker serves.
func both() map[string]http.Handler {
	return map[string]http.Handler{
		"metrics": NewHandler(&Health{}, prometheus.NewRegistry()),
		"status":  NewStatusHandler(&Status{}, StatusOptions{Pprof: true}),
	}
}

// serving serves h in the current bubble until its test's function returns.
func serving(t *testing.T, h http.Handler) *pipes {
	t.Helper()
	ln, ended := newPipes(), make(chan error, 1)
	go func() { ended <- Serve(t.Context(), ln, h, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return ln
}

// endless gives n bytes.
func endless(n int64) io.Reader {
	return io.LimitReader(readerFunc(func(p []byte) (int, error) {
		for i := range p {
			p[i] = 'a'
		}
		return len(p), nil
	}), n)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A client gets no more of the server than its time, and the server reads no more of it than its limits.
func TestServersAreBounded(t *testing.T) {
	t.Parallel()
	const host, long = "Host: localhost\r\n", 10 << 20
	for name, c := range map[string]struct {
		send   string
		more   int64         // bytes that come after it
		answer string        // how it begins; empty for none
		lasts  time.Duration // until the connection is closed, at most
		taken  int64         // bytes that the server reads at most
	}{
		"nothing at all":     {"", 0, "", readHeaderTimeout, 0},
		"half a header":      {"GET / HTTP/1.1\r\nHost: lo", 0, "", readHeaderTimeout, 64},
		"a header of 10 MB":  {"GET / HTTP/1.1\r\n" + host + "X: ", long, "HTTP/1.1 431 ", time.Second, 32 << 10},
		"a path of 10 MB":    {"GET /", long, "HTTP/1.1 431 ", time.Second, 32 << 10},
		"a million headers":  {"GET / HTTP/1.1\r\n" + host + strings.Repeat("X: y\r\n", 1_000_000) + "\r\n", 0, "HTTP/1.1 431 ", time.Second, 32 << 10},
		"a slow body":        {"GET / HTTP/1.1\r\n" + host + "Content-Length: 9\r\n\r\n{", 0, "HTTP/1.1 ", readTimeout, 128},
		"a slow chunk":       {"GET / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n9\r\n{", 0, "HTTP/1.1 ", readTimeout, 128},
		"a body of 10 MB":    {"POST / HTTP/1.1\r\n" + host + "Content-Length: 10485760\r\n\r\n", long, "HTTP/1.1 4", time.Second, 32 << 10},
		"a body without end": {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nffffff\r\n", long, "HTTP/1.1 4", time.Second, 600 << 10},
		"deep JSON":          {"POST /status.json HTTP/1.1\r\n" + host + "Content-Length: 200000\r\n\r\n" + strings.Repeat("[", 200_000), 0, "HTTP/1.1 4", idleTimeout, 300 << 10},
		"then nothing":       {"GET /none HTTP/1.1\r\n" + host + "\r\n", 0, "HTTP/1.1 404 ", idleTimeout, 64},
		"no host":            {"GET / HTTP/1.1\r\n\r\n", 0, "HTTP/1.1 400 ", time.Second, 64},
		"two hosts":          {"GET / HTTP/1.1\r\n" + host + "Host: evil.example\r\n\r\n", 0, "HTTP/1.1 400 ", time.Second, 128},
		"both lengths":       {"POST / HTTP/1.1\r\n" + host + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", 0, "HTTP/1.1 400 ", time.Second, 128},
		"no HTTP":            {"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 0, "HTTP/1.1 400 ", time.Second, 64},
	} {
		for server, h := range both() {
			t.Run(server+": "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					conn := serving(t, h).dial("")
					defer conn.Close()
					start, took := time.Now(), make(chan int64, 1)
					go func() {
						n, _ := io.Copy(struct{ io.Writer }{conn}, io.MultiReader(strings.NewReader(c.send), endless(c.more)))
						took <- n
					}()
					answer, _ := io.ReadAll(io.LimitReader(conn, 1<<20))
					lasted := time.Since(start)
					conn.Close()
					if !strings.HasPrefix(string(answer), c.answer) || c.answer == "" && len(answer) > 0 {
						t.Errorf("answer %.80q, want %q", answer, c.answer)
					}
					if lasted > c.lasts {
						t.Errorf("the connection lasted %v, want at most %v", lasted, c.lasts)
					}
					if n := <-took; n > c.taken {
						t.Errorf("%d bytes were taken, want at most %d", n, c.taken)
					}
				})
			})
		}
	}
}

// Who asks and then does not read the answer is cut off, too.
func TestServeCutsSlowReaders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		written := make(chan error, 1)
		ln := serving(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, err := io.Copy(w, endless(1<<20))
			written <- err
		}))
		start := time.Now()
		conn := ln.dial("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		defer conn.Close()
		if err := <-written; err == nil {
			t.Error("all was written, to nobody")
		}
		if took := time.Since(start); took != writeTimeout {
			t.Errorf("cut after %v, want %v", took, writeTimeout)
		}
	})
}

// Requests that come all at once on one connection are answered one after another.
func TestPipelinedRequestsWaitForEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 500
		var atWork, most atomic.Int32
		ln := serving(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			most.Store(max(most.Load(), atWork.Add(1)))
			synctest.Wait()
			atWork.Add(-1)
		}))
		conn := ln.dial("")
		defer conn.Close()
		go func() { _, _ = io.WriteString(conn, strings.Repeat("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", n)) }()
		answers := bufio.NewReader(conn)
		for i := range n {
			resp, err := http.ReadResponse(answers, nil)
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("answer %d: %v %v", i, resp, err)
			}
			resp.Body.Close()
		}
		if most.Load() != 1 {
			t.Errorf("%d requests of one connection were worked on at once", most.Load())
		}
	})
}

// However many connections somebody opens, a probe gets its answer at once.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]string{
		"silent":        "",
		"half a header": "GET /healthz HTTP/1.1\r\nHost: lo",
		"idle":          "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ln := serving(t, NewHandler(&Health{}, prometheus.NewRegistry()))
				var open atomic.Int32
				start := time.Now()
				for range 3 * maxConns {
					conn := ln.dial(send)
					defer conn.Close()
					open.Add(1)
					go func() { _, _ = io.Copy(io.Discard, conn); open.Add(-1) }()
					synctest.Wait()
					if n := open.Load(); n > maxConns {
						t.Fatalf("%d connections at once", n)
					}
				}
				if n := open.Load(); n != maxConns {
					t.Errorf("%d connections are open, want %d", n, maxConns)
				}
				probe := ln.dial("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
				answer, err := io.ReadAll(probe)
				if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") || time.Since(start) > 0 {
					t.Errorf("after %v: %.40q %v", time.Since(start), answer, err)
				}
			})
		})
	}
}

// What is at work stays; it is the new connection that has to go then.
func TestConnectionsAtWorkStay(t *testing.T) {
	t.Parallel()
	l := &connLimit{max: 2}
	conns := make([]net.Conn, 4)
	for i := range conns {
		conns[i], _ = net.Pipe()
	}
	for i, step := range []struct {
		conn  int
		state http.ConnState
		out   int // which has to go; -1 for none
	}{
		{0, http.StateNew, -1}, {1, http.StateNew, -1},
		{0, http.StateActive, -1}, {0, http.StateIdle, -1}, // so 1 has waited for longest
		{2, http.StateNew, 1}, {1, http.StateActive, -1}, {1, http.StateClosed, -1},
		{0, http.StateActive, -1}, {2, http.StateActive, -1},
		{3, http.StateNew, 3}, {3, http.StateIdle, -1},
		{2, http.StateIdle, -1}, {3, http.StateNew, 2},
		{0, http.StateClosed, -1}, {1, http.StateNew, -1},
	} {
		got := slices.Index(conns, l.note(conns[step.conn], step.state))
		if got != step.out || len(l.conns) > l.max {
			t.Errorf("step %d: %d has to go, want %d; %d are left", i, got, step.out, len(l.conns))
		}
	}
}

// Every answer, a refusal too, tells browsers to keep it to themselves, and lets no other origin read it.
func TestAnswersAreReserved(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
		"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
		"Cache-Control": "no-store",
	}
	policies := map[string]string{"metrics": contentPolicy, "status": pagePolicy}
	for server, h := range both() {
		want["Content-Security-Policy"] = policies[server]
		for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS", "BREW"} {
			for _, target := range []string{"/", "/status.json", "/metrics", "/healthz", "/readyz", "/none", "/debug/pprof/", "/debug/pprof/cmdline", "//evil.example/"} {
				w := ask(h, method, target, "Origin", "https://evil.example", "Access-Control-Request-Method", "GET")
				for name, value := range want {
					if got := w.Header().Get(name); got != value {
						t.Errorf("%s: %s %s: %d with %s %q, want %q", server, method, target, w.Code, name, got, value)
					}
				}
				for name := range w.Header() {
					if strings.HasPrefix(name, "Access-Control-") || name == "Set-Cookie" || name == "Server" {
						t.Errorf("%s: %s %s: has the header %s", server, method, target, name)
					}
				}
			}
		}
	}
	for _, directive := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} {
		for server, policy := range policies {
			if !strings.Contains(policy, directive) || strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
				t.Errorf("%s: the policy is %s", server, policy)
			}
		}
	}
}

// There is nothing but what is listed: no folder, no file, no way up, and each server has its own only.
func TestUnknownPaths(t *testing.T) {
	t.Parallel()
	paths := map[string][]string{ // :: server → what it has
		"metrics": {"/metrics", "/healthz", "/readyz"},
		"status":  {"/", "/status.json", "/style.css", "/app.js", "/icon.svg", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/symbol"},
	}
	tried := []string{"/metrics", "/metrics/", "/healthz", "/healthz/x", "/readyz", "/", "/status.json", "/status", "/index.html", "/page.html", "/overview.html", "/web/app.js", "/favicon.ico",
		"/style.css", "/app.js", "/icon.svg", "/requests/", "/requests/x", "/requests/a.b.c/x", "/requests/a.b.c", "/requests/a.b.c.json", "/requests/a.b.c/events",
		"/.git/config", "/debug", "/debug/", "/debug/vars", "/debug/pprof", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/symbol", "/debug/pprof/cmdline",
		"/debug/pprof/none", "/debug/pprof/../../metrics", "/%2e%2e/etc/passwd", "/..%2fetc%2fpasswd", "/../etc/passwd", "//", "//evil.example/", `/\evil.example`, "/%00"}
	for server, h := range both() {
		for _, path := range tried {
			w := ask(h, "GET", path)
			switch known := slices.Contains(paths[server], path); {
			case known && w.Code != 200:
				t.Errorf("%s: %s: %d", server, path, w.Code)
			case w.Code == http.StatusTemporaryRedirect || w.Code == http.StatusMovedPermanently: // to the path without its dots and doubles
				if to := w.Header().Get("Location"); !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.HasPrefix(to, `/\`) {
					t.Errorf("%s: %s: leads to %s", server, path, to)
				}
			case !known && w.Code != 404:
				t.Errorf("%s: %s: %d\n%.200s", server, path, w.Code, w.Body)
			}
		}
	}
}

// A page on the Web can have its own name resolve to the status page's address. It then asks by that name.
func TestHostsOfRebinding(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:8081": true, "[::1]:8081": true, "[::ffff:127.0.0.1]:8081": true, "0.0.0.0:8081": true, "localhost:1": true,
		"127.0.0.1.evil.com": false, "127.0.0.1.nip.io:8081": false, "localhost.evil.com": false, "localhost.": false, "localhost.localdomain": false,
		"evil.com": false, "evil.com:127.0.0.1": false, "127.0.0.1@evil.com": false, "127.1": false, "0x7f000001": false, "2130706433": false,
		"[evil.com]": false, "loca1host": false, "": false, ":8081": false, "ʟocalhost": false,
	} {
		if got := knownHost(host); got != want {
			t.Errorf("%q: %t, want %t", host, got, want)
		}
	}
	w := ask(NewStatusHandler(&Status{}, StatusOptions{}), "GET", "http://evil.example/status.json", "Host", "evil.example")
	if w.Code != http.StatusForbidden || strings.Contains(w.Body.String(), "evil") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
