package main

import (
	"context"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// leakyWorld is a testWorld whose secrets are canaries, with services that say them back.
type leakyWorld struct {
	*testWorld
	secrets map[string]string // :: name → canary
	hunt    *canary.Hunt
	temp    string // the worker's folder for temporary files
}

func newLeakyWorld(t *testing.T) *leakyWorld {
	t.Helper()
	s := map[string]string{"NATS password": canary.Plain(), "user info": canary.Plain(), "misplaced token": "p8e-" + canary.Plain()}
	for _, name := range []string{"clientSecret", "Databricks token", "Vault token", "plaintext token", "unknown field",
		"setting", "secret-id", "JWT", "creds seed", "NKey seed"} {
		s[name] = canary.New()
	}
	w := &leakyWorld{secrets: s, hunt: canary.NewHunt(s), temp: t.TempDir()}
	conf := filepath.Join(t.TempDir(), "nats.conf")
	w.write(t, conf, fmt.Sprintf("accounts: { A: { jetstream: enabled, users: [ {user: worker, password: %q} ] } }\n", s["NATS password"]))
	broker := natstest.Run(t, natstest.Options{ConfigFile: conf})
	vault, emulator := vaulttest.New(vaulttest.Config{RootToken: s["Vault token"]}), flowtest.New(flowtest.Config{})
	vault.Put("flow/tenants/acme/adobe", map[string]any{"orgId": "a@AdobeOrg", "clientId": "id", "clientSecret": s["clientSecret"]})
	vault.Put("flow/tenants/acme/databricks/acme", map[string]any{"accessToken": s["Databricks token"]})
	said := s["Databricks token"] + " and " + canary.Spellings["base64 from byte 1"].Write(s["clientSecret"])
	emulator.SetFaults(
		flowtest.Fault{Operation: flowtest.OpCreate, NamePrefix: "echo", Effect: flowtest.EffectStatus, Status: 400, Message: said},
		flowtest.Fault{Operation: flowtest.OpCreate, NamePrefix: "hang", Effect: flowtest.EffectHang, Times: 1})
	vaultAt, flowAt := httptest.NewServer(vault), httptest.NewServer(emulator)
	t.Cleanup(vaultAt.Close)
	t.Cleanup(flowAt.Close)
	natsURL := strings.Replace(broker.ClientURL(), "://", "://worker:"+s["NATS password"]+"@", 1)
	w.testWorld = &testWorld{t: t, flow: emulator, vault: vault, natsURL: natsURL, environ: []string{
		"NATS_URL=" + natsURL, "VAULT_ADDR=" + vaultAt.URL, "VAULT_TOKEN=" + s["Vault token"],
		"FLOW_URL=" + flowAt.URL, "IMS_URL=" + flowAt.URL, "WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_STATUS_ADDR=127.0.0.1:0",
		"WORKER_RETRY_INITIAL=20ms", "WORKER_SETTLE=200ms", "FLOW_TIMEOUT=1s", "WORKER_ACK_WAIT=1s", "LOG_LEVEL=debug", "TMPDIR=" + w.temp,
	}}
	return w
}

func (w *leakyWorld) write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs a command, with more environment, and searches what it prints.
func (w *leakyWorld) run(stdin string, more []string, args ...string) result {
	w.t.Helper()
	r := worker(w.t, append(append([]string{}, w.environ...), more...), stdin, args...)
	name := "output of " + strings.Fields(args[0])[0]
	w.hunt.Search(name, r.stdout)
	w.hunt.Search(name, r.stderr)
	return r
}

// TestCommandsAndProcessesLeakNothing runs workers in processes of their own, one of which is killed amid a
// POST, and every command that could tell of what they did or of a setting; also with wrong settings and
// wrong credentials.
func TestCommandsAndProcessesLeakNothing(t *testing.T) {
	t.Parallel()
	w := newLeakyWorld(t)
	first := w.process("run")
	first.log.await(t, "worker is ready")
	w.hunt.Search("command line of the process", w.commandLine(first))
	w.submitAll()
	w.awaitHang()
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // it was killed
	second := w.process("run")
	second.log.await(t, "its last worker vanished")
	w.tellAll()
	w.wrongSettings()
	w.wrongCredentials()
	w.hunt.Search("stderr of the processes", first.log.String()+second.log.String())
	w.hunt.Search("temporary files", w.files())
	for _, hit := range w.hunt.Hits() {
		t.Errorf("%s leaks %q as %s: …%s…", hit.Sink, hit.Canary, hit.Spelling, hit.Around)
	}
	t.Logf("searched:\n%s", w.hunt.Report())
	w.canFail(second)
}

// submitAll sends a request that goes well, one that is refused with an echo, bad ones, and one that hangs.
func (w *leakyWorld) submitAll() {
	w.t.Helper()
	for id, data := range map[string]string{
		"good": request("good", goodToken), "echo": request("echo", goodToken), "plain": request("plain", quotable(w.secrets["plaintext token"])),
		"unknown": strings.Replace(request("unknown", goodToken), `"name"`, `"password":"`+quotable(w.secrets["unknown field"])+`","name"`, 1),
	} {
		w.run(data, nil, "submit", "--dry-run", "--tenant", "acme", "-")
		w.run(data, nil, "submit", "--tenant", "acme", "--id", id, "--wait", "-")
	}
	w.submitMisplaced()
	w.run("not JSON: "+w.secrets["plaintext token"], nil, "submit", "--tenant", "acme", "-")
	w.run(request("hang", goodToken), nil, "submit", "--tenant", "acme", "--id", "hang", "-")
}

// submitMisplaced submits requests with a token where none belongs: none is sent.
func (w *leakyWorld) submitMisplaced() {
	w.t.Helper()
	token := w.secrets["misplaced token"]
	for at, data := range map[string]string{
		"/data/name":                   request("for "+token, goodToken),
		"/data/auth/params/clusterId":  strings.Replace(request("cluster", goodToken), `"c"`, `"`+token+`"`, 1),
		"/data/auth/params/database":   strings.Replace(request("database", goodToken), `"d"`, `"`+token+`"`, 1),
		"/data/connectionSpec/version": strings.Replace(request("version", goodToken), `"1.0"`, `"`+token+`"`, 1),
		"/subject":                     `{"specversion":"1.0","type":"` + event.TypeCreate + `","source":"/s","subject":"` + token + `","data":` + request("subject", goodToken) + `}`,
	} {
		r := w.run(data, nil, "submit", "--tenant", "acme", "--id", "misplaced", "-")
		if r.code == 0 || !strings.Contains(r.stderr, at+": holds what looks like a token") || !strings.Contains(r.stderr, "plaintext_secret") {
			w.t.Errorf("a token at %s: exit %d:\n%s%s", at, r.code, r.stdout, r.stderr)
		}
	}
}

// quotable returns a secret as it stands in JSON.
func quotable(secret string) string { return canary.Spellings["JSON"].Write(secret) }

func (w *leakyWorld) awaitHang() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if err := w.flow.Wait(ctx, func(e *flowtest.Emulator) bool { return e.Hanging() > 0 || e.Count(flowtest.OpCreate) > 3 }); err != nil {
		w.t.Fatal("no POST hangs")
	}
}

// tellAll runs every command that tells something.
func (w *leakyWorld) tellAll() {
	w.t.Helper()
	for _, id := range []string{"good", "echo", "plain", "unknown", "hang"} {
		w.run("", nil, "status", id, "--tenant", "acme")
		w.run("", nil, "status", id, "--tenant", "acme", "--json")
	}
	for _, line := range []string{"list", "list --json", "list --stuck", "retry echo --yes", "retry plain --yes", "retry --reason flow_rejected --yes",
		"doctor", "config", "config --json", "init", "pause", "resume", "version", "run --no-such-flag"} {
		w.run("", nil, strings.Fields(line)...)
	}
	if r := w.run("", nil, "status", "echo", "--tenant", "acme", "--json"); !strings.Contains(r.stdout, "[redacted]") {
		w.t.Errorf("the echo isn't in the ledger's story:\n%s%s", r.stdout, r.stderr)
	}
}

// wrongSettings gives a secret to every setting that could not be one, and addresses with user info.
func (w *leakyWorld) wrongSettings() {
	w.t.Helper()
	bad, with := w.secrets["setting"], w.secrets["user info"]
	for _, env := range [][]string{
		{"NATS_URL=nats://user:" + with + "@[::bad", "VAULT_ADDR=https://user:" + with + "@vault:8200", "FLOW_URL=https://user:" + with + "@flow",
			"IMS_URL=https://ims/?token=" + with},
		{"NATS_URL=" + bad, "VAULT_ADDR=" + bad, "FLOW_URL=" + bad, "IMS_URL=" + bad},
		{"VAULT_CACHE_TTL=" + bad, "FLOW_TIMEOUT=" + bad, "WORKER_CONCURRENCY=" + bad, "LOG_LEVEL=" + bad, "LOG_FORMAT=" + bad, "VAULT_AUTH=" + bad,
			"WORKER_MANAGE_STREAMS=" + bad, "WORKER_HTTP_ADDR=" + bad, "WORKER_ALLOWED_DOMAINS=" + bad, "WORKER_REPLICAS=" + bad},
		{"VAULT_ADDR=http://user:" + with + "@vault", "NATS_URL=nats://" + with + "@127.0.0.1:1,nats://x:" + with + "@h"},
	} {
		for _, line := range []string{"config", "config --json", "run", "doctor"} {
			if strings.HasPrefix(line, "config") || strings.Contains(env[0], "bad") || strings.Contains(env[0], bad) {
				w.run("", env, strings.Fields(line)...)
			}
		}
	}
}

// wrongCredentials has doctor look at credentials that are refused or broken.
func (w *leakyWorld) wrongCredentials() {
	w.t.Helper()
	dir, plainURL := w.t.TempDir(), "NATS_URL="+strings.Replace(w.natsURL, w.secrets["NATS password"], w.secrets["user info"], 1)
	file := func(name string) string {
		path := filepath.Join(dir, name)
		w.write(w.t, path, "-----BEGIN USER NKEY SEED-----\n"+w.secrets[name]+"\n------END USER NKEY SEED------\n")
		return path
	}
	for _, env := range [][]string{
		{plainURL},
		{plainURL, "NATS_CREDS=" + file("creds seed")},
		{plainURL, "NATS_NKEY=" + file("NKey seed")},
		{"VAULT_TOKEN=" + w.secrets["setting"]},
		{"VAULT_AUTH=approle", "VAULT_ROLE_ID=r", "VAULT_SECRET_ID_FILE=" + file("secret-id")},
		{"VAULT_AUTH=jwt", "VAULT_ROLE=r", "VAULT_JWT_FILE=" + file("JWT")},
	} {
		w.run("", env, "doctor")
	}
}

// commandLine returns what everybody on the machine may read of a process; "" where the system tells none.
func (w *leakyWorld) commandLine(p *process) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.Process.Pid))
	return string(b)
}

func (w *leakyWorld) files() string {
	w.t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(w.temp, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			content, rerr := os.ReadFile(path)
			all.WriteString(path + "\n" + string(content))
			return rerr
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return all.String()
}

// canFail plants a secret where the search looked.
func (w *leakyWorld) canFail(p *process) {
	w.t.Helper()
	hunt := canary.NewHunt(map[string]string{"secret": w.secrets["setting"]})
	w.write(w.t, filepath.Join(w.temp, "planted"), w.secrets["setting"])
	_, _ = p.log.Write([]byte(w.secrets["setting"]))                                           // to memory
	r := worker(w.t, append(w.environ, "VAULT_NAMESPACE="+w.secrets["setting"]), "", "config") // no secret, so it is shown
	for sink, text := range map[string]string{"stderr": p.log.String(), "files": w.files(), "config": r.stdout} {
		if hunt.Search(sink, text) != 1 {
			w.t.Errorf("%s: the secret that was planted there is not found in\n%.300s", sink, text)
		}
	}
}
