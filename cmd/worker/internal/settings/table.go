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

// variable is one setting.
type variable struct {
	name      string
	group     Group
	byDefault string
	help      string                  // one line for people
	set       func(text string) error // its error says what would be right, never the value of a secret; not called for an empty text where that is the default
	mask      func(string) string     // nil means that the value can be shown as it is
}

// into makes parse a variable's set; what parse returns beside an error is kept, too.
func into[T any](to *T, parse func(string) (T, error)) func(string) error {
	return func(text string) (err error) {
		*to, err = parse(text)
		return err
	}
}

// table lists all settings in the contract's order, to be read into s. Bounds are where a value stops making
// sense, not where it stops working.
func table(s *Settings) []variable { //nolint:funlen // one row a setting, so that all of them are in one place
	otel := func(name, byDefault, help string, parse func(string) (string, error)) variable {
		return variable{name, Traces, byDefault, help, s.Tracing.into(name, parse), nil}
	}
	return []variable{
		{"NATS_URL", NATS, "nats://127.0.0.1:4222", "NATS servers, separated by commas", into(&s.NATSURL, natsURLs), MaskURLs},
		{"NATS_CREDS", NATS, "", "NATS credentials file", into(&s.NATSCreds, file), nil},
		{"NATS_NKEY", NATS, "", "file with a NATS NKey seed", into(&s.NATSNkey, file), nil},
		{"NATS_CA", NATS, "", "PEM file with the authorities to trust", into(&s.NATSCA, file), nil},
		{"NATS_CERT", NATS, "", "TLS client certificate", into(&s.NATSCert, file), nil},
		{"NATS_KEY", NATS, "", "key of the TLS client certificate", into(&s.NATSKey, file), nil},
		{natsUser, NATS, "", "user name, or a token where there is no password", into(&s.NATSUser, text), nil},
		{natsPassword, NATS, "", "password of the user, better set in the environment than on the command line", into(&s.NATSPassword, plainText), maskAll},
		{natsToken, NATS, "", "token, likewise", into(&s.NATSToken, text), maskAll},
		{natsUserJWT, NATS, "", "JWT of the user, where it is in no file", into(&s.NATSUserJWT, text), maskAll},
		{natsUserSeed, NATS, "", "seed of the user, likewise", into(&s.NATSUserSeed, text), maskAll},
		{"NATS_TLS_FIRST", NATS, "false", "begin with TLS, for servers with handshake_first", into(&s.NATSTLSFirst, boolean), nil},
		{natsJSDomain, NATS, "", "JetStream domain that has the streams (default: the server's own)", into(&s.NATSJSDomain, subjectToken), nil},
		{natsJSAPIPrefix, NATS, "", "JetStream's subjects, where an account imports them under others than $JS.API", into(&s.NATSJSAPIPrefix, subject), nil},
		{"NATS_INBOX_PREFIX", NATS, "", "where answers come in (default: the user's own inbox)", into(&s.NATSInboxPrefix, subject), nil},
		{"NATS_SOCKS_PROXY", NATS, "", "SOCKS5 proxy on the way to NATS", into(&s.NATSSocksProxy, socksURL), MaskURLs},
		{natsContext, NATS, "", "context of the nats command that has what is not set here", into(&s.NATSContext, text), nil},

		{"VAULT_ADDR", Vault, "https://127.0.0.1:8200", "Vault server", into(&s.VaultAddr, vaultURL), nil},
		{"VAULT_AGENT_ADDR", Vault, "", "Vault agent to use in place of VAULT_ADDR", into(&s.VaultAgentAddr, vaultURL), nil},
		{"VAULT_TOKEN", Vault, "", "Vault token, better set in the environment than on the command line", into(&s.VaultToken, text), maskAll},
		{"VAULT_TOKEN_FILE", Vault, "", "file with the Vault token, read again when it changes", into(&s.VaultTokenFile, awaitedFile), nil},
		{"VAULT_NAMESPACE", Vault, "", "Vault namespace", into(&s.VaultNamespace, text), nil},
		{"VAULT_CACERT", Vault, "", "PEM file with the authorities to trust", into(&s.VaultCACert, file), nil},
		{"VAULT_CAPATH", Vault, "", "directory of PEM files with the authorities to trust", into(&s.VaultCAPath, directory), nil},
		{"VAULT_CLIENT_CERT", Vault, "", "TLS client certificate", into(&s.VaultClientCert, file), nil},
		{"VAULT_CLIENT_KEY", Vault, "", "key of the TLS client certificate", into(&s.VaultClientKey, file), nil},
		{"VAULT_TLS_SERVER_NAME", Vault, "", "SNI host name", into(&s.VaultTLSServerName, text), nil},
		{"VAULT_SKIP_VERIFY", Vault, "false", "don't check Vault's certificate (loopback only)", into(&s.VaultSkipVerify, boolean), nil},
		{"VAULT_AUTH", Vault, AuthToken, "token, approle, kubernetes, jwt, or none (an agent adds the token)", into(&s.VaultAuth, oneOf(AuthToken, AuthAppRole, AuthKubernetes, AuthJWT, AuthNone)), nil},
		{"VAULT_AUTH_MOUNT", Vault, "", "mount path of the auth method (default: its name)", into(&s.VaultAuthMount, mountPath), nil},
		{"VAULT_ROLE", Vault, "", "role for kubernetes and jwt", into(&s.VaultRole, text), nil},
		{"VAULT_ROLE_ID", Vault, "", "role id for approle", into(&s.VaultRoleID, text), nil},
		{"VAULT_SECRET_ID_FILE", Vault, "", "file with the secret id for approle", into(&s.VaultSecretIDFile, file), nil},
		{"VAULT_JWT_FILE", Vault, "", "file with the token for jwt and kubernetes", into(&s.VaultJWTFile, file), nil},
		{"VAULT_KV_MOUNT", Secrets, "secret", "mount path of the KV engine", into(&s.VaultKVMount, mountPath), nil},
		{"VAULT_TENANT_PREFIX", Secrets, "flow/tenants", "path above the tenants' secrets", into(&s.VaultTenantPrefix, mountPath), nil},
		{"VAULT_CACHE_TTL", Vault, "1m", "how long a secret is remembered; 0 = read every time", into(&s.VaultCacheTTL, duration(0, time.Hour)), nil},

		{"FLOW_URL", Flow, "https://platform.adobe.io/data/foundation/flowservice", "Flow Service", into(&s.FlowURL, adobeURL("/data/foundation/flowservice", "connections")), nil},
		{"IMS_URL", Flow, "https://ims-na1.adobelogin.com", "Adobe's token service", into(&s.IMSURL, adobeURL("", "ims")), nil},
		{"FLOW_TIMEOUT", Flow, "75s", "time for one HTTP call", into(&s.FlowTimeout, duration(100*time.Millisecond, 10*time.Minute)), nil},

		{"WORKER_HTTP_ADDR", HTTP, ":8080", "metrics and health", into(&s.HTTPAddr, address), nil},
		{"WORKER_STATUS_ADDR", HTTP, "127.0.0.1:8081", "status page", into(&s.StatusAddr, address), nil},
		{"WORKER_PPROF", HTTP, "false", "serve /debug/pprof beside the status page", into(&s.Pprof, boolean), nil},

		{"WORKER_CONCURRENCY", Work, "64", "POSTs under way in this process; half as many requests again, at most 512, are made ready meanwhile", into(&s.Concurrency, integer(1, 10_000)), nil},
		{"WORKER_ACK_WAIT", Streams, "30s", "how long a message may stay unacknowledged without a heartbeat", into(&s.AckWait, duration(time.Second, time.Hour)), nil},
		{"WORKER_RETRY_INITIAL", Work, "500ms", "first wait between two tries", into(&s.RetryInitial, duration(time.Millisecond, time.Minute)), nil},
		{"WORKER_RETRY_DELAY_MAX", Work, "30s", "longest wait between two tries", into(&s.RetryDelayMax, duration(time.Millisecond, 10*time.Minute)), nil},
		{"WORKER_RETRY_ELAPSED", Work, "2m", "past it the message goes back to the stream", into(&s.RetryElapsed, duration(time.Millisecond, time.Hour)), nil},
		{"WORKER_REDELIVERY_DELAY_MAX", Work, "15m", "longest rest in the stream", into(&s.RedeliveryDelayMax, duration(time.Millisecond, day)), nil},
		{"WORKER_REQUEST_DEADLINE", Work, "24h", "after a request's first attempt", into(&s.RequestDeadline, duration(time.Second, 7*day)), nil},
		{"WORKER_SECRET_GRACE", Work, "10s", "how long a secret must have been missing before that is believed; 0 = at once", into(&s.SecretGrace, duration(0, time.Hour)), nil},
		{"WORKER_SETTLE", Work, "2m", "how long an unknown POST is looked for before another is allowed", into(&s.Settle, duration(100*time.Millisecond, day)), nil},
		{"WORKER_SHUTDOWN_TIMEOUT", Work, "90s", "what is unfinished then is given back", into(&s.ShutdownTimeout, duration(time.Millisecond, time.Hour)), nil},
		{"WORKER_ALLOWED_DOMAINS", Requests, "azuredatabricks.net", "hosts that requests may name, separated by commas", into(&s.AllowedDomains, hosts), nil},
		{"WORKER_REPLICAS", Streams, "1", "replicas of the NATS objects", into(&s.Replicas, replicas), nil},
		{"WORKER_STREAM_MAX_BYTES", Streams, "", "size of each stream and of the ledger, where the account demands one", into(&s.StreamMaxBytes, size), nil},
		{"WORKER_ANSWER_TENANTS", Work, "false", "answer tenants who ask for their own requests (worker status); takes a right at NATS", into(&s.AnswerTenants, boolean), nil},
		{"WORKER_MANAGE_STREAMS", Streams, "true", "create and upgrade the NATS objects at start", into(&s.ManageStreams, boolean), nil},

		{"LOG_LEVEL", Log, "info", "debug, info, warn or error", into(&s.LogLevel, logLevel), nil},
		{"LOG_FORMAT", Log, formatJSON, "json or text (default on a terminal: text)", into(&s.LogFormat, oneOf(formatJSON, formatText)), nil},

		// What OpenTelemetry's SDK and its OTLP exporter read, with their defaults. What is for traces alone beats
		// what is for all signals.
		otel(sdkDisabled, "false", "export nothing, whatever else is set", sdkSwitch),
		otel(tracesExporter, "", "otlp or none (default: otlp where there is an endpoint)", exporters),
		otel("OTEL_SERVICE_NAME", "", "the service's name in traces (default: flow-worker)", plainText),
		otel("OTEL_RESOURCE_ATTRIBUTES", "", "more about the service, as name=value,name=value", pairs(validAttribute)),
		otel("OTEL_TRACES_SAMPLER", "parentbased_always_on", "which traces are exported", among("always_on", "always_off", "traceidratio",
			"parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio")),
		otel("OTEL_TRACES_SAMPLER_ARG", "1", "share of the traces, 0 to 1, for the samplers by ratio", ratio),
		otel("OTEL_PROPAGATORS", "tracecontext", "how traces go from service to service: W3C Trace Context only", propagators),
		otel(endpoint, "", "OpenTelemetry collector, such as "+defaultCollector, collectorURL),
		otel(tracesEndpoint, "", alone, collectorURL),
		otel(otlp+"PROTOCOL", "", "http/protobuf or http/json", among("http/protobuf", "http/json")),
		otel(otlpTraces+"PROTOCOL", "", alone, among("http/protobuf", "http/json")),
		otel(otlp+"HEADERS", "", "headers for the collector, as name=value,name=value; better set in the environment", pairs(validHeader)).secret(),
		otel(otlpTraces+"HEADERS", "", alone, pairs(validHeader)).secret(),
		otel(otlp+"COMPRESSION", "", "gzip or none", among("gzip", "none")),
		otel(otlpTraces+"COMPRESSION", "", alone, among("gzip", "none")),
		otel(otlp+"TIMEOUT", "", "milliseconds for one call to the collector (default: 10000)", between(1, longestMS)),
		otel(otlpTraces+"TIMEOUT", "", alone, between(1, longestMS)),
		otel(otlp+certificate, "", "PEM file with the authorities to trust", authorities),
		otel(otlpTraces+certificate, "", alone, authorities),
		otel(otlp+clientCert, "", "TLS client certificate", file),
		otel(otlpTraces+clientCert, "", alone, file),
		otel(otlp+clientKey, "", "key of the TLS client certificate", file),
		otel(otlpTraces+clientKey, "", alone, file),
		otel("OTEL_BSP_MAX_QUEUE_SIZE", "2048", "spans that wait for their export; more are dropped", between(1, 1<<20)),
		otel("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512", "spans in one export", between(1, 1<<20)),
		otel("OTEL_BSP_SCHEDULE_DELAY", "5000", "milliseconds between two exports", between(1, longestMS)),
		otel("OTEL_BSP_EXPORT_TIMEOUT", "30000", "milliseconds for one export with its repeats", between(1, longestMS)),
		otel("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "", spanLimit, between(0, 1<<20)),
		otel("OTEL_ATTRIBUTE_COUNT_LIMIT", "", spanLimit, between(0, 1<<20)),
		otel("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "", spanLimit, between(0, 1<<20)),
		otel("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "", spanLimit, between(0, 1<<20)),
		otel("OTEL_SPAN_EVENT_COUNT_LIMIT", "", spanLimit, between(0, 1<<20)),
		otel("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "", spanLimit, between(0, 1<<20)),
		otel("OTEL_SPAN_LINK_COUNT_LIMIT", "", spanLimit, between(0, 1<<20)),
		otel("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "", spanLimit, between(0, 1<<20)),
	}
}

// The values of VAULT_AUTH.
const (
	AuthToken      = "token"
	AuthNone       = "none"
	AuthAppRole    = "approle"
	AuthKubernetes = "kubernetes"
	AuthJWT        = "jwt"
)

const (
	formatJSON = "json"
	formatText = "text"
	day        = 24 * time.Hour
	longestMS  = 10 * 60 * 1000
	alone      = "likewise, for traces alone"
	spanLimit  = "limit of what a span holds, as OpenTelemetry defines it"
)

// Names that more than one place speaks of.
const (
	natsURL         = "NATS_URL"
	natsCreds       = "NATS_CREDS"
	natsNkey        = "NATS_NKEY"
	natsUser        = "NATS_USER"
	natsPassword    = "NATS_PASSWORD"
	natsToken       = "NATS_TOKEN"
	natsUserJWT     = "NATS_USER_JWT"
	natsUserSeed    = "NATS_USER_SEED"
	natsJSDomain    = "NATS_JS_DOMAIN"
	natsJSAPIPrefix = "NATS_JS_API_PREFIX"
	natsContext     = "NATS_CONTEXT"

	sdkDisabled    = "OTEL_SDK_DISABLED"
	tracesExporter = "OTEL_TRACES_EXPORTER"
	otlp           = "OTEL_EXPORTER_OTLP_"
	otlpTraces     = otlp + "TRACES_"
	endpoint       = otlp + "ENDPOINT"
	tracesEndpoint = otlpTraces + "ENDPOINT"
	certificate    = "CERTIFICATE"
	clientCert     = "CLIENT_CERTIFICATE"
	clientKey      = "CLIENT_KEY"
)

// variables is the table with nobody's values, for who asks for names.
var variables = table(new(Settings))

func isVariable(name string) bool {
	return slices.ContainsFunc(variables, func(v variable) bool { return v.name == name })
}

// flag returns the name of the flag that beats the variable.
func (v variable) flag() string {
	return strings.ToLower(strings.ReplaceAll(v.name, "_", "-"))
}

func (v variable) in(groups []Group) bool { return slices.Contains(groups, v.group) }

// secret returns v with its value masked.
func (v variable) secret() variable {
	v.mask = maskAll
	return v
}

// show returns the text as people may see it. One that could not be read may be a secret in the wrong
// place.
func (v variable) show(text string, err error) string {
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

// masked stands for every secret, so that not even its length shows.
const masked = "********"

func maskAll(string) string { return masked }

// MaskURLs hides user and password in a list of URLs. Where it is in doubt it hides more.
func MaskURLs(list string) string {
	chunks := strings.Split(list, "://")
	for i, c := range chunks {
		if at := strings.LastIndex(c, "@"); at >= 0 {
			chunks[i] = masked + c[at:]
		}
	}
	return strings.Join(chunks, "://")
}

// AddFlags defines the flags of the given groups' variables. The returned function reads those that
// were given, in the form that Source wants.
func AddFlags(fs *pflag.FlagSet, groups ...Group) func() map[string]string {
	for _, v := range variables {
		if !v.in(groups) {
			continue
		}
		fs.String(v.flag(), v.byDefault, v.help+" ["+v.name+"]")
		if v.byDefault == "true" || v.byDefault == "false" {
			fs.Lookup(v.flag()).NoOptDefVal = "true"
		}
	}
	return func() map[string]string {
		given := map[string]string{}
		for _, v := range variables {
			if f := fs.Lookup(v.flag()); f != nil && f.Changed {
				given[v.name] = f.Value.String()
			}
		}
		return given
	}
}
