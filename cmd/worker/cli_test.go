package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
)

func TestWrongUse(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"nope":                                 `unknown command "nope"`,
		"run --nope":                           "unknown flag: --nope",
		"run extra":                            "unknown command",
		"submit":                               "requires at least 1 arg",
		"submit -":                             "--tenant",
		"submit --tenant Acme -":               "lower-case letters",
		"submit --tenant a --id x y z":         "--id names one request only",
		"submit --tenant a --timeout=-1s x":    "--timeout",
		"submit --tenant a --timeout=1 x":      "--timeout is \"1\"; want a duration, as 90s",
		"submit --tenant a /no/such":           "/no/such: no such file or directory",
		"status":                               "accepts 1 arg",
		"list --state lost":                    "--state",
		"list --tenant A":                      "--tenant",
		"list --limit=-1":                      "--limit",
		"list --limit x":                       "--limit is \"x\"; want a whole number\n",
		"list --json=perhaps":                  "--json is \"perhaps\"; want true or false",
		"retry x --rate fast":                  "--rate is \"fast\"; want a number",
		"list --stuck --state failed":          "--stuck shows only what has not ended; leave --state out, or give some of open, claimed, posting, unknown, waiting\n",
		"list --stuck --state adopted,created": "--stuck shows only",
		"pause --for 0":                        "--for is 0s; want a positive duration",
		"pause --for=-1h":                      "--for is -1h0m0s; want a positive duration",
		"list --older-than=-1h":                "--older-than",
		"list --ended-within=-1h":              "--ended-within",
		"list --ended-within 1h --state open":  "--ended-within",
		"list --ended-within 1h --stuck":       "--ended-within",
		"doctor --vault-token t --tenant A":    "--tenant",
		"doctor --vault-token t --sandbox x":   "--sandbox needs --tenant",
		"doctor --nats-cert cli_test.go":       "NATS_KEY",
		"retry --yes":                          "give the ids",
		"retry x --reason expired --yes":       "not both",
		"retry x":                              "no terminal",
		"retry --reason oops --yes":            "--reason",
		"retry x --tenant A --yes":             "--tenant",
		"retry x --since=-1s --yes":            "--since",
		"retry x --limit=-1 --yes":             "--limit",
		"retry x --rate 0 --yes":               "--rate",
		"retry x --rate NaN --yes":             "--rate",
		"resolve":                              "accepts 1 arg",
		"resolve x --reason y --yes":           "either --connection",
		"resolve x --absent --connection c --reason y --yes":  "either --connection",
		"resolve x --absent --yes --by a":                     "--reason: want",
		"resolve x --absent --yes --reason y":                 "--by: say who you are; USER is not set",
		"resolve x --absent --reason y --by a":                "no terminal",
		"resolve x --connection ../x --reason y --by a --yes": "--connection: want the id",
		"resolve x --tenant A --absent --reason y --yes":      "--tenant",
		"emulator --fail-rate 2":                              "want 0 to 1",
		"emulator --stores name_upper":                        "--stores: ",
		"emulator --lists-without id":                         "--lists-without: ",
		"emulator --lag=-1s":                                  "must not be negative",
		"emulator --fault {}":                                 "--fault",
		"init --worker-replicas 2":                            "WORKER_REPLICAS",
		"healthcheck --worker-http-addr x":                    "WORKER_HTTP_ADDR",
		"status --nats-url http://x y":                        "NATS_URL",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			r := worker(t, nil, "{}", strings.Fields(line)...)
			if r.code != exitUsage || !strings.Contains(r.stderr, want) {
				t.Errorf("exit %d, want %d with %q:\n%s", r.code, exitUsage, want, r.stderr)
			}
			if r.stdout != "" {
				t.Errorf("an error on stdout: %q", r.stdout)
			}
		})
	}
}

// What submit is given to read is part of how it is used.
func TestSubmitOfNothingToSend(t *testing.T) {
	t.Parallel()
	for input, want := range map[string]string{
		"":                 "standard input: holds no request",
		" \n":              "standard input: holds no request",
		"[]":               "standard input: holds no request",
		"{":                "standard input: is not JSON: it ends in the middle of a value, after byte 1",
		`{"name": nobody}`: "standard input: is not JSON at byte",
		"{}{}":             "standard input: holds 2 requests, but an id names one only",
	} {
		r := worker(t, []string{"NATS_URL=nats://127.0.0.1:1"}, input, "submit", "--tenant", "acme", "--id", "r-1", "-")
		if r.code != exitUsage || !strings.Contains(r.stderr, want) || r.stdout != "" {
			t.Errorf("%q: exit %d, want %d with %q:\n%s%s", input, r.code, exitUsage, want, r.stdout, r.stderr)
		}
	}
	if r := worker(t, []string{"NATS_URL=nats://127.0.0.1:1"}, "", "submit", "--tenant", "acme", t.TempDir()); r.code != exitUsage || !strings.Contains(r.stderr, "is a directory") {
		t.Errorf("a directory: exit %d:\n%s", r.code, r.stderr)
	}
}

func TestFailedWork(t *testing.T) {
	t.Parallel()
	const nobody = "NATS_URL=nats://127.0.0.1:1"
	for line, want := range map[string]string{
		"status some-id": "not to be reached at nats://127.0.0.1:1; check NATS_URL",
		"list":           "not to be reached",
		"retry x --yes":  "not to be reached",
		"resolve x --absent --reason y --by a --yes": "not to be reached",
		"init":                        "not to be reached",
		"pause":                       "not to be reached",
		"resume":                      "not to be reached",
		"submit --tenant acme -":      "not to be reached",
		"emulator --addr 256.0.0.1:1": "choose another by --addr",
		"healthcheck --worker-http-addr 127.0.0.1:1": "does not answer",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			r := worker(t, []string{nobody}, request("x", "vault:a#b"), strings.Fields(line)...)
			if r.code != exitFailed || !strings.Contains(r.stderr, want) {
				t.Errorf("exit %d, want %d with %q:\n%s", r.code, exitFailed, want, r.stderr)
			}
		})
	}
}

func TestAllWrongSettingsAtOnce(t *testing.T) {
	t.Parallel()
	r := worker(t, []string{"VAULT_TOKEN=hvs.secret", "WORKER_ACK_WAIT=x", "WORKER_CONCURRENCY=0", "FLOW_URL=http://example.com",
		"IMS_URL=https://u:hvs.secret@ims", "LOG_LEVEL=loud"}, "", "run")
	if r.code != exitUsage {
		t.Errorf("exit %d, want %d", r.code, exitUsage)
	}
	for _, name := range []string{"5 wrong settings", "WORKER_ACK_WAIT:", "WORKER_CONCURRENCY:", "FLOW_URL:", "IMS_URL:", "LOG_LEVEL:"} {
		if !strings.Contains(r.stderr, name) {
			t.Errorf("no %q in:\n%s", name, r.stderr)
		}
	}
	if strings.Contains(r.stderr+r.stdout, "hvs.secret") {
		t.Errorf("a secret is shown:\n%s", r.stderr)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	environ := []string{"VAULT_TOKEN=hvs.secret", "NATS_URL=nats://u:pass-word@n:4222", "WORKER_SETTLE=3m", "WORKER_SETLE=4m"}
	r := worker(t, environ, "", "config", "--json", "--worker-ack-wait", "20s")
	if r.code != exitOK {
		t.Fatalf("exit %d:\n%s", r.code, r.stderr)
	}
	var view configView
	if err := json.Unmarshal([]byte(r.stdout), &view); err != nil {
		t.Fatal(err)
	}
	got := map[string]settings.Value{}
	for _, v := range view.Settings {
		got[v.Name] = v
	}
	for _, want := range []settings.Value{
		{Name: "VAULT_TOKEN", Value: "********", Origin: settings.FromEnv},
		{Name: "NATS_URL", Value: "nats://********@n:4222", Origin: settings.FromEnv},
		{Name: "WORKER_SETTLE", Value: "3m", Origin: settings.FromEnv},
		{Name: "WORKER_ACK_WAIT", Value: "20s", Origin: settings.FromFlag},
		{Name: "WORKER_REPLICAS", Value: "1", Origin: settings.FromDefault},
	} {
		if diff := cmp.Diff(want, got[want.Name]); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if len(view.Warnings) != 2 || !strings.Contains(view.Warnings[0], "NATS_URL has a password for n ") || !strings.Contains(view.Warnings[1], "did you mean WORKER_SETTLE?") {
		t.Errorf("warnings: %q", view.Warnings)
	}
	plain := worker(t, environ, "", "config")
	for _, s := range []string{"hvs.secret", "pass-word"} {
		if strings.Contains(r.stdout+plain.stdout+plain.stderr, s) {
			t.Errorf("%q is shown:\n%s", s, plain.stdout)
		}
	}
}

func TestConfigTellsWhatIsMissingAndWhatIsWrong(t *testing.T) {
	t.Parallel()
	r := worker(t, nil, "", "config")
	if r.code != exitOK || !strings.Contains(r.stderr, "run still needs:\n  VAULT_TOKEN:") {
		t.Errorf("without a token: exit %d:\n%s", r.code, r.stderr)
	}
	r = worker(t, []string{"WORKER_SETTLE=soon"}, "", "config")
	if r.code != exitUsage || !strings.Contains(r.stderr, "WORKER_SETTLE") || !strings.Contains(r.stdout, "WORKER_RETRY_INITIAL") {
		t.Errorf("with a wrong value: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	var v buildVersion
	r := worker(t, nil, "", "version", "--json")
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil || r.code != exitOK {
		t.Fatalf("exit %d, %v: %s", r.code, err, r.stdout)
	}
	if v.Version == "" || v.Commit == "" || !strings.HasPrefix(v.Go, "go1.") {
		t.Errorf("got %+v", v)
	}
	if plain := worker(t, nil, "", "version"); !strings.Contains(plain.stdout, "commit") {
		t.Errorf("got %q", plain.stdout)
	}
}

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/healthz" {
			t.Errorf("asked for %s %s", r.Method, r.URL.Path)
		}
		w.WriteHeader(status)
	}))
	defer srv.Close()
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if r := worker(t, []string{"WORKER_HTTP_ADDR=:" + port}, "", "healthcheck"); r.code != exitOK {
		t.Errorf("healthy: exit %d: %s", r.code, r.stderr)
	}
	status = http.StatusInternalServerError
	if r := worker(t, []string{"WORKER_HTTP_ADDR=0.0.0.0:" + port}, "", "healthcheck"); r.code != exitFailed {
		t.Errorf("sick: exit %d", r.code)
	}
}

func TestReachable(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		":8080": "127.0.0.1:8080", "0.0.0.0:1": "127.0.0.1:1", "[::]:1": "[::1]:1", "10.0.0.7:1": "10.0.0.7:1", "host:1": "host:1",
	} {
		if got := reachable(addr); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	r := worker(t, nil, "", "--help")
	for _, name := range []string{"run", "demo", "init", "submit", "status", "list", "pause", "resume", "emulator", "config", "version"} {
		if !strings.Contains(r.stdout, "\n  "+name+" ") {
			t.Errorf("help doesn't name %q", name)
		}
	}
	if strings.Contains(r.stdout, "healthcheck") || r.code != exitOK {
		t.Errorf("exit %d:\n%s", r.code, r.stdout)
	}
}

func TestEmulator(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs safeBuffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"emulator", "--addr", "127.0.0.1:0", "--fault", `{"operation":"list","effect":"status","status":503}`},
			nil, strings.NewReader(""), &out, &errs)
	}()
	out.await(t, "Ctrl-C ends it.")
	_, rest, _ := strings.Cut(out.String(), "IMS_URL=")
	url := strings.Fields(rest)[0]
	resp, err := http.Get(url + "/_emulator/faults")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var faults struct{ Faults []json.RawMessage }
	if err := json.NewDecoder(resp.Body).Decode(&faults); err != nil || len(faults.Faults) != 1 {
		t.Errorf("faults %v, %v; want one", faults, err)
	}
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("exit %d after the signal:\n%s", code, errs.String())
	}
}

// Whoever asks a command for help is shown how it is used.
func TestEveryCommandHasAnExample(t *testing.T) {
	t.Parallel()
	for _, cmd := range (&cli{}).root().Commands() {
		if cmd.Hidden {
			continue
		}
		r := worker(t, nil, "", cmd.Name(), "--help")
		if r.code != exitOK || !strings.Contains(r.stdout, "\nExamples:\n  ") || !strings.Contains(cmd.Example, "worker "+cmd.Name()) {
			t.Errorf("%s: exit %d:\n%s", cmd.Name(), r.code, r.stdout)
		}
	}
}
