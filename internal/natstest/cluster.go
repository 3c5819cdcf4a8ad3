package natstest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// StartCluster starts n servers that replicate each other's streams, and returns when they have
// chosen a leader. Every one of them has to be shut down by the caller. Options.StoreDir and
// Options.Port are of no use here and ignored.
func StartCluster(ctx context.Context, n int, o Options) ([]*Server, error) {
	ports, err := FreePorts(ctx, n)
	if err != nil {
		return nil, err
	}
	o.StoreDir, o.Port = "", 0
	cluster := make([]*Server, 0, n)
	for i := range n {
		s, err := start(ctx, o, joining(i, ports))
		if err != nil {
			shutdownAll(cluster)
			return nil, err
		}
		cluster = append(cluster, s)
	}
	if err := awaitLeader(ctx, cluster); err != nil {
		shutdownAll(cluster)
		return nil, err
	}
	return cluster, nil
}

// joining makes a server the i-th member of the cluster whose members listen on ports.
func joining(i int, ports []int) func(*server.Options) {
	return func(o *server.Options) {
		o.ServerName = fmt.Sprintf("n%d", i+1)
		o.Cluster = server.ClusterOpts{Name: "natstest", Host: "127.0.0.1", Port: ports[i]}
		for _, p := range ports {
			o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", p)})
		}
	}
}

// FreePorts returns n ports of the loopback interface that nobody listens on, for servers that have to
// be known before they start, such as the members of a cluster. It does not keep them. They are below
// those that Linux gives to connections and to listeners on any port (32768 to 60999), so that only
// another caller of FreePorts that draws the same number may take one before it is used.
func FreePorts(ctx context.Context, n int) ([]int, error) {
	const lowest, highest = 20000, 32000
	var listen net.ListenConfig
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		port := lowest + rand.IntN(highest-lowest)
		l, err := listen.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		switch {
		case err == nil:
			defer func() { _ = l.Close() }() // at the end, so that no port is drawn twice
			ports = append(ports, port)
		case tries == 100*n:
			return nil, fmt.Errorf("natstest: %w", err)
		}
	}
	return ports, nil
}

func awaitLeader(ctx context.Context, cluster []*Server) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		for _, s := range cluster {
			if len(s.srv.JetStreamClusterPeers()) == len(cluster) {
				return nil
			}
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("natstest: no leader among %d servers: %w", len(cluster), ctx.Err())
		}
	}
}

func shutdownAll(cluster []*Server) {
	for _, s := range cluster {
		s.Shutdown()
	}
}

// LeadsStream reports whether the server runs and is the leader of the stream.
func (s *Server) LeadsStream(stream string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.srv != nil && s.srv.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream)
}
