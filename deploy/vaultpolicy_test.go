//go:build realvault

package deploy

import (
	"context"
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

// workerClient writes what an operator writes, and returns a client with the worker's policy alone.
func workerClient(ctx context.Context, t *testing.T, root *api.Client) *api.Client {
	t.Helper()
	if err := root.Sys().MountWithContext(ctx, "secret", &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}); err != nil {
		t.Fatal(err)
	}
	if err := root.Sys().PutPolicyWithContext(ctx, "flow-worker", string(read(t, "vault/policy.hcl"))); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"flow/tenants/acme/adobe", "flow/tenants/acme/databricks/acme", "flow/other", "unrelated"} {
		if _, err := root.KVv2("secret").Put(ctx, path, map[string]any{"field": "value"}); err != nil {
			t.Fatal(err)
		}
	}
	token, err := root.Auth().Token().CreateOrphanWithContext(ctx, &api.TokenCreateRequest{
		Policies: []string{"flow-worker"}, NoDefaultPolicy: true, Period: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	return vaultClient(t, root.Address(), token.Auth.ClientToken)
}

func TestVaultPolicy(t *testing.T) {
	root := realVault(t)
	ctx := testContext(t)
	worker := workerClient(ctx, t, root)
	tests := []struct {
		method, path string
		allowed      bool
	}{
		{"GET", "secret/data/flow/tenants/acme/adobe", true},
		{"GET", "secret/data/flow/tenants/acme/adobe?version=1", true},
		{"GET", "secret/data/flow/tenants/acme/databricks/acme", true},
		{"PUT", "auth/token/renew-self", true},
		{"GET", "auth/token/lookup-self", true},
		{"GET", "secret/data/flow/other", false},
		{"GET", "secret/data/unrelated", false},
		{"GET", "secret/data/flow/tenants/acme", false},
		{"LIST", "secret/metadata/flow/tenants", false},
		{"LIST", "secret/metadata/flow/tenants/acme", false},
		{"GET", "secret/metadata/flow/tenants/acme/adobe", false},
		{"PUT", "secret/data/flow/tenants/acme/adobe", false},
		{"DELETE", "secret/data/flow/tenants/acme/adobe", false},
		{"GET", "sys/mounts", false},
		{"GET", "sys/policies/acl/flow-worker", false},
		{"PUT", "auth/token/create", false},
		{"PUT", "auth/token/revoke-self", false},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			status := vaultStatus(ctx, t, worker, tt.method, tt.path)
			if (status == http.StatusForbidden) == tt.allowed || status >= 500 || tt.allowed && status != http.StatusOK {
				t.Errorf("HTTP %d, want it allowed: %t", status, tt.allowed)
			}
		})
	}
}

func vaultStatus(ctx context.Context, t *testing.T, client *api.Client, method, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, client.Address()+"/v1/"+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", client.Token())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
