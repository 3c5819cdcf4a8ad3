// Package natstest runs nats-server with JetStream inside the process, for tests and for the demo.
//
// Tests use Run, RunCluster and Connect, which clean up by themselves; others use Start. It does not
// import "testing", so that the demo can use it.
package natstest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Options says what kind of server Start starts. The zero value is a server on a free port of the
// loopback interface that forgets everything when it is shut down.
type Options struct {
	StoreDir   string // where streams are kept; empty means a directory of its own, removed by Shutdown
	Port       int    // 0 means any free port
	MaxPayload int32  // largest message in bytes; 0 means the server's default of 1 MiB
	SyncAlways bool   // write through to the disk before every acknowledgement
	ConfigFile string // of nats-server, for users and limits, read at every start; where it listens and stores is not the file's choice
}

// Server is a running server. Its methods are safe for concurrent use.
type Server struct {
	ownDir string // removed by Shutdown; empty if the directory is the caller's
	more   func(*server.Options)

	mu   sync.Mutex // guards the rest
	opts Options
	srv  *server.Server
}

// readyWithin bounds the wait for a server, whatever the context allows.
const readyWithin = 30 * time.Second

// Start starts a server and returns when it takes connections. The server outlives ctx, which bounds
// only the start.
func Start(ctx context.Context, o Options) (*Server, error) {
	return start(ctx, o, func(*server.Options) {})
}

func start(ctx context.Context, o Options, more func(*server.Options)) (*Server, error) {
	s := &Server{more: more}
	if o.Port == 0 { // one that stays free over a Restart
		ports, err := FreePorts(ctx, 1)
		if err != nil {
			return nil, err
		}
		o.Port = ports[0]
	}
	if o.StoreDir == "" {
		dir, err := os.MkdirTemp("", "natstest-")
		if err != nil {
			return nil, fmt.Errorf("natstest: store directory: %w", err)
		}
		o.StoreDir, s.ownDir = dir, dir
	}
	s.opts = o
	if err := s.run(ctx); err != nil {
		s.removeDir()
		return nil, err
	}
	return s, nil
}

func serverOptions(o Options) (*server.Options, error) {
	opts := &server.Options{}
	if o.ConfigFile != "" {
		var err error
		if opts, err = server.ProcessConfigFile(o.ConfigFile); err != nil {
			return nil, fmt.Errorf("natstest: configuration: %w", err)
		}
	}
	opts.Host, opts.Port, opts.HTTPPort = "127.0.0.1", o.Port, 0
	if o.MaxPayload != 0 {
		opts.MaxPayload = o.MaxPayload
	}
	opts.JetStream, opts.StoreDir, opts.SyncAlways = true, o.StoreDir, opts.SyncAlways || o.SyncAlways
	opts.NoSigs, opts.NoLog = true, true
	return opts, nil
}

// run starts a server with s.opts.
func (s *Server) run(ctx context.Context) error {
	// A server that can't keep its streams only logs so, and is never ready.
	if err := os.MkdirAll(s.opts.StoreDir, 0o700); err != nil {
		return fmt.Errorf("natstest: store directory: %w", err)
	}
	opts, err := serverOptions(s.opts)
	if err != nil {
		return err
	}
	s.more(opts)
	srv, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("natstest: %w", err)
	}
	srv.Start()
	if err := awaitReady(ctx, srv); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return err
	}
	s.srv = srv
	return nil
}

// awaitReady waits for a started server to take connections.
func awaitReady(ctx context.Context, srv *server.Server) error {
	within := readyWithin
	if until, ok := ctx.Deadline(); ok {
		within = min(within, time.Until(until))
	}
	if !srv.ReadyForConnections(within) {
		return errors.New("natstest: the server did not get ready for connections; is its port free?")
	}
	return nil
}

// ClientURL returns the URL clients connect to. It stays the same over a Restart.
func (s *Server) ClientURL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("nats://127.0.0.1:%d", s.opts.Port)
}

// LeafURL returns the URL leaf nodes connect to, of a server whose ConfigFile lets it listen for them, and an error
// for any other.
func (s *Server) LeafURL() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv == nil {
		return "", errors.New("natstest: the server does not run")
	}
	state, err := s.srv.Varz(nil)
	if err != nil || state.LeafNode.Port <= 0 {
		return "", errors.New("natstest: the server takes no leaf nodes")
	}
	return fmt.Sprintf("nats-leaf://127.0.0.1:%d", state.LeafNode.Port), nil
}

// Shutdown stops the server and removes the store directory if Start made it. A second call does
// nothing.
func (s *Server) Shutdown() {
	s.Stop()
	s.removeDir()
}

// Stop stops the server and keeps its streams for Restart.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv == nil {
		return
	}
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
	s.srv = nil
}

// Restart stops the server, if it runs, and starts it again on the same port with the same streams.
func (s *Server) Restart(ctx context.Context) error {
	s.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run(ctx)
}

// Reload has the running server read its ConfigFile again, such as for other permissions. Clients stay
// connected.
func (s *Server) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	opts, err := serverOptions(s.opts)
	if err != nil {
		return err
	}
	s.more(opts)
	return s.srv.ReloadOptions(opts)
}

func (s *Server) removeDir() {
	if s.ownDir != "" {
		_ = os.RemoveAll(s.ownDir)
	}
}

// TB is what Run and its like use of a *testing.T or *testing.B.
type TB interface {
	Context() context.Context
	Cleanup(f func())
	Fatal(args ...any)
	Helper()
}

// Run starts a server like Start, and shuts it down when the test ends. The test fails at once if it
// does not start.
func Run(t TB, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

// RunCluster starts n servers like StartCluster, and shuts them down when the test ends. The test fails
// at once if they do not start.
func RunCluster(t TB, n int, o Options) []*Server {
	t.Helper()
	cluster, err := StartCluster(t.Context(), n, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shutdownAll(cluster) })
	return cluster
}

// Connect connects to a server until the test ends. The connection itself is the Conn of what it
// returns. The test fails at once if there is no connection; Connect does not wait for a server.
func Connect(t TB, url string, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return JetStream(t, nc)
}

// JetStream returns JetStream over a connection that the test made by itself, and closes that when the
// test ends. It waits for the end of the connection's goroutines, so it takes nc's handler for being
// closed.
func JetStream(t TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	t.Cleanup(func() { nc.Close(); <-closed })
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// As logs in a user who may not do everything. What the server refuses is not printed; it is the
// connection's LastError.
func As(user, password string) nats.Option {
	return func(o *nats.Options) error {
		o.User, o.Password = user, password
		o.AsyncErrorCB = func(*nats.Conn, *nats.Subscription, error) {}
		return nil
	}
}
