//go:build prometheus

package observability

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything here may take; on a quiet machine it is seconds.
const patience = 2 * time.Minute

// process is a program that runs until the test's end, and what it writes.
type process struct {
	name  string
	mu    sync.Mutex
	lines []string
	news  chan struct{} // closed at the next line
}

// start runs a program with nothing but env in its environment.
func start(t *testing.T, name string, env []string, path string, args ...string) *process {
	t.Helper()
	p := &process{name: name, news: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Dir, cmd.SysProcAttr = env, t.TempDir(), reaped()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		t.Fatalf("%s: %v", name, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.add(lines.Text())
		}
		_ = cmd.Wait() // the test ends it
		p.add("(ended)")
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return p
}

func (p *process) add(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, line)
	close(p.news)
	p.news = make(chan struct{})
}

// await returns the first line with the text.
func (p *process) await(t *testing.T, text string) string {
	t.Helper()
	timeout := time.After(patience)
	for seen := 0; ; {
		p.mu.Lock()
		lines, news := p.lines[seen:], p.news
		p.mu.Unlock()
		for _, line := range lines {
			if strings.Contains(line, text) {
				return line
			}
		}
		seen += len(lines)
		select {
		case <-news:
		case <-timeout:
			t.Fatalf("%s did not write %q:\n%s", p.name, text, strings.Join(p.tail(30), "\n"))
		}
	}
}

func (p *process) tail(n int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lines[max(0, len(p.lines)-n):]
}

// worker returns the path of the worker's program, and builds it if need be.
func worker(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("FLOW_WORKER_BINARY"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "worker")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "../../cmd/worker").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// run runs a command of the worker to its end.
func run(t *testing.T, env []string, path string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("worker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// until calls ok again and again until it is true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal(fmt.Sprint("in vain: ", what))
		}
	}
}
