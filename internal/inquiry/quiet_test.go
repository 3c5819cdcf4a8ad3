package inquiry

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/natstest"
)

func TestSeldom(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := newRareLog(slog.New(slog.NewTextHandler(&log, nil)))
	now := time.Unix(1, 0)
	s.now = func() time.Time { return now }
	for range 5 {
		s.warn("a")
	}
	s.warn("b")
	now = now.Add(rareEvery)
	s.warn("a")
	s.warn("a")
	var got []string
	for line := range strings.Lines(log.String()) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), "msg=")
		got = append(got, line)
	}
	if text := strings.Join(got, "; "); text != "a left_out=0; b left_out=0; a left_out=4" {
		t.Errorf("log: %s", text)
	}
}

// A connection's troubles, hundreds of which a tenant may bring about, are a line for each kind.
func TestQuiet(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL()).Conn()
	var log bytes.Buffer
	Quiet(nc, slog.New(slog.NewTextHandler(&log, nil)))
	for i := range 100 {
		nc.ErrorHandler()(nc, nil, nats.ErrSlowConsumer)
		nc.ErrorHandler()(nc, nil, fmt.Errorf("%w: Permissions Violation for Publish to %q", nats.ErrPermissionViolation, fmt.Sprint("_R_.", i)))
		nc.DisconnectErrHandler()(nc, errors.New("cut off"))
		nc.ReconnectHandler()(nc)
	}
	if text := log.String(); strings.Count(text, "\n") != 4 || !strings.Contains(text, "slow consumer") || !strings.Contains(text, "_R_.0") || !strings.Contains(text, "cut off") {
		t.Errorf("log:\n%s", text)
	}
	Quiet(nc, nil)
	nc.ErrorHandler()(nc, nil, nats.ErrSlowConsumer) // doesn't panic
}
