package main

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// A worker with a token it got before is of no use while its Vault is sealed, and says so.
func TestSealedVaultIsNotReady(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.start()
	w.awaitReady(http.StatusOK, `"ready": true`)
	w.vault.Seal()
	w.awaitReady(http.StatusServiceUnavailable, "Vault is sealed")
	w.vault.Unseal()
	w.awaitReady(http.StatusOK, `"ready": true`)
}

// awaitReady asks /readyz until it answers so.
func (w *testWorld) awaitReady(code int, text string) {
	w.t.Helper()
	ask := time.NewTicker(20 * time.Millisecond)
	defer ask.Stop()
	deadline := time.After(time.Minute)
	for {
		got, body := w.get(w.address("http") + "/readyz")
		if got == code && strings.Contains(body, text) {
			return
		}
		select {
		case <-ask.C:
		case <-deadline:
			w.t.Fatalf("/readyz never answered %d with %q, but %d %s", code, text, got, body)
		}
	}
}
