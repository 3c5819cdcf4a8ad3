package app

import (
	"cmp"
	"log/slog"
	"net/http"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/flow"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/tracing"
	"github.com/flow-worker/flow-worker/internal/vault"
)

// Parts is what the clients report to. The zero value is usable.
type Parts struct {
	Log        *slog.Logger                            // nil means no log
	Registerer prometheus.Registerer                   // nil means no metrics
	OnRetry    func(provision.Target, provision.Cause) // nil means nobody asks
	Gate       provision.Gate                          // nil means that every target may be called at any time
	Version    string                                  // of this program

	Tracer *tracing.Tracer // makes spans of the clients' calls; nil means that there are none
}

func (p Parts) log(part string) *slog.Logger {
	if p.Log == nil {
		return nil
	}
	return p.Log.With("part", part)
}

// NATSConfig returns how the settings have NATS reached.
func NATSConfig(s settings.Settings) consumer.ConnConfig {
	return consumer.ConnConfig{
		URL: s.NATSURL, Creds: s.NATSCreds, NKey: s.NATSNkey, CA: s.NATSCA, Cert: s.NATSCert, Key: s.NATSKey,
		User: s.NATSUser, Password: s.NATSPassword, Token: s.NATSToken, JWT: s.NATSUserJWT, Seed: s.NATSUserSeed,
		TLSFirst: s.NATSTLSFirst, InboxPrefix: s.NATSInboxPrefix, SocksProxy: s.NATSSocksProxy,
		Domain: s.NATSJSDomain, APIPrefix: s.NATSJSAPIPrefix,
	}
}

// NewVault returns the client that a worker with these settings has.
func NewVault(s settings.Settings, p Parts) (*vault.Client, error) {
	token, file := provision.NewSensitive(s.VaultToken), s.VaultTokenFile
	if s.VaultAuth != settings.AuthToken {
		token, file = provision.Sensitive{}, ""
	}
	cfg := vault.Config{
		Address: s.VaultServer(), Token: token, TokenFile: file, Namespace: s.VaultNamespace,
		TLS: &vaultapi.TLSConfig{
			CACert: s.VaultCACert, CAPath: s.VaultCAPath, ClientCert: s.VaultClientCert, ClientKey: s.VaultClientKey,
			TLSServerName: s.VaultTLSServerName, Insecure: s.VaultSkipVerify,
		},
		Auth: vault.AuthMethod(s.VaultAuth), AuthMount: s.VaultAuthMount, Role: s.VaultRole, RoleID: s.VaultRoleID,
		SecretIDFile: s.VaultSecretIDFile, JWTFile: s.VaultJWTFile,
		KVMount: s.VaultKVMount, TenantPrefix: s.VaultTenantPrefix, CacheTTL: s.VaultCacheTTL,
		Log: p.log("vault"), Registerer: p.Registerer, OnRetry: p.OnRetry,
	}
	if p.Tracer != nil {
		cfg.Trace = func(route func(*http.Request) string, next http.RoundTripper) http.RoundTripper {
			return p.Tracer.Transport("vault", route, next)
		}
	}
	return vault.New(cfg)
}

// retryMax bounds the waits inside one listing or one fetch of a token; waiting longer is the hub's.
const retryMax = 10 * time.Second

// NewFlow returns the client that a worker with these settings has. The caller has to close it.
func NewFlow(s settings.Settings, p Parts) (*flow.Client, error) {
	cfg := flow.Config{
		BaseURL: s.FlowURL, IMSURL: s.IMSURL, Timeout: s.FlowTimeout,
		RetryInitial: s.RetryInitial, RetryMax: min(s.RetryDelayMax, retryMax),
		UserAgent: "flow-worker/" + cmp.Or(p.Version, "unknown"),
		Log:       p.log("flow"), Registerer: p.Registerer, OnRetry: p.OnRetry, Gate: p.Gate,
	}
	if p.Tracer != nil {
		cfg.Trace = func(service, route string, next http.RoundTripper) http.RoundTripper {
			return p.Tracer.Transport(service, func(*http.Request) string { return route }, next)
		}
	}
	return flow.New(cfg)
}
