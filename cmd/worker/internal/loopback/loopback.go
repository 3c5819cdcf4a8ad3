// Package loopback serves HTTP handlers in the process, for the stand-ins that the demo and the
// emulator command offer. It asks nobody who they are; the worker's own endpoints are served elsewhere.
package loopback

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Limits of a server. An answer may take longer than the emulator hangs where a fault says no time, 10 min.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = 15 * time.Minute
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// Server is a handler that is being served.
type Server struct {
	URL    string // such as "http://127.0.0.1:40321", without a slash at its end
	srv    *http.Server
	served chan error
}

// Start listens on addr, where port 0 means any free one, and serves h until Close.
func Start(ctx context.Context, addr string, h http.Handler) (*Server, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{
		URL:    "http://" + ln.Addr().String(),
		srv:    newServer(h),
		served: make(chan error, 1),
	}
	go func() { s.served <- s.srv.Serve(ln) }()
	return s, nil
}

func newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout,
		WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
	}
}

// Wait returns nil when ctx ends, or the error that ended the serving before.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.served:
		s.served <- err // for Close
		return err
	}
}

// Close stops serving at once, also what is under way, and returns when nothing runs any more.
func (s *Server) Close() error {
	err := s.srv.Close()
	if served := <-s.served; !errors.Is(served, http.ErrServerClosed) {
		return errors.Join(err, served)
	}
	return err
}
