package natstest

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

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
