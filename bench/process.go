package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// roleVariable tells a copy of this program what to be instead of the bench.
const roleVariable = "BENCH_ROLE"

// roles are what this program can be beside the bench itself. Each runs until ctx ends and calls ready once,
// with the words that the bench has to know.
var roles = map[string]func(ctx context.Context, ready func(words ...string)) error{
	"nats":     serveNATS,
	"vault":    serveVault,
	"upstream": serveUpstream,
	"baseline": runBaseline,
}

// playRole runs the role that the environment asks for, and reports whether there was one.
func playRole(ctx context.Context) (bool, error) {
	role, ok := roles[os.Getenv(roleVariable)]
	if !ok {
		return false, nil
	}
	return true, role(ctx, func(words ...string) { fmt.Fprintln(os.Stdout, "ready", strings.Join(words, " ")) })
}

// process is a program that the bench has started, in a process group of its own.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   string        // path of the file with what it wrote
	words []string      // what a role said when it was ready
	ended chan struct{} // closed at its end
	once  sync.Once
}

// start runs a program with env added to the environment of the bench.
func start(dir, name string, env []string, path string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), ended: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(path, args...) //nolint:noctx // it is ended by stop
	p.cmd.Dir, p.cmd.Env, p.cmd.SysProcAttr = dir, append(os.Environ(), env...), ownGroup()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is seen by its log
		close(p.ended)
	}()
	return p, nil
}

// startRole runs this program in a role and waits until it is ready.
func startRole(ctx context.Context, dir, role string, env ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := start(dir, role, append(env, roleVariable+"="+role), self)
	if err != nil {
		return nil, err
	}
	if err := p.awaitReady(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *process) awaitReady(ctx context.Context) error {
	for {
		if f, err := os.Open(p.log); err == nil {
			line, err := bufio.NewReader(f).ReadString('\n')
			f.Close()
			if words, ok := strings.CutPrefix(line, "ready "); ok && err == nil {
				p.words = strings.Fields(words)
				return nil
			}
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-p.ended:
			return p.failure()
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", p.name, context.Cause(ctx))
		}
	}
}

// failure says that the process ended too early, with the end of its log.
func (p *process) failure() error {
	text, _ := os.ReadFile(p.log)
	return fmt.Errorf("%s has ended; the end of its log:\n%s", p.name, text[max(0, len(text)-2000):])
}

// stop ends the process and all that it has started.
func (p *process) stop() {
	p.once.Do(func() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // its group has its own id
		<-p.ended
	})
}

// run runs a program to its end.
func run(ctx context.Context, env []string, path string, args ...string) error {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.SysProcAttr = append(os.Environ(), env...), ownGroup()
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", path, args, err, text)
	}
	return nil
}

// usage is what a group of processes has used so far.
type usage struct {
	cpu      time.Duration // user and system
	resident int64         // bytes, now
	peak     int64         // bytes, the most of each process, summed
}

// used returns the usage of processes and of all that they have started.
func used(of []*process) (usage, error) {
	var sum usage
	for _, p := range of {
		u, err := groupUsage(p.cmd.Process.Pid)
		if err != nil {
			return usage{}, fmt.Errorf("%s: %w", p.name, err)
		}
		if u == (usage{}) {
			return usage{}, errors.Join(p.failure(), errors.New("it has no process any more"))
		}
		sum.cpu += u.cpu
		sum.resident += u.resident
		sum.peak += u.peak
	}
	return sum, nil
}
