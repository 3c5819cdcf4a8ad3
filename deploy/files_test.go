package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// readYAML decodes the only document of file into v. A key given twice is an error, and so is one
// that v has no place for.
func readYAML(t *testing.T, file string, v any) {
	t.Helper()
	dec := yaml.NewDecoder(bytes.NewReader(read(t, file)))
	dec.KnownFields(true)
	if err := dec.Decode(v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		t.Fatalf("%s: more than one document", file)
	}
}

// dig walks down from v by keys and indexes and fails the test where there is nothing.
func dig(t *testing.T, v any, path ...any) any {
	t.Helper()
	for i, step := range path {
		var next any
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			next = m[step]
		case int:
			if l, _ := v.([]any); step < len(l) {
				next = l[step]
			}
		}
		if next == nil {
			t.Fatalf("nothing at %v", path[:i+1])
		}
		v = next
	}
	return v
}

// want checks that what is at path prints as value does.
func want(t *testing.T, v any, value any, path ...any) {
	t.Helper()
	if got := fmt.Sprint(dig(t, v, path...)); got != fmt.Sprint(value) {
		t.Errorf("%v is %s, want %v", path, got, value)
	}
}

func TestFilesParse(t *testing.T) {
	t.Parallel()
	count := 0
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		switch filepath.Ext(path) {
		case ".yml", ".yaml":
			count++
			readYAML(t, path, new(map[string]any))
		case ".json":
			count++
			if !json.Valid(read(t, path)) {
				t.Errorf("%s is no JSON", path)
			}
		}
		return err
	})
	if err != nil || count < 10 {
		t.Errorf("%d files checked, error %v", count, err)
	}
}

// settings are the worker's variables, as the contract lists them.
var settings = strings.Fields(`
	NATS_URL NATS_CREDS NATS_NKEY NATS_CA NATS_CERT NATS_KEY
	VAULT_ADDR VAULT_TOKEN VAULT_NAMESPACE VAULT_CACERT
	VAULT_AUTH VAULT_AUTH_MOUNT VAULT_ROLE VAULT_ROLE_ID VAULT_SECRET_ID_FILE VAULT_JWT_FILE
	VAULT_KV_MOUNT VAULT_TENANT_PREFIX VAULT_CACHE_TTL
	FLOW_URL IMS_URL FLOW_TIMEOUT
	WORKER_HTTP_ADDR WORKER_STATUS_ADDR WORKER_PPROF
	WORKER_CONCURRENCY WORKER_ACK_WAIT
	WORKER_RETRY_INITIAL WORKER_RETRY_DELAY_MAX WORKER_RETRY_ELAPSED WORKER_REDELIVERY_DELAY_MAX
	WORKER_REQUEST_DEADLINE WORKER_SETTLE WORKER_SHUTDOWN_TIMEOUT WORKER_ALLOWED_DOMAINS
	WORKER_REPLICAS WORKER_MANAGE_STREAMS WORKER_ANSWER_TENANTS
	LOG_LEVEL LOG_FORMAT`)

// checkSettings checks that every name is a setting of the worker.
func checkSettings(t *testing.T, where string, names ...string) {
	t.Helper()
	if len(names) == 0 {
		t.Errorf("%s: no settings found", where)
	}
	for _, name := range names {
		if !slices.Contains(settings, name) {
			t.Errorf("%s: the worker has no setting %s", where, name)
		}
	}
}

// Whatever looks like a setting, in comments and remedies too, has to be one.
func TestSettingsThatAreNamedExist(t *testing.T) {
	t.Parallel()
	pattern := regexp.MustCompile(`\b(?:WORKER|FLOW|IMS|LOG)_[A-Z_]+\b`)
	for _, file := range []string{"../Dockerfile", "compose.yaml", "kubernetes/base/deployment.yaml", "kubernetes/base/settings.env",
		"nats/accounts.conf", "nats/server.conf", "nats/tls.conf",
		"prometheus/rules.yml", "vault/policy.hcl", "vault/policy-tenants.hcl", "vault/policy-entity.hcl"} {
		for _, name := range pattern.FindAllString(string(read(t, file)), -1) {
			checkSettings(t, file, name)
		}
	}
}

func TestDockerfile(t *testing.T) {
	t.Parallel()
	text := string(read(t, "../Dockerfile"))
	for _, line := range []string{
		`(?m)^ARG BUILDER=golang:1\.26\.\d+-\w+$`, `(?m)^ARG RUNTIME=\S+$`, `(?m)^FROM \$\{BUILDER\} AS build$`, `(?m)^FROM \$\{RUNTIME\}$`,
		`CGO_ENABLED=0`, `-trimpath`, `-X main\.version=\$\{VERSION\}`, `ca-certificates\.crt`,
		`(?m)^USER [1-9]\d*:[1-9]\d*$`, `CMD \["/usr/local/bin/worker", "healthcheck"\]`,
		`(?m)^ENTRYPOINT \["/usr/local/bin/worker"\]$`, `(?m)^CMD \["run"\]$`, `org\.opencontainers\.image\.licenses="Apache-2\.0"`,
	} {
		if !regexp.MustCompile(line).MatchString(text) {
			t.Errorf("Dockerfile: nothing matches %s", line)
		}
	}
	if strings.Contains(text, ":latest") {
		t.Error("Dockerfile: an image is not pinned")
	}
	goMod := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(read(t, "../go.mod"))
	if goMod == nil || !strings.Contains(text, "golang:"+string(goMod[1])+".") {
		t.Errorf("Dockerfile: the builder is not of go.mod's Go version %s", goMod)
	}
}
