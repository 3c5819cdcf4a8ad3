//go:build soak

package soak

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/flow-worker/flow-worker/internal/natstest"
)

// broker is a nats-server process that can be started again on the same port with the same streams.
type broker struct {
	dir, name, binary string
	port, route       int
	routes            []string // of the whole cluster; none means that it stands alone
	starts            int
	proc              *process
}

// newBrokers returns n brokers that run, as one cluster if there are several.
func newBrokers(ctx context.Context, t *testing.T, dir string, n int) []*broker {
	t.Helper()
	binary := mustBuild(t, natsBinary)
	ports, err := natstest.FreePorts(ctx, 2*n)
	if err != nil {
		t.Fatal(err)
	}
	var routes []string
	for _, p := range ports[n:] {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", p))
	}
	var list []*broker
	for i := range n {
		b := &broker{dir: dir, name: fmt.Sprintf("nats-%d", i+1), binary: binary, port: ports[i], route: ports[n+i]}
		if n > 1 {
			b.routes = routes
		}
		list = append(list, b)
		if err := b.start(ctx); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.proc.kill() })
	}
	return list
}

func (b *broker) start(ctx context.Context) error {
	store := filepath.Join(b.dir, b.name)
	if err := os.MkdirAll(store, 0o700); err != nil {
		return err
	}
	args := []string{"-js", "-sd", store, "-a", "127.0.0.1", "-p", strconv.Itoa(b.port), "-n", b.name}
	if b.routes != nil {
		args = append(args, "--cluster_name", "soak", "--cluster", fmt.Sprintf("nats://127.0.0.1:%d", b.route),
			"--routes", strings.Join(b.routes, ","))
	}
	for {
		b.starts++
		var err error
		if b.proc, err = launch(b.dir, fmt.Sprintf("%s-%d", b.name, b.starts), nil, b.binary, args...); err != nil {
			return err
		}
		if err = b.proc.await(ctx, wordBroker); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "address already in use") {
			return err
		}
	}
}

// restart ends the broker by the signal and starts it again.
func (b *broker) restart(ctx context.Context, sig syscall.Signal) error {
	b.proc.signal(sig)
	<-b.proc.done
	return b.start(ctx)
}

func (b *broker) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", b.port) }
