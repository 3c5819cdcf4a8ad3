//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// roleVariable tells a copy of this program what to be instead of the bench.
const roleVariable = "BENCH_ROLE"

// roles are what this program can be beside the bench itself. Each runs until ctx ends, and calls ready once with
// the words that the bench has to know.
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
	ended chan struct{} // closed at its end
}

// start runs a program with env added to the environment of the bench. It ends with the bench, even if that is
// killed.
func start(dir, name string, env []string, path string, args ...string) *process {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), ended: make(chan struct{})}
	log := must(os.Create(p.log))
	defer log.Close()
	p.cmd = exec.Command(path, args...) //nolint:noctx // it is ended by stop, with all that it has started
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = dir, append(os.Environ(), env...), log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	check(p.cmd.Start())
	go func() {
		_ = p.cmd.Wait() // why it ended is in its log
		close(p.ended)
	}()
	return p
}

// startRole runs this program in a role.
func startRole(dir, role string, env ...string) *process {
	return start(dir, role, append(env, roleVariable+"="+role), must(os.Executable()))
}

// ready waits until a role is ready and returns what it said.
func (p *process) ready(ctx context.Context) []string {
	for {
		f := must(os.Open(p.log))
		line, err := bufio.NewReader(f).ReadString('\n')
		f.Close()
		if words, ok := strings.CutPrefix(line, "ready"); ok && err == nil {
			return strings.Fields(words)
		}
		pause(ctx, 5*time.Millisecond)
	}
}

// failure names the process and quotes the end of its log.
func (p *process) failure() error {
	text, _ := os.ReadFile(p.log)
	return fmt.Errorf("the end of the log of %s:\n%s", p.name, text[max(0, len(text)-2000):])
}

// stop ends the process and all that it has started.
func (p *process) stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // its group's id; one without members is no concern
	<-p.ended
}

// usage is what processes have used so far.
type usage struct {
	cpu            time.Duration // user and system
	resident, peak float64       // MiB, summed
}

// The unit of the times in /proc, and the places of fields in /proc/PID/stat behind the program's name.
const (
	tick       = time.Second / 100
	statGroup  = 2
	statUser   = 11
	statSystem = 12
)

// used returns what processes and all that they have started have used.
func used(of []*process) (sum usage) {
	groups := map[string]bool{}
	for _, p := range of {
		groups[strconv.Itoa(p.cmd.Process.Pid)] = true
	}
	for _, path := range must(filepath.Glob("/proc/[0-9]*/stat")) {
		text, _ := os.ReadFile(path) // empty if it has just ended
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) <= statSystem || !groups[fields[statGroup]] {
			continue
		}
		user, system := must(strconv.Atoi(fields[statUser])), must(strconv.Atoi(fields[statSystem]))
		sum.cpu += time.Duration(user+system) * tick
		status, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "status"))
		sum.resident += mebibytes(string(status), "VmRSS:")
		sum.peak += mebibytes(string(status), "VmHWM:")
	}
	return sum
}

// mebibytes returns the value of a field of /proc/PID/status.
func mebibytes(status, field string) float64 {
	_, rest, _ := strings.Cut(status, "\n"+field)
	var kib float64
	_, _ = fmt.Sscan(rest, &kib) // 0 if it has just ended
	return kib / 1024
}

// A measurement that fails has no use for what follows, so check and must end it by a panic, which attempt makes
// an error again.
type failure struct{ error }

func check(err error) {
	if err != nil {
		panic(failure{err})
	}
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func attempt(f func()) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case failure:
			err = p.error
		default:
			panic(p)
		}
	}()
	f()
	return nil
}

// pause waits for d; a measurement whose context ends meanwhile fails.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		check(context.Cause(ctx))
	}
}
