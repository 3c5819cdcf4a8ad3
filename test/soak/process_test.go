//go:build soak

package soak

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// process is a program that was started here, and its log. Its methods are safe for concurrent use.
type process struct {
	name string
	log  *journal
	cmd  *exec.Cmd
	done chan struct{} // closed at its end

	mu      sync.Mutex
	ending  bool // it was told to end
	stopped bool // by SIGSTOP
}

// launch starts a program with nothing but env in its environment.
func launch(dir, name string, env []string, path string, args ...string) (*process, error) {
	log, err := newJournal(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	p := &process{name: name, log: log, done: make(chan struct{})}
	p.cmd = exec.Command(path, args...) // it is ended by signals
	p.cmd.Env, p.cmd.Dir, p.cmd.SysProcAttr = env, dir, reaped()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in cmd.ProcessState
		log.close()
		close(p.done)
	}()
	return p, nil
}

// signal sends a signal to this very process. One that has ended is none of the caller's concern.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch sig {
	case syscall.SIGKILL, syscall.SIGTERM:
		p.ending = true
	case syscall.SIGSTOP:
		p.stopped = true
	case syscall.SIGCONT:
		p.stopped = false
	}
	_ = p.cmd.Process.Signal(sig)
}

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// end asks the process to end and returns its exit code, -1 if it had to be killed.
func (p *process) end(ctx context.Context) int {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-ctx.Done():
		p.kill()
		return -1
	}
}

func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// diedAlone reports whether it ended although nobody told it to.
func (p *process) diedAlone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.alive() && !p.ending
}

// await waits for text in the log, or fails when the process ends or ctx does.
func (p *process) await(ctx context.Context, text string) error {
	for {
		next := p.log.next()
		if p.log.has(text) {
			return nil
		}
		select {
		case <-next:
		case <-p.done:
			return fmt.Errorf("%s ended before its log said %q:\n%s", p.name, text, p.log.tail(20))
		case <-ctx.Done():
			return fmt.Errorf("%s: its log doesn't say %q: %w\n%s", p.name, text, context.Cause(ctx), p.log.tail(20))
		}
	}
}

// The words that a log is searched for, once it has gone.
const (
	wordReady  = "worker is ready"
	wordBroker = "Server is ready"
	wordRace   = "DATA RACE"
	wordPanic  = "panic"
)

// journal is a log that is kept in a file, and can be waited for.
type journal struct {
	mu      sync.Mutex
	file    *os.File
	part    []byte          // a line that has not ended yet
	found   map[string]bool // :: word → seen
	last    []string
	changed chan struct{}
}

const keptLines = 200

func newJournal(path string) (*journal, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &journal{file: f, found: map[string]bool{}, changed: make(chan struct{})}, nil
}

// Write implements io.Writer.
func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.part = append(j.part, b...)
	for {
		line, rest, whole := bytes.Cut(j.part, []byte("\n"))
		if !whole {
			break
		}
		j.note(string(line))
		j.part = rest
	}
	close(j.changed)
	j.changed = make(chan struct{})
	return j.file.Write(b)
}

func (j *journal) note(line string) {
	for _, word := range []string{wordReady, wordBroker, wordRace, wordPanic} {
		if strings.Contains(line, word) {
			j.found[word] = true
		}
	}
	if j.last = append(j.last, line); len(j.last) > 2*keptLines {
		j.last = append([]string(nil), j.last[keptLines:]...)
	}
}

func (j *journal) has(word string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.found[word]
}

func (j *journal) next() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

func (j *journal) tail(n int) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.last[max(0, len(j.last)-n):], "\n")
}

// about returns the last n lines of the whole log that hold text.
func (j *journal) about(text string, n int) []string {
	b, err := os.ReadFile(j.file.Name())
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, text) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found[max(0, len(found)-n):]
}

func (j *journal) close() { _ = j.file.Close() }
