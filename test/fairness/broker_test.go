//go:build soak && linux

package fairness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/natstest"
)

// brokers is one NATS server, or a cluster of them, each a process.
type brokers struct {
	url  string
	pids []int
}

// startBrokers returns n servers that run.
func startBrokers(ctx context.Context, t *testing.T, n int) *brokers {
	t.Helper()
	binary, err := natsBinary()
	must(t, err)
	ports, err := natstest.FreePorts(ctx, 2*n)
	must(t, err)
	var routes, urls []string
	for i := range n {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]))
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[n+i]))
	}
	b := &brokers{url: strings.Join(urls, ",")}
	for i := range n {
		args := []string{"-js", "-sd", filepath.Join(t.TempDir(), "js"), "-a", "127.0.0.1", "-p", strconv.Itoa(ports[i]), "-n", fmt.Sprintf("n%d", i+1)}
		if n > 1 {
			args = append(args, "--cluster_name", "fairness", "--cluster", routes[i], "--routes", strings.Join(routes, ","))
		}
		cmd := exec.Command(binary, args...) // it is killed below
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		must(t, cmd.Start())
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		b.pids = append(b.pids, cmd.Process.Pid)
	}
	b.awaitJetStream(ctx, t)
	return b
}

// connect returns a new connection.
func (b *brokers) connect(t *testing.T) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(b.url, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(20*time.Second))
	must(t, err)
	return js
}

func (b *brokers) awaitJetStream(ctx context.Context, t *testing.T) {
	t.Helper()
	js := b.connect(t)
	poll(ctx, t, "JetStream doesn't answer", func() bool {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "READY", Replicas: len(b.pids)})
		return err == nil
	})
	must(t, js.DeleteStream(ctx, "READY"))
}

// usage is what the servers have taken so far.
type usage struct {
	at  time.Time
	cpu time.Duration
	rss int64 // bytes
}

func (b *brokers) usage(t *testing.T) usage {
	t.Helper()
	u := usage{at: time.Now()}
	for _, pid := range b.pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		must(t, err)
		_, rest, _ := strings.Cut(string(stat), ") ")
		f := strings.Fields(rest) // from field 3 on
		ticks := number(t, f[11]) + number(t, f[12])
		u.cpu += time.Duration(ticks) * time.Second / 100 // USER_HZ
		u.rss += number(t, f[21]) * int64(os.Getpagesize())
	}
	return u
}

// cores returns how many processors the servers were busy with since before.
func (u usage) cores(before usage) string {
	return fmt.Sprintf("%.2f", (u.cpu-before.cpu).Seconds()/u.at.Sub(before.at).Seconds())
}

func (u usage) memory() string { return fmt.Sprintf("%.0f MB", float64(u.rss)/1e6) }

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	must(t, err)
	return n
}
