package vault

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// AuthMethod says how the worker logs in.
type AuthMethod string

// The methods; the empty one means AuthToken.
const (
	AuthToken      AuthMethod = "token"      // Config.Token as it is, or what is in TokenFile
	AuthNone       AuthMethod = "none"       // no token: an agent at Address, which is on this machine, adds one
	AuthAppRole    AuthMethod = "approle"    // RoleID and the content of SecretIDFile
	AuthKubernetes AuthMethod = "kubernetes" // Role and the service account token in JWTFile
	AuthJWT        AuthMethod = "jwt"        // Role and the token in JWTFile
)

// Config says which Vault to use, as whom, and how. What it leaves empty among Address, Token,
// Namespace and TLS comes from the VAULT_* variables, which Vault's own client reads; VAULT_MAX_RETRIES
// and VAULT_WRAP_TTL are not heeded.
type Config struct {
	Address   string              // such as "https://vault.example.com:8200", without user info, plain http only to a loopback address; empty means VAULT_AGENT_ADDR, else VAULT_ADDR
	Token     provision.Sensitive // for AuthToken; empty means VAULT_TOKEN
	TokenFile string              // for AuthToken, in place of Token: read again whenever it has changed
	Namespace string              // empty means VAULT_NAMESPACE
	TLS       *vaultapi.TLSConfig // its files may be replaced at any time; nil means VAULT_CACERT and its siblings, read once; Insecure is refused unless Address is loopback

	Auth         AuthMethod // default AuthToken
	AuthMount    string     // where the method is enabled, below auth/; default its name
	Role         string     // for AuthKubernetes and AuthJWT
	RoleID       string     // for AuthAppRole
	SecretIDFile string     // for AuthAppRole, read again at every login; empty for a role without secret id
	JWTFile      string     // read again at every login; default for AuthKubernetes: the pod's service account token

	KVMount      string // default "secret"
	TenantPrefix string // what lies between KVMount and the tenant; default "flow/tenants"

	CacheTTL time.Duration // how long a read secret is used again; 0 means never

	Log        *slog.Logger          // nil means no log
	Registerer prometheus.Registerer // nil means no metrics
	// Trace wraps the transport, so that requests show in the trace of their context; route names what is asked
	// for without what differs from request to request. Nil: they don't, but carry the trace context all the same.
	Trace func(route func(*http.Request) string, next http.RoundTripper) http.RoundTripper
	// OnRetry is called before a request is repeated, from any goroutine; it must be quick. Nil is fine.
	OnRetry func(provision.Target, provision.Cause)

	transport http.RoundTripper // takes the network's place in tests
	now       func() time.Time  // takes the clock's place for TLS files in tests
	known     *keyring          // the secrets that no error may hold
}

const (
	defaultTimeout = 10 * time.Second                                      // Vault's own of 60 s is too long for a worker that holds a message
	kubernetesJWT  = "/var/run/secrets/kubernetes.io/serviceaccount/token" // where Kubernetes projects it
)

func (c Config) withDefaults() Config {
	c.known = &keyring{}
	c.Auth = cmp.Or(c.Auth, AuthToken)
	c.AuthMount = cmp.Or(strings.Trim(c.AuthMount, "/"), string(c.Auth))
	c.KVMount = cmp.Or(strings.Trim(c.KVMount, "/"), "secret")
	if c.TenantPrefix == "" {
		c.TenantPrefix = "flow/tenants"
	}
	c.TenantPrefix = strings.Trim(c.TenantPrefix, "/")
	if c.Auth == AuthKubernetes {
		c.JWTFile = cmp.Or(c.JWTFile, kubernetesJWT)
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Trace == nil {
		c.Trace = func(_ func(*http.Request) string, next http.RoundTripper) http.RoundTripper { return next }
	}
	if c.OnRetry == nil {
		c.OnRetry = func(provision.Target, provision.Cause) {}
	}
	return c
}

// validate returns everything that is wrong with c, by the names that users know.
func (c Config) validate() error {
	errs := []error{c.validateAuth()}
	for _, setting := range []struct{ name, path string }{
		{"VAULT_KV_MOUNT", c.KVMount}, {"VAULT_TENANT_PREFIX", c.TenantPrefix}, {"VAULT_AUTH_MOUNT", c.AuthMount},
	} {
		if !plainPath(setting.path) {
			errs = append(errs, fmt.Errorf("%s: %q is no path; want segments of letters, digits, \"_\", \".\" and \"-\", with \"/\" between them", setting.name, setting.path))
		}
	}
	if c.CacheTTL < 0 {
		errs = append(errs, fmt.Errorf("VAULT_CACHE_TTL: %v is negative; want 0 or more", c.CacheTTL))
	}
	return errors.Join(errs...)
}

func (c Config) validateAuth() error {
	need := func(name, value string) error {
		if value != "" {
			return nil
		}
		return fmt.Errorf("%s: must be set with VAULT_AUTH=%s", name, c.Auth)
	}
	switch c.Auth {
	case AuthNone:
		return nil // buildAPI knows the address
	case AuthToken:
		if c.TokenFile != "" && !c.Token.IsZero() {
			return errors.New("VAULT_TOKEN_FILE: is set beside VAULT_TOKEN; set one of them")
		}
		return nil // buildAPI knows whether the environment has one
	case AuthAppRole:
		return need("VAULT_ROLE_ID", c.RoleID)
	case AuthKubernetes, AuthJWT:
		return errors.Join(need("VAULT_ROLE", c.Role), need("VAULT_JWT_FILE", c.JWTFile))
	default:
		return fmt.Errorf("VAULT_AUTH: %q is unknown; want token, none, approle, kubernetes or jwt", c.Auth)
	}
}

// buildAPI returns Vault's own client, made so that it repeats nothing, wraps nothing and reads no endless answer.
func (c Config) buildAPI() (*vaultapi.Client, error) {
	files := c.tlsFiles()
	seen := digestOf(files)
	conf, err := c.baseAPI()
	if err != nil {
		return nil, err
	}
	if c.Address != "" {
		conf.Address, conf.AgentAddress = c.Address, ""
	}
	address := cmp.Or(conf.AgentAddress, conf.Address)
	if err := c.checkAddress(conf.AgentAddress != "", address, conf.TLSConfig().InsecureSkipVerify); err != nil {
		return nil, err
	}
	conf.MaxRetries = 0          // it would respect Retry-After, but without bounds and unseen: see session.get
	conf.DisableRedirects = true // a second wall: transport lets none through
	if os.Getenv(vaultapi.EnvVaultClientTimeout) == "" || conf.Timeout <= 0 {
		conf.Timeout = defaultTimeout
	}
	api, err := vaultapi.NewClient(conf)
	if err != nil {
		return nil, fmt.Errorf("VAULT_ADDR or VAULT_HEADERS: %w", err)
	}
	next := conf.HttpClient.Transport
	if len(files) > 0 && !strings.HasPrefix(address, "unix://") { // NewClient had it dial a socket, without TLS
		next = &reloading{files: files, reload: c.baseAPI, now: c.now, log: c.Log, current: next, seen: seen}
	}
	conf.HttpClient.Transport = transport{c.Trace(routeOf, cmp.Or(c.transport, next))}
	api.SetWrappingLookupFunc(func(string, string) string { return "" })
	if c.Namespace != "" {
		api.SetNamespace(c.Namespace)
	}
	return api, c.chooseToken(api)
}

// baseAPI returns the settings of Vault's own client, its transport included, as Config and environment have
// them. It reads the TLS files.
func (c Config) baseAPI() (*vaultapi.Config, error) {
	conf := vaultapi.DefaultConfig()
	if conf.Error != nil {
		return nil, fmt.Errorf("the VAULT_* variables: %w", conf.Error)
	}
	if c.TLS != nil {
		if err := conf.ConfigureTLS(c.TLS); err != nil {
			return nil, fmt.Errorf("TLS for Vault: %w", err)
		}
	}
	return conf, nil
}

// tlsFiles returns the files and directories that the TLS settings name.
func (c Config) tlsFiles() []string {
	if c.TLS == nil {
		return nil
	}
	files := []string{c.TLS.CACert, c.TLS.CAPath, c.TLS.ClientCert, c.TLS.ClientKey}
	return slices.DeleteFunc(files, func(path string) bool { return path == "" })
}

// chooseToken leaves api with the token to begin with: none, where one is to be got by a login.
func (c Config) chooseToken(api *vaultapi.Client) error {
	if c.Auth != AuthToken || c.TokenFile != "" {
		api.ClearToken()
		return nil
	}
	if !c.Token.IsZero() {
		api.SetToken(c.Token.Reveal())
	}
	switch token := api.Token(); {
	case token == "":
		return errors.New("VAULT_TOKEN: must be set with VAULT_AUTH=token, or VAULT_TOKEN_FILE")
	case strings.ContainsFunc(token, notPrintable):
		return errors.New("VAULT_TOKEN: has blanks or control characters; want the token alone, without a line break")
	}
	return nil
}

// checkAddress says what is wrong with the address, which is the agent's or the server's.
func (c Config) checkAddress(agent bool, address string, insecure bool) error {
	if strings.HasPrefix(address, "unix://") {
		return nil
	}
	setting := vaultapi.EnvVaultAddress
	if agent {
		setting = vaultapi.EnvVaultAgentAddr
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%s: is no address; want https://<host>:<port>", setting) // it may hold a password: not quoted
	case u.User != nil:
		return fmt.Errorf("%s: holds user info; want https://<host>:<port>", setting)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return fmt.Errorf("%s: is plain http to %s, where others could read every secret; want https, or an agent on a loopback address (VAULT_AUTH=none)", setting, u.Hostname())
	case c.Auth == AuthNone && !loopback(u.Hostname()):
		return fmt.Errorf("VAULT_AUTH: is none, and %s names %s; only an agent on a loopback address or a Unix socket adds a token for this worker alone", setting, u.Hostname())
	case u.Scheme == "http" && (os.Getenv(vaultapi.EnvHTTPProxy) != "" || os.Getenv(vaultapi.EnvVaultProxyAddr) != ""):
		// Vault's client uses these for loopback addresses, too, as it does not use HTTP_PROXY.
		return fmt.Errorf("%s: is plain http, and %s or %s would have it leave this machine; want https, or no proxy", setting, vaultapi.EnvHTTPProxy, vaultapi.EnvVaultProxyAddr)
	case insecure && !loopback(u.Hostname()):
		return fmt.Errorf("VAULT_SKIP_VERIFY: refused, for whoever sits in between would get every secret; set VAULT_CACERT (only a loopback %s may skip)", setting)
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
