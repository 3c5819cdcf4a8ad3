package natstest_test

import (
	"context"
	"slices"
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
	s.Shutdown()
	s.Shutdown()
	if _, err := nats.Connect(s.ClientURL()); err == nil {
		t.Error("a server that was shut down still takes connections")
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
