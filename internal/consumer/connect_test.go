package consumer_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

func TestConnectNamesBadFiles(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("SUsecret-seed"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]consumer.ConnConfig{
		"creds": {Creds: missing}, "nkey": {NKey: missing}, "ca": {CA: missing}, "cert": {Cert: missing, Key: missing},
		"nkey that is none": {NKey: garbage}, "ca that is none": {CA: garbage}, "pair that is none": {Cert: garbage, Key: garbage},
		"cert without key": {Cert: garbage}, "URL": {URL: "nats://bad host:x"},
	} {
		if cfg.URL == "" {
			cfg.URL = "nats://127.0.0.1:1"
		}
		nc, err := consumer.Connect(cfg)
		if err == nil {
			nc.Close()
			t.Errorf("%s: no error", name)
			continue
		}
		if strings.Contains(err.Error(), "secret-seed") {
			t.Errorf("%s: the error shows the seed: %v", name, err)
		}
	}
}

func TestConnectGivesItsName(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	if nc := r.js.Conn(); !nc.IsConnected() || nc.Opts.Name != t.Name() {
		t.Errorf("connected %v as %q", nc.IsConnected(), nc.Opts.Name)
	}
}

func TestConnectionIsLoggedWithoutPassword(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	var log lockedBuffer
	url := strings.Replace(r.server.ClientURL(), "nats://", "nats://user:pa55word@", 1)
	nc, err := consumer.Connect(consumer.ConnConfig{URL: url, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	handler := nc.Opts.ClosedCB
	nc.SetClosedHandler(func(nc *nats.Conn) { handler(nc); close(closed) })
	r.eventually("connected", func() bool { return strings.Contains(log.String(), "NATS connected") })
	if err := r.server.Restart(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.eventually("reconnected", func() bool { return strings.Contains(log.String(), "NATS reconnected") })
	nc.Close()
	receive(r, closed, "end of the connection")
	if text := log.String(); strings.Contains(text, "pa55word") || !strings.Contains(text, "NATS connection closed") {
		t.Errorf("log:\n%s", text)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
