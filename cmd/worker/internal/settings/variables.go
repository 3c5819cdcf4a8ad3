package settings

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Group is a set of variables that are needed together.
type Group string

// The groups.
const (
	NATS     Group = "nats"     // how to reach NATS
	Vault    Group = "vault"    // how to reach Vault
	Secrets  Group = "secrets"  // where the tenants are in Vault
	Flow     Group = "flow"     // how to reach the Flow Service and IMS
	HTTP     Group = "http"     // where to listen
	Work     Group = "work"     // how requests are worked on
	Requests Group = "requests" // what a valid request is
	Streams  Group = "streams"  // how NATS objects are made
	Log      Group = "log"      // what is logged, and how
	Traces   Group = "traces"   // where spans are exported, and which
)

// All lists every group: what a worker needs.
var All = []Group{NATS, Vault, Secrets, Flow, HTTP, Work, Requests, Streams, Log, Traces}

const (
	formatJSON = "json"
	formatText = "text"
	day        = 24 * time.Hour
)

// Variable describes one setting.
type Variable struct {
	Name    string
	Group   Group
	Default string
	Help    string // one line for people

	set  func(*Settings, string) error // its error tells what would be right, never the value of a secret
	mask func(string) string           // nil means that the value can be shown as it is
}

// Flag returns the name of the flag that beats the variable.
func (v Variable) Flag() string {
	return strings.ToLower(strings.ReplaceAll(v.Name, "_", "-"))
}

func (v Variable) in(groups []Group) bool { return slices.Contains(groups, v.Group) }

// show returns the text as people may see it. One that could not be read may be a secret in the wrong
// place.
func (v Variable) show(text string, err error) string {
	switch {
	case text == "" || v.mask == nil && err == nil:
		return text
	case v.mask == nil:
		return shape(text)
	case err != nil:
		return masked
	default:
		return v.mask(text)
	}
}

// AddFlags defines the flags of the given groups' variables. The returned function reads those that
// were given, in the form that Source wants.
func AddFlags(fs *pflag.FlagSet, groups ...Group) func() map[string]string {
	for _, v := range variables {
		if !v.in(groups) {
			continue
		}
		fs.String(v.Flag(), v.Default, v.Help+" ["+v.Name+"]")
		if v.Default == "true" || v.Default == "false" {
			fs.Lookup(v.Flag()).NoOptDefVal = "true"
		}
	}
	return func() map[string]string {
		given := map[string]string{}
		for _, v := range variables {
			if f := fs.Lookup(v.Flag()); f != nil && f.Changed {
				given[v.Name] = f.Value.String()
			}
		}
		return given
	}
}

// variables lists all settings in the contract's order. Bounds are where a value stops making sense,
// not where it stops working.
var variables = slices.Concat(natsVariables, vaultVariables, flowVariables, httpVariables, workVariables, logVariables, traceVariables)

var natsVariables = []Variable{
	{"NATS_URL", NATS, "nats://127.0.0.1:4222", "NATS servers, separated by commas", natsURLs(func(s *Settings) *string { return &s.NATSURL }), MaskURLs},
	{"NATS_CREDS", NATS, "", "NATS credentials file", file(func(s *Settings) *string { return &s.NATSCreds }), nil},
	{"NATS_NKEY", NATS, "", "file with a NATS NKey seed", file(func(s *Settings) *string { return &s.NATSNkey }), nil},
	{"NATS_CA", NATS, "", "PEM file with the authorities to trust", file(func(s *Settings) *string { return &s.NATSCA }), nil},
	{"NATS_CERT", NATS, "", "TLS client certificate", file(func(s *Settings) *string { return &s.NATSCert }), nil},
	{"NATS_KEY", NATS, "", "key of the TLS client certificate", file(func(s *Settings) *string { return &s.NATSKey }), nil},
	{natsUser, NATS, "", "user name, or a token where there is no password", text(func(s *Settings) *string { return &s.NATSUser }), nil},
	{natsPassword, NATS, "", "password of the user, better set in the environment than on the command line", plainText(func(s *Settings) *string { return &s.NATSPassword }), maskAll},
	{natsToken, NATS, "", "token, likewise", text(func(s *Settings) *string { return &s.NATSToken }), maskAll},
	{natsUserJWT, NATS, "", "JWT of the user, where it is in no file", text(func(s *Settings) *string { return &s.NATSUserJWT }), maskAll},
	{natsUserSeed, NATS, "", "seed of the user, likewise", text(func(s *Settings) *string { return &s.NATSUserSeed }), maskAll},
	{"NATS_TLS_FIRST", NATS, "false", "begin with TLS, for servers with handshake_first", boolean(func(s *Settings) *bool { return &s.NATSTLSFirst }), nil},
	{natsJSDomain, NATS, "", "JetStream domain that has the streams (default: the server's own)", subjectToken(func(s *Settings) *string { return &s.NATSJSDomain }), nil},
	{natsJSAPIPrefix, NATS, "", "JetStream's subjects, where an account imports them under others than $JS.API", subject(func(s *Settings) *string { return &s.NATSJSAPIPrefix }), nil},
	{"NATS_INBOX_PREFIX", NATS, "", "where answers come in (default: the user's own inbox)", subject(func(s *Settings) *string { return &s.NATSInboxPrefix }), nil},
	{"NATS_SOCKS_PROXY", NATS, "", "SOCKS5 proxy on the way to NATS", socksURL(func(s *Settings) *string { return &s.NATSSocksProxy }), MaskURLs},
	{natsContext, NATS, "", "context of the nats command that has what is not set here", text(func(s *Settings) *string { return &s.NATSContext }), nil},
}

var vaultVariables = []Variable{
	{"VAULT_ADDR", Vault, "https://127.0.0.1:8200", "Vault server", vaultURL(func(s *Settings) *string { return &s.VaultAddr }), nil},
	{"VAULT_AGENT_ADDR", Vault, "", "Vault agent to use in place of VAULT_ADDR", vaultURL(func(s *Settings) *string { return &s.VaultAgentAddr }), nil},
	{"VAULT_TOKEN", Vault, "", "Vault token, better set in the environment than on the command line", text(func(s *Settings) *string { return &s.VaultToken }), maskAll},
	{"VAULT_TOKEN_FILE", Vault, "", "file with the Vault token, read again when it changes", awaitedFile(func(s *Settings) *string { return &s.VaultTokenFile }), nil},
	{"VAULT_NAMESPACE", Vault, "", "Vault namespace", text(func(s *Settings) *string { return &s.VaultNamespace }), nil},
	{"VAULT_CACERT", Vault, "", "PEM file with the authorities to trust", file(func(s *Settings) *string { return &s.VaultCACert }), nil},
	{"VAULT_CAPATH", Vault, "", "directory of PEM files with the authorities to trust", directory(func(s *Settings) *string { return &s.VaultCAPath }), nil},
	{"VAULT_CLIENT_CERT", Vault, "", "TLS client certificate", file(func(s *Settings) *string { return &s.VaultClientCert }), nil},
	{"VAULT_CLIENT_KEY", Vault, "", "key of the TLS client certificate", file(func(s *Settings) *string { return &s.VaultClientKey }), nil},
	{"VAULT_TLS_SERVER_NAME", Vault, "", "SNI host name", text(func(s *Settings) *string { return &s.VaultTLSServerName }), nil},
	{"VAULT_SKIP_VERIFY", Vault, "false", "don't check Vault's certificate (loopback only)", boolean(func(s *Settings) *bool { return &s.VaultSkipVerify }), nil},
	{"VAULT_AUTH", Vault, AuthToken, "token, approle, kubernetes, jwt, or none (an agent adds the token)", oneOf(func(s *Settings) *string { return &s.VaultAuth }, AuthToken, AuthAppRole, AuthKubernetes, AuthJWT, AuthNone), nil},
	{"VAULT_AUTH_MOUNT", Vault, "", "mount path of the auth method (default: its name)", mountPath(func(s *Settings) *string { return &s.VaultAuthMount }, true), nil},
	{"VAULT_ROLE", Vault, "", "role for kubernetes and jwt", text(func(s *Settings) *string { return &s.VaultRole }), nil},
	{"VAULT_ROLE_ID", Vault, "", "role id for approle", text(func(s *Settings) *string { return &s.VaultRoleID }), nil},
	{"VAULT_SECRET_ID_FILE", Vault, "", "file with the secret id for approle", file(func(s *Settings) *string { return &s.VaultSecretIDFile }), nil},
	{"VAULT_JWT_FILE", Vault, "", "file with the token for jwt and kubernetes", file(func(s *Settings) *string { return &s.VaultJWTFile }), nil},
	{"VAULT_KV_MOUNT", Secrets, "secret", "mount path of the KV engine", mountPath(func(s *Settings) *string { return &s.VaultKVMount }, false), nil},
	{"VAULT_TENANT_PREFIX", Secrets, "flow/tenants", "path above the tenants' secrets", mountPath(func(s *Settings) *string { return &s.VaultTenantPrefix }, false), nil},
	{"VAULT_CACHE_TTL", Vault, "1m", "how long a secret is remembered; 0 = read every time", duration(func(s *Settings) *time.Duration { return &s.VaultCacheTTL }, 0, time.Hour), nil},
}

var flowVariables = []Variable{
	{"FLOW_URL", Flow, "https://platform.adobe.io/data/foundation/flowservice", "Flow Service", adobeURL("/data/foundation/flowservice", "connections", func(s *Settings) *string { return &s.FlowURL }), nil},
	{"IMS_URL", Flow, "https://ims-na1.adobelogin.com", "Adobe's token service", adobeURL("", "ims", func(s *Settings) *string { return &s.IMSURL }), nil},
	{"FLOW_TIMEOUT", Flow, "75s", "time for one HTTP call", duration(func(s *Settings) *time.Duration { return &s.FlowTimeout }, 100*time.Millisecond, 10*time.Minute), nil},
}

var httpVariables = []Variable{
	{"WORKER_HTTP_ADDR", HTTP, ":8080", "metrics and health", address(func(s *Settings) *string { return &s.HTTPAddr }), nil},
	{"WORKER_STATUS_ADDR", HTTP, "127.0.0.1:8081", "status page", address(func(s *Settings) *string { return &s.StatusAddr }), nil},
	{"WORKER_PPROF", HTTP, "false", "serve /debug/pprof beside the status page", boolean(func(s *Settings) *bool { return &s.Pprof }), nil},
}

var workVariables = []Variable{
	{"WORKER_CONCURRENCY", Work, "64", "POSTs under way in this process; half as many requests again, at most 512, are made ready meanwhile", integer(func(s *Settings) *int { return &s.Concurrency }, 1, 10_000), nil},
	{"WORKER_ACK_WAIT", Streams, "30s", "how long a message may stay unacknowledged without a heartbeat", duration(func(s *Settings) *time.Duration { return &s.AckWait }, time.Second, time.Hour), nil},
	{"WORKER_RETRY_INITIAL", Work, "500ms", "first wait between two tries", duration(func(s *Settings) *time.Duration { return &s.RetryInitial }, time.Millisecond, time.Minute), nil},
	{"WORKER_RETRY_DELAY_MAX", Work, "30s", "longest wait between two tries", duration(func(s *Settings) *time.Duration { return &s.RetryDelayMax }, time.Millisecond, 10*time.Minute), nil},
	{"WORKER_RETRY_ELAPSED", Work, "2m", "past it the message goes back to the stream", duration(func(s *Settings) *time.Duration { return &s.RetryElapsed }, time.Millisecond, time.Hour), nil},
	{"WORKER_REDELIVERY_DELAY_MAX", Work, "15m", "longest rest in the stream", duration(func(s *Settings) *time.Duration { return &s.RedeliveryDelayMax }, time.Millisecond, day), nil},
	{"WORKER_REQUEST_DEADLINE", Work, "24h", "after a request's first attempt", duration(func(s *Settings) *time.Duration { return &s.RequestDeadline }, time.Second, 7*day), nil},
	{"WORKER_SECRET_GRACE", Work, "10s", "how long a secret must have been missing before that is believed; 0 = at once", duration(func(s *Settings) *time.Duration { return &s.SecretGrace }, 0, time.Hour), nil},
	{"WORKER_SETTLE", Work, "2m", "how long an unknown POST is looked for before another is allowed", duration(func(s *Settings) *time.Duration { return &s.Settle }, 100*time.Millisecond, day), nil},
	{"WORKER_SHUTDOWN_TIMEOUT", Work, "90s", "what is unfinished then is given back", duration(func(s *Settings) *time.Duration { return &s.ShutdownTimeout }, time.Millisecond, time.Hour), nil},
	{"WORKER_ALLOWED_DOMAINS", Requests, "azuredatabricks.net", "hosts that requests may name, separated by commas", hosts(func(s *Settings) *[]string { return &s.AllowedDomains }), nil},
	{"WORKER_REPLICAS", Streams, "1", "replicas of the NATS objects", replicas(func(s *Settings) *int { return &s.Replicas }), nil},
	{"WORKER_STREAM_MAX_BYTES", Streams, "", "size of each stream and of the ledger, where the account demands one", size(func(s *Settings) *int64 { return &s.StreamMaxBytes }), nil},
	{"WORKER_ANSWER_TENANTS", Work, "false", "answer tenants who ask for their own requests (worker status); takes a right at NATS", boolean(func(s *Settings) *bool { return &s.AnswerTenants }), nil},
	{"WORKER_MANAGE_STREAMS", Streams, "true", "create and upgrade the NATS objects at start", boolean(func(s *Settings) *bool { return &s.ManageStreams }), nil},
}

var logVariables = []Variable{
	{"LOG_LEVEL", Log, "info", "debug, info, warn or error", logLevel, nil},
	{"LOG_FORMAT", Log, formatJSON, "json or text (default on a terminal: text)", oneOf(func(s *Settings) *string { return &s.LogFormat }, formatJSON, formatText), nil},
}
