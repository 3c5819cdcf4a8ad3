//go:build realvault

package deploy

import (
	"net/http"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/vault/vaultdev"
)

// realVault starts the real Vault, and returns a client with all rights. See package vaultdev for where it
// comes from.
func realVault(t *testing.T) *api.Client {
	t.Helper()
	v, err := vaultdev.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Stop(); err != nil || t.Failed() {
			t.Logf("%v\n%s", err, v.Log())
		}
	})
	return vaultClient(t, v.Address, v.RootToken)
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
