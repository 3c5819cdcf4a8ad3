package vaultdev

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestStartFails: whoever asks for the real Vault must not get away without one.
func TestStartFails(t *testing.T) {
	silent := filepath.Join(t.TempDir(), "silent")
	if err := os.WriteFile(silent, []byte("#!/bin/sh\necho trouble >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for binary, part := range map[string]string{"": "go build", "/nowhere/vaultdev": "no such file", silent: "trouble"} {
		t.Setenv(Environment, binary)
		if _, err := Start(t.Context()); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v; want %q", binary, err, part)
		}
	}
}

func TestCall(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("X-Vault-Token") != "root":
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == "/v1/data":
			_, _ = w.Write([]byte(`{"data":{"a":"b"},"auth":null}`))
		case r.URL.Path == "/v1/broken":
			_, _ = w.Write([]byte(`{`))
		}
	}))
	t.Cleanup(server.Close)
	v := &Vault{Address: server.URL, RootToken: "root"}
	if a, err := v.Call(t.Context(), http.MethodGet, "data", nil); err != nil || a.Data["a"] != "b" || a.Auth != nil {
		t.Errorf("got %+v, %v", a, err)
	}
	if a, err := v.Call(t.Context(), http.MethodPut, "empty", nil); err != nil || a.Data != nil {
		t.Errorf("an empty answer: %+v, %v", a, err)
	}
	if _, err := v.Call(t.Context(), http.MethodGet, "broken", nil); err == nil {
		t.Error("broken JSON was taken")
	}
	v.RootToken = "other"
	if _, err := v.Call(t.Context(), http.MethodGet, "data", nil); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("a refusal: %v", err)
	}
}
