package app_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

func load(t *testing.T, environ ...string) settings.Settings {
	t.Helper()
	set, err := settings.Load(settings.Source{Environ: append([]string{
		"VAULT_TOKEN=t", "WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_STATUS_ADDR=127.0.0.1:0",
	}, environ...)}, settings.All...)
	if err != nil {
		t.Fatal(err)
	}
	return set.Settings
}

// Nothing is left running by a worker that has come and gone. Not parallel: it counts goroutines.
func TestRunLeavesNothingBehind(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	vault := vaulttest.New(vaulttest.Config{})
	vaultAt := httptest.NewServer(vault)
	broker := natstest.Run(t, natstest.Options{})
	startCtx, cancelStart := context.WithTimeout(t.Context(), time.Minute)
	defer cancelStart()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready := make(chan app.Addresses, 1)
	ended := make(chan error, 1)
	go func() {
		s := load(t, "NATS_URL="+broker.ClientURL(), "VAULT_ADDR="+vaultAt.URL, "VAULT_TOKEN="+vault.Token())
		ended <- app.Run(ctx, s, app.Deps{Ready: func(a app.Addresses) { ready <- a }})
	}()
	select {
	case at := <-ready:
		checkEndpoints(t, at)
	case err := <-ended:
		t.Fatalf("ended before it was ready: %v", err)
	case <-startCtx.Done():
		t.Fatal("did not get ready")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	broker.Shutdown()
	vaultAt.Close()
	http.DefaultClient.CloseIdleConnections()
	goleak.VerifyNone(t, ignore)
}

func checkEndpoints(t *testing.T, at app.Addresses) {
	t.Helper()
	for _, url := range []string{"http://" + at.HTTP + "/healthz", "http://" + at.HTTP + "/readyz", "http://" + at.HTTP + "/metrics", "http://" + at.Status + "/"} {
		resp, err := http.Get(url)
		if err != nil {
			t.Error(err)
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s answers %s", url, resp.Status)
		}
	}
}

func TestRunRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	s := load(t)
	s.VaultToken = ""
	t.Run("no token", func(t *testing.T) {
		t.Parallel()
		if err := app.Run(t.Context(), s, app.Deps{}); err == nil || !strings.Contains(err.Error(), "VAULT_TOKEN") {
			t.Errorf("got %v", err)
		}
	})
	s2 := load(t)
	s2.HTTPAddr = "256.0.0.1:1"
	t.Run("no address", func(t *testing.T) {
		t.Parallel()
		if err := app.Run(t.Context(), s2, app.Deps{}); err == nil || !strings.Contains(err.Error(), "WORKER_HTTP_ADDR") {
			t.Errorf("got %v", err)
		}
	})
}
