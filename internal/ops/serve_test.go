package ops

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
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
	if conn, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		conn.Close()
		t.Error("still listening")
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
