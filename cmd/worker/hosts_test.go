package main

import (
	"strings"
	"testing"

	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/flow"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault"
)

// hostSpellings are hosts of URLs, and whether what is sent to them surely stays on this machine.
var hostSpellings = map[string]bool{
	"127.0.0.1": true, "127.0.0.1:8090": true, "127.255.255.254": true, "localhost": true, "localhost:8090": true, "[::1]": true, "[::1]:8090": true,
	"[::ffff:127.0.0.1]": true, "[::ffff:7f00:1]:80": true, "[0:0:0:0:0:0:0:1]": true,

	"127.0.0.1.evil.com": false, "127.0.0.1.nip.io:8090": false, "localhost.evil.com": false, "localhost.": false, "localhost.localdomain": false,
	"127.0.0.1.": false, "127.1": false, "127.0.1": false, "0177.0.0.1": false, "127.0.0.01": false, "0x7f.0.0.1": false, "2130706433": false, "0x7f000001": false,
	"0.0.0.0": false, "0": false, "[::]": false, "[::ffff:0.0.0.0]": false, "[::127.0.0.1]": false, "[64:ff9b::127.0.0.1]": false, "[fe80::1]": false,
	"128.0.0.1": false, "126.255.255.255": false, "10.0.0.1": false, "169.254.169.254": false, "evil.com": false, "evil.com:127": false,
	"evil.com#127.0.0.1": false, "evil.com?127.0.0.1": false, "evil.com/127.0.0.1": false, `evil.com\127.0.0.1`: false, "127.0.0.1@evil.com": false,
	"localhost@evil.com": false, "localhost%2eevil.com": false, "127.0.0.1%00.evil.com": false, "ⓛocalhost": false, "１２７.0.0.1": false, "127。0。0。1": false,
	" localhost": false, "": false, ":8090": false, "[::1": false, "::1": false, "localhost localhost": false,
}

// Credentials go over https, or stay on the machine. The client says so a second time, for whoever uses
// it without the settings.
func TestPlainHTTPIsForLoopback(t *testing.T) {
	t.Parallel()
	for host, want := range hostSpellings {
		for _, name := range []string{"FLOW_URL", "IMS_URL"} {
			r := worker(t, []string{name + "=http://" + host}, "", "config")
			if got := r.code == exitOK; got != want || !got && !strings.Contains(r.stderr, name+":") {
				t.Errorf("%s=http://%s: exit %d, taken %t, want %t:\n%s", name, host, r.code, got, want, r.stderr)
			}
		}
		for field, cfg := range map[string]flow.Config{"BaseURL": {BaseURL: "http://" + host}, "IMSURL": {IMSURL: "http://" + host}} {
			c, err := flow.New(cfg)
			if got := err == nil; got != want {
				t.Errorf("%s http://%s: taken by the client %t, want %t", field, host, got, want)
			}
			if err == nil {
				c.Close()
			}
		}
	}
}

// What is sent to Vault goes over https or stays on the machine, and so does what comes back. To go without
// a check of the certificate is refused likewise.
func TestVaultElsewhereNeedsTLS(t *testing.T) {
	t.Parallel()
	for host, want := range hostSpellings {
		r := worker(t, []string{"VAULT_ADDR=http://" + host}, "", "config")
		if got := r.code == exitOK; got != want || !got && (r.code != exitUsage || !strings.Contains(r.stderr, "VAULT_ADDR:")) {
			t.Errorf("VAULT_ADDR=http://%s: exit %d, taken %t, want %t:\n%s", host, r.code, got, want, r.stderr)
		}
		skips := worker(t, []string{"VAULT_ADDR=https://" + host, "VAULT_SKIP_VERIFY=true"}, "", "config")
		if got := skips.code == exitOK; got != want {
			t.Errorf("VAULT_ADDR=https://%s with VAULT_SKIP_VERIFY: taken %t, want %t:\n%s", host, got, want, skips.stderr)
		}
		for _, conf := range []vault.Config{{Address: "http://" + host}, {Address: "https://" + host, TLS: &vaultapi.TLSConfig{Insecure: true}}} {
			conf.Token = provision.NewSensitive("t")
			if _, err := vault.New(conf); (err == nil) != want {
				t.Errorf("%s: taken by the client %t, want %t: %v", conf.Address, err == nil, want, err)
			}
		}
	}
}
