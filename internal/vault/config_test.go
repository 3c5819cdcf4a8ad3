package vault

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

func TestWrongConfig(t *testing.T) {
	t.Parallel()
	good := Config{Address: "https://vault.example.com", Token: provision.NewSensitive("t-" + canary)}
	for name, tc := range map[string]struct {
		change func(*Config)
		parts  []string
	}{
		"method":           {func(c *Config) { c.Auth = "ldap" }, []string{"VAULT_AUTH", "ldap", "approle, kubernetes or jwt"}},
		"no role id":       {func(c *Config) { c.Auth = AuthAppRole }, []string{"VAULT_ROLE_ID"}},
		"no role":          {func(c *Config) { c.Auth = AuthKubernetes }, []string{"VAULT_ROLE:"}},
		"no jwt":           {func(c *Config) { c.Auth = AuthJWT }, []string{"VAULT_ROLE:", "VAULT_JWT_FILE"}},
		"mount":            {func(c *Config) { c.KVMount = "secret/../sys" }, []string{"VAULT_KV_MOUNT"}},
		"prefix":           {func(c *Config) { c.TenantPrefix = "flow//tenants" }, []string{"VAULT_TENANT_PREFIX"}},
		"no prefix":        {func(c *Config) { c.TenantPrefix = "/" }, []string{"VAULT_TENANT_PREFIX"}},
		"auth mount":       {func(c *Config) { c.AuthMount = "a?b" }, []string{"VAULT_AUTH_MOUNT"}},
		"cache":            {func(c *Config) { c.CacheTTL = -1 }, []string{"VAULT_CACHE_TTL"}},
		"token with blank": {func(c *Config) { c.Token = provision.NewSensitive("t-" + canary + "\n") }, []string{"VAULT_TOKEN", "line break"}},
		"address":          {func(c *Config) { c.Address = "vault.example.com:8200" }, []string{"VAULT_ADDR"}},
		"broken address":   {func(c *Config) { c.Address = "https://" + canary + "\x7f" }, []string{"VAULT_ADDR"}},
		"user info":        {func(c *Config) { c.Address = "https://u:" + canary + "@vault.example.com" }, []string{"VAULT_ADDR", "user info"}},
		"plain http":       {func(c *Config) { c.Address = "http://vault.example.com:8200" }, []string{"VAULT_ADDR", "plain http to vault.example.com", "https"}},
		"like loopback":    {func(c *Config) { c.Address = "http://127.0.0.1.example.com" }, []string{"VAULT_ADDR", "plain http"}},
		"no host":          {func(c *Config) { c.Address = "http://:8200" }, []string{"VAULT_ADDR", "no address"}},
		"skip verify":      {func(c *Config) { c.TLS = &vaultapi.TLSConfig{Insecure: true} }, []string{"VAULT_SKIP_VERIFY", "VAULT_CACERT"}},
		"no such CA":       {func(c *Config) { c.TLS = &vaultapi.TLSConfig{CACert: "/nowhere.pem"} }, []string{"/nowhere.pem"}},
		"all at once":      {func(c *Config) { c.Auth, c.KVMount, c.Address = "ldap", "..", "x" }, []string{"VAULT_AUTH", "VAULT_KV_MOUNT", "VAULT_ADDR"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conf := good
			tc.change(&conf)
			_, err := New(conf)
			if err == nil {
				t.Fatal("no error")
			}
			for _, p := range tc.parts {
				if !strings.Contains(err.Error(), p) {
					t.Errorf("error %q does not mention %q", err, p)
				}
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("error tells a secret: %v", err)
			}
		})
	}
}

func TestSkipVerifyOnLoopback(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"https://127.0.0.1:8200", "https://localhost:8200", "https://[::1]:8200"} {
		if _, err := New(Config{Address: address, Token: provision.NewSensitive("t"), TLS: &vaultapi.TLSConfig{Insecure: true}}); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"https://10.0.0.1", "https://localhost.example.com", "https://127.0.0.1.example.com"} {
		if _, err := New(Config{Address: address, Token: provision.NewSensitive("t"), TLS: &vaultapi.TLSConfig{Insecure: true}}); err == nil {
			t.Errorf("%s: not refused", address)
		}
	}
}

// TestAgentIsCheckedToo: VAULT_AGENT_ADDR is used in place of VAULT_ADDR where Config has no address.
func TestAgentIsCheckedToo(t *testing.T) {
	t.Setenv("VAULT_ADDR", "https://vault.example.com")
	for address, refused := range map[string]bool{
		"http://agent.example.com:8100": true, "agent:8100": true, "http://u:" + canary + "@127.0.0.1": true,
		"http://127.0.0.1:8100": false, "https://agent.example.com": false, "unix:///run/vault/agent.sock": false,
	} {
		t.Setenv("VAULT_AGENT_ADDR", address)
		_, err := New(Config{Token: provision.NewSensitive("t")})
		if (err != nil) != refused || refused && (!strings.Contains(err.Error(), "VAULT_AGENT_ADDR") || strings.Contains(err.Error(), canary)) {
			t.Errorf("%s: %v", address, err)
		}
		if _, err := New(Config{Address: "https://vault.example.com", Token: provision.NewSensitive("t")}); err != nil {
			t.Errorf("%s is not used, and refused: %v", address, err)
		}
	}
}

// TestPlainHTTPThroughAProxy leaves the machine though the address is a loopback one.
func TestPlainHTTPThroughAProxy(t *testing.T) {
	for _, name := range []string{"VAULT_HTTP_PROXY", "VAULT_PROXY_ADDR"} {
		t.Setenv(name, "https://proxy.example.com")
		for address, refused := range map[string]bool{"http://127.0.0.1:8200": true, "https://127.0.0.1:8200": false, "https://vault.example.com": false} {
			_, err := New(Config{Address: address, Token: provision.NewSensitive("t")})
			if (err != nil) != refused || refused && !strings.Contains(err.Error(), name) {
				t.Errorf("%s=…, %s: %v", name, address, err)
			}
		}
		t.Setenv(name, "")
	}
}

func TestMetricsTwice(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	conf := Config{Address: "http://127.0.0.1:1", Token: provision.NewSensitive("t"), Registerer: reg}
	if _, err := New(conf); err != nil {
		t.Fatal(err)
	}
	if _, err := New(conf); err == nil {
		t.Error("the same metrics were registered twice")
	}
}

// TestEnvironment checks that the VAULT_* variables work as in Vault's own client, except those that
// would break the worker.
func TestEnvironment(t *testing.T) {
	server := httptest.NewServer(serverOf(vaulttest.Config{RootToken: "env-" + canary}))
	defer server.Close()
	t.Setenv("VAULT_ADDR", server.URL)
	t.Setenv("VAULT_TOKEN", "env-"+canary)
	t.Setenv("VAULT_MAX_RETRIES", "9")
	t.Setenv("VAULT_WRAP_TTL", "5m")
	t.Setenv("VAULT_CLIENT_TIMEOUT", "7")
	client, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if client.session.timeout != 7*time.Second || client.session.api.MaxRetries() != 0 {
		t.Errorf("timeout %v, %d retries", client.session.timeout, client.session.api.MaxRetries())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	got, err := client.Resolve(ctx, "acme", ref("databricks/acme", "accessToken"), false)
	checkValue(t, got, err, "dapi-"+canary)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestEnvironmentIsChecked(t *testing.T) {
	t.Setenv("VAULT_ADDR", "https://vault.example.com")
	t.Setenv("VAULT_TOKEN", "")
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "VAULT_TOKEN") {
		t.Errorf("without a token: %v", err)
	}
	t.Setenv("VAULT_SKIP_VERIFY", "true")
	if _, err := New(Config{Token: provision.NewSensitive("t")}); err == nil || !strings.Contains(err.Error(), "VAULT_SKIP_VERIFY") {
		t.Errorf("with VAULT_SKIP_VERIFY: %v", err)
	}
	t.Setenv("VAULT_SKIP_VERIFY", "perhaps")
	if _, err := New(Config{Token: provision.NewSensitive("t")}); err == nil {
		t.Error("with a broken VAULT_SKIP_VERIFY: no error")
	}
}

func TestDefaultTimeout(t *testing.T) {
	for set, want := range map[string]time.Duration{"": 10 * time.Second, "3": 3 * time.Second} {
		t.Setenv("VAULT_CLIENT_TIMEOUT", set)
		client, err := New(Config{Address: "http://127.0.0.1:1", Token: provision.NewSensitive("t")})
		if err != nil || client.session.timeout != want {
			t.Errorf("timeout %v, %v; want %v", client.session.timeout, err, want)
		}
	}
}

// TestTLS checks that a server is believed with its CA and not without.
func TestTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(serverOf(vaulttest.Config{}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of the client that does not believe it
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
	if err := os.WriteFile(ca, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		conf *vaultapi.TLSConfig
		ok   bool
	}{"with its CA": {&vaultapi.TLSConfig{CACert: ca}, true}, "without": {nil, false}} {
		client, err := New(Config{Address: server.URL, Token: provision.NewSensitive("t"), TLS: tc.conf})
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Health(t.Context()); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// endless is a response body without an end.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

func (*endless) Close() error { return nil }

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAnswersAreLimited(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 404, 500} {
		body := &endless{}
		client, err := New(Config{Address: "http://127.0.0.1:1", Token: provision.NewSensitive("t"), transport: transportFunc(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Body: body, Request: r, Header: http.Header{}}, nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.session.getOnce(t.Context(), 0, "secret/data/x", nil); err == nil {
			t.Errorf("HTTP %d: an endless answer was taken", status)
		}
		if body.read > maxAnswer {
			t.Errorf("HTTP %d: %d bytes were read", status, body.read)
		}
	}
}
