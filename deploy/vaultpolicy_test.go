//go:build realvault

package deploy

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hashicorp/vault/api"
)

// realVault starts the Vault of test/vaultdev and returns a client with all rights. $FLOW_WORKER_VAULTDEV names
// its binary; without it, it is built, which takes minutes.
func realVault(t *testing.T) *api.Client {
	t.Helper()
	binary := os.Getenv("FLOW_WORKER_VAULTDEV")
	if binary == "" {
		binary = filepath.Join(t.TempDir(), "vaultdev")
		build := exec.CommandContext(t.Context(), "go", "build", "-p", "2", "-o", binary, ".")
		build.Dir = "../test/vaultdev"
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build test/vaultdev: %v\n%s", err, out)
		}
	}
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Stderr = os.Stderr
	stdin, inErr := cmd.StdinPipe() // it ends when this does
	stdout, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	var at struct{ Address, RootToken string }
	if err := json.NewDecoder(stdout).Decode(&at); err != nil {
		t.Fatalf("vaultdev's first line: %v", err)
	}
	return vaultClient(t, at.Address, at.RootToken)
}

func vaultClient(t *testing.T, address, token string) *api.Client {
	t.Helper()
	client, err := api.NewClient(&api.Config{Address: address, HttpClient: &http.Client{Transport: &http.Transport{}}})
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(token)
	return client
}
