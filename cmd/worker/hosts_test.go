package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/flow"
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

// VAULT_ADDR is read as Vault's own client does, so plain http elsewhere is a warning. To go without a
// check of the certificate is refused there.
func TestVaultElsewhereIsWarnedOf(t *testing.T) {
	t.Parallel()
	for host, loopback := range hostSpellings {
		var view configView
		r := worker(t, []string{"VAULT_ADDR=http://" + host}, "", "config", "--json")
		if r.code != exitOK && loopback {
			t.Errorf("VAULT_ADDR=http://%s: exit %d:\n%s", host, r.code, r.stderr)
		}
		if r.code != exitOK {
			continue
		}
		if err := json.Unmarshal([]byte(r.stdout), &view); err != nil {
			t.Fatal(err)
		}
		warned := strings.Contains(strings.Join(view.Warnings, "\n"), "VAULT_ADDR is plain http")
		if warned == loopback {
			t.Errorf("VAULT_ADDR=http://%s: warned %t", host, warned)
		}
		skips := worker(t, []string{"VAULT_ADDR=https://" + host, "VAULT_SKIP_VERIFY=true"}, "", "config")
		if taken := skips.code == exitOK; taken != loopback {
			t.Errorf("VAULT_ADDR=https://%s with VAULT_SKIP_VERIFY: taken %t, want %t:\n%s", host, taken, loopback, skips.stderr)
		}
	}
}
