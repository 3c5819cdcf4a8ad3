package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

// asMain makes the test binary be the worker itself, for what only a process of its own can show.
const asMain = "FLOW_WORKER_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

// Nothing but the worker itself speaks of a limit of OpenTelemetry's that can't be read, and it only once.
func TestLimitsThatCanNotBeRead(t *testing.T) {
	t.Parallel()
	const limit = "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"
	for _, tc := range []struct {
		environ []string
		want    int // lines that name it
	}{{[]string{limit + "=unlimited"}, 1}, {[]string{limit + "=unlimited", "OTEL_SDK_DISABLED=true"}, 0}} {
		cmd := exec.Command(os.Args[0], "config", "--json")
		cmd.Env = append(tc.environ, asMain+"=1", "VAULT_TOKEN=t")
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil || errs.Len() > 0 || strings.Count(out.String(), "not supported, left out") != tc.want {
			t.Errorf("%q: %v:\n%s%s", tc.environ, err, out.String(), errs.String())
		}
	}
}

// process is a worker in a process of its own.
type process struct {
	*exec.Cmd
	t   *testing.T
	log safeBuffer
}

func (w *testWorld) process(args ...string) *process {
	w.t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], args...), t: w.t}
	p.Env = append([]string{asMain + "=1"}, w.environ...)
	p.Stderr = &p.log
	if err := p.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = p.Process.Kill() })
	return p
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) exit() int {
	var exit *exec.ExitError
	if err := p.Wait(); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

func TestOneSignalEndsTheWorkerWell(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := w.process("run")
		p.log.await(t, "worker is ready")
		p.signal(s)
		if code := p.exit(); code != 0 {
			t.Errorf("%v: exit %d:\n%s", s, code, p.log.String())
		}
	}
}

func TestTheSecondSignalForces(t *testing.T) {
	t.Parallel()
	for s, want := range map[syscall.Signal]int{syscall.SIGTERM: 143, syscall.SIGINT: 130} {
		w := newTestWorld(t)
		w.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectHang})
		p := w.process("run")
		p.log.await(t, "worker is ready")
		w.worker(request("A", goodToken), "submit", "--tenant", "acme", "-")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := w.flow.Wait(ctx, func(e *flowtest.Emulator) bool { return e.Hanging() == 1 }); err != nil {
			t.Fatal(err)
		}
		cancel()
		p.signal(syscall.SIGTERM)
		p.log.await(t, "intake stopped")
		p.signal(s)
		if code := p.exit(); code != want {
			t.Errorf("%v: exit %d, want %d:\n%s", s, code, want, p.log.String())
		}
	}
}
