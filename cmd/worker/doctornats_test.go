package main

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
)

// A server that takes the connection and then says nothing, as a frozen one does.
func TestFrozenNATSHasARemedy(t *testing.T) {
	t.Parallel()
	frozen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = frozen.Close() })
	set := settings.Settings{NATSURL: "nats://me:hidden@" + frozen.Addr().String()}
	_, err = nats.Connect(set.NATSURL, nats.Timeout(50*time.Millisecond))
	if err == nil {
		t.Fatal("it is not frozen")
	}
	got := unreachable(set, err)
	for _, want := range []string{"does not answer", "i/o timeout", "NATS_URL", "whether the server hangs"} {
		if !strings.Contains(got.Error(), want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if strings.Contains(got.Error(), "hidden") || !errors.Is(got, err) {
		t.Errorf("got %q", got)
	}
	if other := unreachable(set, errors.New("odd")); strings.Contains(other.Error(), "does not answer") {
		t.Errorf("another error: %q", other)
	}
}
