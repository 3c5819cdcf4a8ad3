package loopback_test

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/loopback"
)

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

func TestServeUntilClosed(t *testing.T) {
	t.Parallel()
	s, err := loopback.Start(t.Context(), "127.0.0.1:0", http.HandlerFunc(hello))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "hello" {
		t.Errorf("got %q, %v", body, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(ctx); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if res, err := http.Get(s.URL); err == nil {
		_ = res.Body.Close()
		t.Error("it answers after Close")
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	s, err := loopback.Start(t.Context(), "127.0.0.1:0", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}))
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		resp, err := http.Get(s.URL)
		if err == nil {
			_ = resp.Body.Close()
		}
		failed <- err
	}()
	<-entered
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-failed; err == nil {
		t.Error("the call under way was answered")
	}
}

func TestATakenAddress(t *testing.T) {
	t.Parallel()
	s, err := loopback.Start(t.Context(), "127.0.0.1:0", http.HandlerFunc(hello))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if _, err := loopback.Start(t.Context(), s.URL[len("http://"):], http.HandlerFunc(hello)); err == nil {
		t.Error("two servers at one address")
	}
}
