package natstest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/natstest"
)

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestRestartKeepsPortAndStreams(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	s := natstest.Run(t, natstest.Options{})
	url := s.ClientURL()
	js := natstest.Connect(t, url)
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "s", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if got := s.ClientURL(); got != url {
		t.Errorf("URL after the restart is %s, was %s", got, url)
	}
	stream, err := natstest.Connect(t, url).Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(ctx, 1)
	if err != nil || string(msg.Data) != "kept" {
		t.Errorf("message after the restart: %v, %v", msg, err)
	}
}

func TestShutdownTwice(t *testing.T) {
	t.Parallel()
	s, err := natstest.Start(testContext(t), natstest.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	nc, err := nats.Connect(s.ClientURL(), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	s.Shutdown()
	s.Shutdown()
	select { // to connect again could find another server that has taken the port since
	case <-closed:
	case <-testContext(t).Done():
		t.Error("a server that was shut down keeps its connections")
	}
}

func TestStartReportsABadDirectory(t *testing.T) {
	t.Parallel()
	if s, err := natstest.Start(testContext(t), natstest.Options{StoreDir: "/dev/null/x"}); err == nil {
		s.Shutdown()
		t.Error("Start succeeded without a directory to write to")
	}
}

func TestFreePorts(t *testing.T) {
	t.Parallel()
	ports, err := natstest.FreePorts(t.Context(), 20)
	slices.Sort(ports)
	if n := len(slices.Compact(ports)); err != nil || n != 20 || ports[0] == 0 {
		t.Errorf("%d different ports from %v on, %v; want 20", n, ports, err)
	}
}

func TestClusterReplicates(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	cluster := natstest.RunCluster(t, 3, natstest.Options{})
	js := natstest.Connect(t, cluster[0].ClientURL())
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	leaders := 0
	for _, s := range cluster {
		if s.LeadsStream("S") {
			leaders++
		}
	}
	if leaders != 1 {
		t.Errorf("%d leaders, want 1", leaders)
	}
}

// fakeTest is a test that only notes how it goes.
type fakeTest struct {
	*testing.T
	failed   string
	cleanups []func()
}

func (f *fakeTest) Cleanup(c func()) { f.cleanups = append(f.cleanups, c) }

func (f *fakeTest) Fatal(args ...any) {
	f.failed = fmt.Sprint(args...)
	runtime.Goexit()
}

// run runs a whole test and its cleanups, last first.
func (f *fakeTest) run(body func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		body()
	}()
	<-done
	for i := range f.cleanups {
		f.cleanups[len(f.cleanups)-1-i]()
	}
}

func TestAllEndsWithTheTest(t *testing.T) {
	t.Parallel()
	f := &fakeTest{T: t}
	var url string
	var nc *nats.Conn
	f.run(func() {
		url = natstest.Run(f, natstest.Options{}).ClientURL()
		nc = natstest.Connect(f, url).Conn()
	})
	if f.failed != "" || nc == nil || !nc.IsClosed() {
		t.Errorf("the connection is still open; failed with %q", f.failed)
	}
	if _, err := nats.Connect(url); err == nil {
		t.Error("the server still takes connections")
	}
}

func TestFailuresAreTheTests(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		want string
		body func(natstest.TB)
	}{
		{"store directory", func(f natstest.TB) { natstest.Run(f, natstest.Options{StoreDir: "/dev/null/x"}) }},
		{"configuration", func(f natstest.TB) { natstest.Run(f, natstest.Options{ConfigFile: "none.conf"}) }},
		{"configuration", func(f natstest.TB) { natstest.RunCluster(f, 3, natstest.Options{ConfigFile: "none.conf"}) }},
		{nats.ErrNoServers.Error(), func(f natstest.TB) { natstest.Connect(f, "nats://127.0.0.1:1") }},
	} {
		f := &fakeTest{T: t}
		f.run(func() { tc.body(f) })
		if !strings.Contains(f.failed, tc.want) {
			t.Errorf("failed with %q, want %q", f.failed, tc.want)
		}
	}
}

// A server's own file decides on users and limits, before and after a restart, but not where it
// listens and stores.
func TestConfigFile(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	file := filepath.Join(t.TempDir(), "server.conf")
	ports, err := natstest.FreePorts(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`listen: "0.0.0.0:4222", http: "127.0.0.1:%d", max_payload: 1000, jetstream { store_dir: "/dev/null/x" }
authorization { users: [ { user: a, password: p, permissions { publish: "allowed" } } ] }`, ports[0])
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := natstest.Run(t, natstest.Options{ConfigFile: file})
	if res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/varz", ports[0])); err == nil {
		_ = res.Body.Close()
		t.Error("the server listens where the file says")
	}
	for range 2 {
		if nc, err := nats.Connect(s.ClientURL()); err == nil {
			nc.Close()
			t.Error("a user without a name may connect")
		}
		nc := natstest.Connect(t, s.ClientURL(), natstest.As("a", "p")).Conn()
		if nc.MaxPayload() != 1000 {
			t.Errorf("largest message: %d bytes, want 1000", nc.MaxPayload())
		}
		if err := errors.Join(nc.Publish("refused", nil), nc.Flush()); err != nil {
			t.Fatal(err)
		}
		if err := nc.LastError(); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("after a message that is not allowed: %v", err)
		}
		if err := s.Restart(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
