package settings_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
)

const secret = "hvs.CAESIJ-do-not-print"

// load loads all groups from the variables given as "NAME=value", beside a token.
func load(t *testing.T, environ ...string) (settings.Set, *settings.Invalid) {
	t.Helper()
	set, err := settings.Load(settings.Source{Environ: append([]string{"VAULT_TOKEN=" + secret}, environ...)}, settings.All...)
	var invalid *settings.Invalid
	if err != nil && !errors.As(err, &invalid) {
		t.Fatalf("Load: %T is no *Invalid: %v", err, err)
	}
	return set, invalid
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	set, err := load(t)
	if err != nil {
		t.Fatal(err)
	}
	want := settings.Settings{
		NATSURL: "nats://127.0.0.1:4222", VaultAddr: "https://127.0.0.1:8200", VaultToken: secret, VaultAuth: "token",
		VaultKVMount: "secret", VaultTenantPrefix: "flow/tenants", VaultCacheTTL: time.Minute,
		FlowURL: "https://platform.adobe.io/data/foundation/flowservice", IMSURL: "https://ims-na1.adobelogin.com",
		FlowTimeout: 75 * time.Second, HTTPAddr: ":8080", StatusAddr: "127.0.0.1:8081", Concurrency: 64,
		AckWait: 30 * time.Second, RetryInitial: 500 * time.Millisecond, RetryDelayMax: 30 * time.Second,
		RetryElapsed: 2 * time.Minute, RedeliveryDelayMax: 15 * time.Minute, RequestDeadline: 24 * time.Hour, SecretGrace: 10 * time.Second,
		Settle: 2 * time.Minute, ShutdownTimeout: 90 * time.Second, AllowedDomains: []string{"azuredatabricks.net"},
		Replicas: 1, ManageStreams: true, LogLevel: slog.LevelInfo, LogFormat: "json",
		Tracing: settings.Tracing{Env: map[string]string{
			"OTEL_SDK_DISABLED": "false", "OTEL_PROPAGATORS": "tracecontext", "OTEL_TRACES_SAMPLER": "parentbased_always_on", "OTEL_TRACES_SAMPLER_ARG": "1",
			"OTEL_BSP_MAX_QUEUE_SIZE": "2048", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "512", "OTEL_BSP_SCHEDULE_DELAY": "5000", "OTEL_BSP_EXPORT_TIMEOUT": "30000",
		}},
	}
	if diff := cmp.Diff(want, set.Settings); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	if len(set.Warnings) > 0 {
		t.Errorf("warnings on defaults: %q", set.Warnings)
	}
}

func TestFlagBeatsEnvironmentBeatsDefault(t *testing.T) {
	t.Parallel()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	given := settings.AddFlags(fs, settings.All...)
	if err := fs.Parse([]string{"--worker-ack-wait=7s", "--worker-pprof", "--vault-namespace="}); err != nil {
		t.Fatal(err)
	}
	set, err := settings.Load(settings.Source{
		Environ: []string{"WORKER_ACK_WAIT=9s", "WORKER_SETTLE=3m", "WORKER_RETRY_ELAPSED=", "VAULT_NAMESPACE=team", "VAULT_TOKEN=" + secret},
		Flags:   given(),
	}, settings.All...)
	if err != nil {
		t.Fatal(err)
	}
	s := set.Settings
	if s.AckWait != 7*time.Second || !s.Pprof || s.VaultNamespace != "" || s.Settle != 3*time.Minute || s.RetryElapsed != 2*time.Minute {
		t.Errorf("got ack wait %v, pprof %v, namespace %q, settle %v, elapsed %v", s.AckWait, s.Pprof, s.VaultNamespace, s.Settle, s.RetryElapsed)
	}
	origins := map[string]settings.Origin{}
	for _, v := range set.Values {
		origins[v.Name] = v.Origin
	}
	for name, want := range map[string]settings.Origin{
		"WORKER_ACK_WAIT": settings.FromFlag, "WORKER_SETTLE": settings.FromEnv, "WORKER_RETRY_ELAPSED": settings.FromDefault, "VAULT_NAMESPACE": settings.FromFlag,
	} {
		if origins[name] != want {
			t.Errorf("origin of %s: got %q, want %q", name, origins[name], want)
		}
	}
}

func TestWrongValues(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert := filepath.Join(dir, "cert.pem")
	if err := os.WriteFile(cert, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		set  []string
		name string // the variable that is blamed
		want string // a part of the remedy
	}{
		{[]string{"WORKER_ACK_WAIT=30"}, "WORKER_ACK_WAIT", `"30" is no duration; want a number with a unit, such as 30s`},
		{[]string{"WORKER_ACK_WAIT=-5s"}, "WORKER_ACK_WAIT", "want 1s to 1h"},
		{[]string{"FLOW_TIMEOUT=0"}, "FLOW_TIMEOUT", "out of bounds"},
		{[]string{"WORKER_REQUEST_DEADLINE=169h"}, "WORKER_REQUEST_DEADLINE", "to 168h"},
		{[]string{"WORKER_SETTLE=soon enough, I hope"}, "WORKER_SETTLE", "a text of 19 bytes is no duration"},
		{[]string{"WORKER_RETRY_INITIAL=40s"}, "WORKER_RETRY_INITIAL", "more than WORKER_RETRY_DELAY_MAX, 30s"},
		{[]string{"WORKER_CONCURRENCY=0"}, "WORKER_CONCURRENCY", "whole number from 1 to 10000"},
		{[]string{"WORKER_CONCURRENCY=many"}, "WORKER_CONCURRENCY", "whole number"},
		{[]string{"WORKER_REPLICAS=2"}, "WORKER_REPLICAS", "3 or 5 in a cluster"},
		{[]string{"WORKER_MANAGE_STREAMS=maybe"}, "WORKER_MANAGE_STREAMS", "neither true nor false"},
		{[]string{"LOG_LEVEL=loud"}, "LOG_LEVEL", "debug, info, warn, error"},
		{[]string{"LOG_FORMAT=xml"}, "LOG_FORMAT", "json, text"},
		{[]string{"FLOW_URL=http://platform.example.com"}, "FLOW_URL", "plain http to platform.example.com"},
		{[]string{"IMS_URL=https://user:" + secret + "@ims.example.com"}, "IMS_URL", "user info"},
		{[]string{"IMS_URL=https://ims.example.com/?key=" + secret}, "IMS_URL", "a query"},
		{[]string{"FLOW_URL=https://platform.adobe.io"}, "FLOW_URL", "set https://platform.adobe.io/data/foundation/flowservice"},
		{[]string{"FLOW_URL=https://platform.adobe.io/data/foundation/flowservice/connections"}, "FLOW_URL", "set https://platform.adobe.io/data/foundation/flowservice"},
		{[]string{"FLOW_URL=https://gw.example.com/flow/connections/"}, "FLOW_URL", "set https://gw.example.com/flow"},
		{[]string{"IMS_URL=https://ims-na1.adobelogin.com/ims/token/v3"}, "IMS_URL", "set https://ims-na1.adobelogin.com"},
		{[]string{"FLOW_URL=platform.example.com"}, "FLOW_URL", "want https://platform.example.com"},
		{[]string{"VAULT_ADDR=vault:8200"}, "VAULT_ADDR", "set https://vault:8200"},
		{[]string{"VAULT_ADDR=10.1.2.3:8200/"}, "VAULT_ADDR", "set https://10.1.2.3:8200"},
		{[]string{"VAULT_ADDR=tcp://10.1.2.3:8200"}, "VAULT_ADDR", "set https://10.1.2.3:8200"},
		{[]string{"VAULT_ADDR=vault.example.com"}, "VAULT_ADDR", "want https://vault.example.com"},
		{[]string{"VAULT_ADDR=https://vault.example.com/v1"}, "VAULT_ADDR", "set https://vault.example.com"},
		{[]string{"VAULT_ADDR=https://vault.example.com:8200/v1/"}, "VAULT_ADDR", "set https://vault.example.com:8200"},
		{[]string{"VAULT_ADDR=https://vault.example.com/ui/vault/secrets"}, "VAULT_ADDR", "set https://vault.example.com"},
		{[]string{"VAULT_ADDR=http://vault.vault.svc:8200"}, "VAULT_ADDR", "set https://vault.vault.svc:8200 with VAULT_CACERT, or an agent or sidecar on this machine that adds the token: VAULT_ADDR=http://127.0.0.1:8100 with VAULT_AUTH=none"},
		{[]string{"VAULT_AGENT_ADDR=http://vault.vault.svc:8200"}, "VAULT_AGENT_ADDR", "plain http to vault.vault.svc"},
		{[]string{"VAULT_ADDR=unix:/run/vault/agent.sock"}, "VAULT_ADDR", "set unix:///run/vault/agent.sock"},
		{[]string{"VAULT_AUTH=none", "VAULT_TOKEN=", "VAULT_ADDR=https://vault.example.com"}, "VAULT_AUTH", "http://127.0.0.1:8100"},
		{[]string{"VAULT_AUTH=none", "VAULT_TOKEN=", "VAULT_AGENT_ADDR=https://vault.example.com"}, "VAULT_AUTH", "unix:///run/vault/agent.sock"},
		{[]string{"VAULT_TOKEN="}, "VAULT_TOKEN", "set VAULT_AUTH=none"},
		{[]string{"VAULT_TOKEN="}, "VAULT_TOKEN", "VAULT_TOKEN_FILE with the path of a file"},
		{[]string{"VAULT_TOKEN_FILE=" + cert}, "VAULT_TOKEN_FILE", "set one of them"},
		{[]string{"VAULT_TOKEN=", "VAULT_TOKEN_FILE=" + dir}, "VAULT_TOKEN_FILE", "not the path of a file"},
		{[]string{"VAULT_TOKEN=", "VAULT_TOKEN_FILE=" + filepath.Join(dir, "nowhere", "token")}, "VAULT_TOKEN_FILE", "no such file"},
		{[]string{"WORKER_SECRET_GRACE=-1s"}, "WORKER_SECRET_GRACE", "want 0s to 1h"},
		{[]string{"VAULT_ADDR=http://vault:8200"}, "VAULT_ADDR", "plain http to vault, where others could read the credentials; want https"},
		{[]string{"VAULT_ADDR=http://vault:8200", "VAULT_SKIP_VERIFY=true"}, "VAULT_ADDR", "plain http to vault"},
		{[]string{"VAULT_ADDR=unix://run/vault.sock"}, "VAULT_ADDR", "is not a URL"},
		{[]string{"VAULT_ADDR=https://vault.example.com", "VAULT_SKIP_VERIFY=true"}, "VAULT_SKIP_VERIFY", "set VAULT_CACERT"},
		{[]string{"VAULT_AUTH=ldap"}, "VAULT_AUTH", "token, approle, kubernetes, jwt"},
		{[]string{"VAULT_AUTH=approle", "VAULT_SECRET_ID_FILE=" + cert}, "VAULT_ROLE_ID", "VAULT_AUTH=approle needs it"},
		{[]string{"VAULT_AUTH=kubernetes"}, "VAULT_ROLE", "VAULT_AUTH=kubernetes needs it"},
		{[]string{"VAULT_AUTH=jwt", "VAULT_ROLE=r"}, "VAULT_JWT_FILE", "needs it"},
		{[]string{"VAULT_KV_MOUNT=../sys"}, "VAULT_KV_MOUNT", "segments"},
		{[]string{"VAULT_TENANT_PREFIX=a//b"}, "VAULT_TENANT_PREFIX", "segments"},
		{[]string{"VAULT_TOKEN=" + secret + "\nX"}, "VAULT_TOKEN", "line break"},
		{[]string{"NATS_URL=http://nats.example.com"}, "NATS_URL", "want nats://nats.example.com"},
		{[]string{"NATS_CREDS=" + filepath.Join(dir, "none.creds")}, "NATS_CREDS", "no such file"},
		{[]string{"NATS_CREDS=" + dir}, "NATS_CREDS", "not the path of a file"},
		{[]string{"VAULT_CAPATH=" + cert}, "VAULT_CAPATH", "not the path of a directory"},
		{[]string{"NATS_CERT=" + cert}, "NATS_KEY", "NATS_CERT needs it"},
		{[]string{"VAULT_CLIENT_KEY=" + cert}, "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY needs it"},
		{[]string{"NATS_CREDS=" + cert, "NATS_NKEY=" + cert}, "NATS_NKEY", "one identity"},
		{[]string{"WORKER_HTTP_ADDR=8080"}, "WORKER_HTTP_ADDR", "want :8080"},
		{[]string{"WORKER_HTTP_ADDR=http://0.0.0.0:8080"}, "WORKER_HTTP_ADDR", "want 0.0.0.0:8080"},
		{[]string{"WORKER_STATUS_ADDR=127.0.0.1:99999"}, "WORKER_STATUS_ADDR", "<host>:<port>"},
		{[]string{"WORKER_ALLOWED_DOMAINS=azuredatabricks.net,*.example.com"}, "WORKER_ALLOWED_DOMAINS", "want example.com,"},
		{[]string{"WORKER_ALLOWED_DOMAINS=https://azuredatabricks.net"}, "WORKER_ALLOWED_DOMAINS", "want azuredatabricks.net,"},
		{[]string{`WORKER_ALLOWED_DOMAINS=["azuredatabricks.net"]`}, "WORKER_ALLOWED_DOMAINS", "want azuredatabricks.net,"},
		{[]string{"WORKER_ALLOWED_DOMAINS=azuredatabricks.net;example.com"}, "WORKER_ALLOWED_DOMAINS", "want azuredatabricks.net,example.com,"},
		{[]string{"WORKER_ACK_WAIT=30 sec"}, "WORKER_ACK_WAIT", `"30 sec"`},
		{[]string{"WORKER_ALLOWED_DOMAINS=,"}, "WORKER_ALLOWED_DOMAINS", "no host in it"},
		{[]string{"WORKER_ACK_WAIT=PT30S"}, "WORKER_ACK_WAIT", "30s, 2m, 24h or 1d"},
		{[]string{"NATS_URL=nats://a,wss://b"}, "NATS_URL", "mixes WebSockets"},
		{[]string{"NATS_URL=,"}, "NATS_URL", "no URL in it"},
		{[]string{"NATS_PASSWORD=" + secret}, "NATS_USER", "NATS_PASSWORD needs it"},
		{[]string{"NATS_USER=u", "NATS_PASSWORD=" + secret, "NATS_CREDS=" + cert}, "NATS_USER", "set beside NATS_CREDS"},
		{[]string{"NATS_USER=" + secret, "NATS_NKEY=" + cert}, "NATS_TOKEN", "set beside NATS_NKEY"},
		{[]string{"NATS_USER_JWT=" + secret}, "NATS_USER_SEED", "needs it"},
		{[]string{"NATS_JS_DOMAIN=a.b"}, "NATS_JS_DOMAIN", "without dots"},
		{[]string{"NATS_JS_DOMAIN=hub", "NATS_JS_API_PREFIX=JS.API"}, "NATS_JS_API_PREFIX", "set one of them"},
		{[]string{"NATS_INBOX_PREFIX=a.>"}, "NATS_INBOX_PREFIX", "without blanks and wildcards"},
		{[]string{"NATS_SOCKS_PROXY=http://p:1"}, "NATS_SOCKS_PROXY", "want socks5://<host>:<port>"},
		{[]string{"WORKER_STREAM_MAX_BYTES=lots"}, "WORKER_STREAM_MAX_BYTES", "512MiB or 1GB"},
		{[]string{"WORKER_STREAM_MAX_BYTES=-1"}, "WORKER_STREAM_MAX_BYTES", "is no size"},
		{[]string{"WORKER_STREAM_MAX_BYTES=1k"}, "WORKER_STREAM_MAX_BYTES", "at least 512KiB"},
		{[]string{"WORKER_ALLOWED_DOMAINS=net"}, "WORKER_ALLOWED_DOMAINS", "host"},
	} {
		t.Run(strings.Join(tc.set, " "), func(t *testing.T) {
			t.Parallel()
			set, err := load(t, tc.set...)
			if err == nil {
				t.Fatal("accepted")
			}
			if len(err.Problems) != 1 || err.Problems[0].Name != tc.name || !strings.Contains(err.Problems[0].Text, tc.want) {
				t.Errorf("got %+v, want one problem of %s with %q", err.Problems, tc.name, tc.want)
			}
			leaks(t, set, err)
		})
	}
}

// leaks fails the test where the secret is in anything that people get to see.
func leaks(t *testing.T, set settings.Set, err error) {
	t.Helper()
	seen := strings.Join(set.Warnings, "\n")
	for _, v := range set.Values {
		seen += "\n" + v.Value
	}
	if err != nil {
		seen += err.Error()
	}
	if strings.Contains(seen, secret) {
		t.Errorf("the secret is shown:\n%s", seen)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := load(t, "WORKER_ACK_WAIT=x", "WORKER_CONCURRENCY=-1", "VAULT_ADDR=http://vault", "FLOW_URL=ftp://x", "LOG_LEVEL=9", "WORKER_REPLICAS=4")
	if err == nil {
		t.Fatal("accepted")
	}
	var names []string
	for _, p := range err.Problems {
		names = append(names, p.Name)
	}
	want := []string{"VAULT_ADDR", "FLOW_URL", "WORKER_CONCURRENCY", "WORKER_ACK_WAIT", "WORKER_REPLICAS", "LOG_LEVEL"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if text := err.Error(); !strings.HasPrefix(text, "6 wrong settings:\n") || strings.Count(text, "\n") != 6 {
		t.Errorf("text: %s", text)
	}
}

func TestRightValues(t *testing.T) {
	t.Parallel()
	for _, set := range []string{
		"FLOW_URL=http://127.0.0.1:8090/data/foundation/flowservice/", "IMS_URL=http://[::1]:8090", "VAULT_ADDR=http://localhost:8200", "VAULT_ADDR=http://127.1.2.3:8200", "VAULT_ADDR=http://[::1]:8200/", "VAULT_ADDR=https://vault:8200", "VAULT_ADDR=unix:///run/vault/agent.sock",
		"NATS_URL=tls://user:pass@nats-1.example.com:4222, nats-2.example.com", "WORKER_HTTP_ADDR=[::]:0", "VAULT_CACHE_TTL=0",
		"WORKER_ALLOWED_DOMAINS=azuredatabricks.net, Databricks.Example.COM", "WORKER_REQUEST_DEADLINE=168h", "VAULT_AUTH_MOUNT=auth/team/k8s/",
		"WORKER_REPLICAS=3", "LOG_LEVEL=DEBUG", "LOG_LEVEL=warning", "LOG_FORMAT=JSON", "WORKER_PPROF=yes", "WORKER_PPROF=On", "WORKER_PPROF=1",
		"WORKER_SETTLE=90 s", "WORKER_SETTLE=1d", "WORKER_SETTLE=1m30s", "WORKER_REQUEST_DEADLINE=1d12h", "VAULT_TOKEN=" + secret + "\r\n", "NATS_URL=\"nats://n:4222\"",
		"WORKER_CONCURRENCY=' 8 '", "WORKER_ALLOWED_DOMAINS=a.net, b.net,\n", "NATS_URL=nats://a, nats://b,", "NATS_URL=tcp://10.0.0.1:4222", "WORKER_HTTP_ADDR= ",
		"WORKER_STREAM_MAX_BYTES=1GB", "NATS_JS_DOMAIN=hub", "NATS_JS_API_PREFIX=JS.hub.API.", "NATS_SOCKS_PROXY=127.0.0.1:1080", "NATS_TLS_FIRST=true",
		"NATS_PORT=tcp://10.0.0.1:4222", "VAULT_PORT=tcp://10.0.0.1:8200", "WORKER_PORT=tcp://10.0.0.1:8080", "NATS_TIMEOUT=soon",
		"WORKER_SECRET_GRACE=0", "VAULT_AGENT_ADDR=unix:///run/vault/agent.sock",
		"VAULT_ADDR=https://proxy.example.com/vault",
	} {
		t.Run(set, func(t *testing.T) {
			t.Parallel()
			if _, err := load(t, set); err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		set  []string
		want string // a part of the only warning; empty means none
	}{
		{[]string{"WORKER_AKC_WAIT=5s"}, "WORKER_AKC_WAIT is no setting and is not read; did you mean WORKER_ACK_WAIT?"},
		{[]string{"WORKER_COLOUR_OF_THE_SKY=blue"}, "is not read"},
		{[]string{"WORKER_SERVICE_HOST=10.0.0.1", "WORKER_PORT_8080_TCP=tcp://10.0.0.1:8080", "WORKER_STATUS_PORT=tcp://10.0.0.1:8081", "WORKER_STATUS_SERVICE_PORT_HTTP=8081"}, ""},
		{[]string{"NATS_URL=nats://nats:4222", "NATS_USER=u", "NATS_PASSWORD=" + secret}, "password for nats"},
		{[]string{"NATS_URL=nats://nats:4222", "NATS_USER=" + secret}, "password for nats"},
		{[]string{"NATS_URL=nats://nats:4222", "NATS_TOKEN=" + secret, "NATS_TLS_FIRST=1"}, ""},
		{[]string{"WORKER_SHUTDOWN_TIMEOUT=60s"}, "should exceed FLOW_TIMEOUT (1m15s)"},
		{[]string{"VAULT_AUTH=kubernetes", "VAULT_ROLE=worker"}, "VAULT_TOKEN is set but not used"},
		{[]string{"VAULT_AUTH=none", "VAULT_ADDR=http://127.0.0.1:8100"}, "VAULT_TOKEN is set but not used"},
		{[]string{"VAULT_AUTH=none", "VAULT_TOKEN=", "VAULT_ADDR=unix:///run/vault/agent.sock"}, ""},
		{[]string{"VAULT_AUTH=none", "VAULT_TOKEN=", "VAULT_AGENT_ADDR=http://localhost:8100", "VAULT_ADDR=https://vault.example.com"}, ""},
		{[]string{"VAULT_TOKEN=", "VAULT_TOKEN_FILE=" + filepath.Join(t.TempDir(), "token")}, ""},
		{[]string{"NATS_URL=nats://u:" + secret + "@nats:4222"}, "NATS_URL has a password for nats and does not insist on TLS"},
		{[]string{"NATS_URL=nats-1, u:" + secret + "@nats-2"}, "password for nats-2"},
		{[]string{"NATS_URL=ws://" + secret + "@nats"}, "password for nats"},
		{[]string{"NATS_URL=nats://u:p@127.0.0.1.evil.com"}, "password for 127.0.0.1.evil.com"},
		{[]string{"NATS_URL=nats://nats:4222"}, ""},
		{[]string{"NATS_URL=tls://u:p@nats"}, ""},
		{[]string{"NATS_URL=wss://u:p@nats"}, ""},
		{[]string{"NATS_URL=nats://u:p@127.0.0.1,nats://u:p@[::1]:4222,u:p@localhost"}, ""},
	} {
		t.Run(strings.Join(tc.set, " "), func(t *testing.T) {
			t.Parallel()
			set, err := load(t, tc.set...)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(strings.Join(set.Warnings, ""), secret) {
				t.Errorf("a secret is told: %q", set.Warnings)
			}
			if tc.want == "" && len(set.Warnings) > 0 || tc.want != "" && (len(set.Warnings) != 1 || !strings.Contains(set.Warnings[0], tc.want)) {
				t.Errorf("warnings %q, want one with %q", set.Warnings, tc.want)
			}
		})
	}
}

func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	for _, set := range []string{
		"NATS_URL=nats://u:" + secret + "@h", "NATS_URL=h1,u:" + secret + "@h", "NATS_URL=nats://a:b@h1,tls://u:" + secret + "@h2",
		"NATS_URL=nats://u:" + secret + "/x@h", "NATS_URL=" + secret + "://u@h", "NATS_URL=" + secret + "/+x", "NATS_URL=h1," + secret + "=", "NATS_URL=nats://h?token=" + secret, "NATS_URL=h/" + secret,
		"NATS_USER=" + secret, "NATS_TOKEN=" + secret, "NATS_SOCKS_PROXY=socks5://u:" + secret + "@p:1",
		"NATS_CREDS=" + secret, "VAULT_ADDR=https://" + secret + "@h", "VAULT_ADDR=" + secret, "VAULT_ADDR=http://" + secret + "@h/v1", "VAULT_AGENT_ADDR=https://u:" + secret + "@h",
		"VAULT_TOKEN_FILE=" + secret,
	} {
		loaded, err := load(t, set)
		if err != nil {
			leaks(t, loaded, err)
		} else {
			leaks(t, loaded, nil)
		}
	}
}

func TestOnlyTheGroupsAskedFor(t *testing.T) {
	t.Parallel()
	set, err := settings.Load(settings.Source{Environ: []string{"WORKER_ACK_WAIT=wrong", "NATS_URL=nats://n:4222"}}, settings.NATS)
	if err != nil {
		t.Fatalf("a variable of another group was checked: %v", err)
	}
	if set.Settings.NATSURL != "nats://n:4222" || set.Settings.AckWait != 30*time.Second {
		t.Errorf("got %q and %v", set.Settings.NATSURL, set.Settings.AckWait)
	}
	if slices.ContainsFunc(set.Values, func(v settings.Value) bool { return !strings.HasPrefix(v.Name, "NATS_") }) {
		t.Errorf("values of other groups: %+v", set.Values)
	}
}

// What files and shells put around a value is taken off, but for the quotation marks of a password.
func TestValuesAreCleaned(t *testing.T) {
	t.Parallel()
	set, err := load(t, "VAULT_TOKEN='"+secret+"'\n", "NATS_URL=\"nats://a, tcp://b:1,\"", "NATS_USER= u\r\n", "NATS_PASSWORD=' p \n", "WORKER_SETTLE=\"2 m\"", "WORKER_REQUEST_DEADLINE=1.5d", "LOG_LEVEL=\ufeffwarn\n",
		"WORKER_ALLOWED_DOMAINS=B.net a.net", "WORKER_STREAM_MAX_BYTES=1.5 GiB", "NATS_JS_API_PREFIX=JS.hub.API.", "WORKER_PPROF= ", "NATS_TLS_FIRST=YES")
	if err != nil {
		t.Fatal(err)
	}
	s := set.Settings
	got := []any{s.VaultToken, s.NATSURL, s.NATSUser, s.NATSPassword, s.Settle, s.RequestDeadline, s.LogLevel, s.AllowedDomains, s.StreamMaxBytes, s.NATSJSAPIPrefix, s.Pprof, s.NATSTLSFirst}
	want := []any{secret, "nats://a,nats://b:1", "u", "' p ", 2 * time.Minute, 36 * time.Hour, slog.LevelWarn, []string{"b.net", "a.net"}, int64(3 << 29), "JS.hub.API", false, true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for text, bytes := range map[string]int64{"1GB": 1e9, "1g": 1e9, "512MiB": 512 << 20, "512Mi": 512 << 20, "1048576": 1 << 20, "600000B": 600000, "2TB": 2e12, "0": 0, "": 0} {
		if set, err := load(t, "WORKER_STREAM_MAX_BYTES="+text); err != nil || set.Settings.StreamMaxBytes != bytes {
			t.Errorf("%q: %d, %v", text, set.Settings.StreamMaxBytes, err)
		}
	}
}

func TestTextOnATerminal(t *testing.T) {
	t.Parallel()
	for format, environ := range map[string][]string{"text": nil, "json": {"LOG_FORMAT=json"}} {
		set, err := settings.Load(settings.Source{Environ: environ, Terminal: true}, settings.Log)
		if err != nil || set.Settings.LogFormat != format {
			t.Errorf("with %q: got %q, %v", environ, set.Settings.LogFormat, err)
		}
	}
}
