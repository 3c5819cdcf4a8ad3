package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// withQuestions adds to the shipped permissions what tenants need to ask, as docs/operations.md says, unless
// it is there already.
func withQuestions(accounts string) string {
	if strings.Contains(accounts, "connections.status.") {
		return accounts
	}
	for _, edit := range [][2]string{
		{`{ service: "connections.requests.*", account_token_position: 3 }`, `{ service: "connections.status.*", account_token_position: 3 }`},
		{`{ service: { account: FLOW, subject: "connections.requests.acme" } }`, `{ service: { account: FLOW, subject: "connections.status.acme" } }`},
	} {
		accounts = strings.Replace(accounts, edit[0], edit[0]+"\n"+edit[1], 1)
	}
	accounts = strings.Replace(accounts, `publish { allow: ["connections.requests.acme"`, `publish { allow: ["connections.status.acme", "connections.requests.acme"`, 1)
	return strings.Replace(accounts, `subscribe { allow: ["_INBOX.worker.>"`, `allow_responses: { max: 1, expires: "30s" }
		subscribe { allow: ["connections.status.*", "_INBOX.worker.>"`, 1)
}

// withGlobex adds a second tenant, as the comment in the file says.
func withGlobex(accounts string) string {
	begin, end := strings.Index(accounts, "  acme {"), strings.Index(accounts, "  SYS {")
	return accounts[:end] + strings.ReplaceAll(accounts[begin:end], "acme", "globex") + accounts[end:]
}

// newDeployedWorld starts a world whose NATS has the shipped permissions; all passwords are "p".
func newDeployedWorld(t *testing.T, edit func(string) string) *testWorld {
	t.Helper()
	accounts := regexp.MustCompile(`\$NATS_\w+_PASSWORD`).ReplaceAllString(readDoc(t, "deploy/nats/accounts.conf"), "p")
	file := filepath.Join(t.TempDir(), "server.conf")
	if err := os.WriteFile(file, []byte(withGlobex(edit(accounts))), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorldWith(t, natstest.Options{ConfigFile: file})
	w.environ = append(w.environ, "WORKER_ANSWER_TENANTS=true", "NATS_URL="+w.urlOf("worker"))
	w.vault.Put("flow/tenants/globex/adobe", map[string]any{"orgId": "g@AdobeOrg", "clientId": "id", "clientSecret": clientSecret})
	w.vault.Put("flow/tenants/globex/databricks/acme", map[string]any{"accessToken": databricksToken})
	return w
}

func (w *testWorld) urlOf(user string) string {
	return strings.Replace(w.natsURL, "nats://", "nats://"+user+":p@", 1)
}

// as runs a command as a NATS user.
func (w *testWorld) as(user, stdin string, args ...string) result {
	w.t.Helper()
	return w.worker(stdin, append(args, "--nats-url", w.urlOf(user))...)
}

// A tenant submits, waits, and asks with its own user; another's requests it can't even ask for.
func TestTenantsAskAsDeployed(t *testing.T) {
	t.Parallel()
	w := newDeployedWorld(t, withQuestions)
	w.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Name: "lost", Effect: flowtest.EffectReset, When: flowtest.StageAfter, Times: 1})
	w.start()
	if r := w.as("acme", request("A", goodToken), "submit", "--tenant", "acme", "--dry-run", "-"); r.code != exitOK || !strings.Contains(r.stdout, "valid") {
		t.Errorf("submit --dry-run: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if r := w.as("acme", request("lost", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "-"); r.code != exitOK || !strings.Contains(r.stdout, "adopted connection ") {
		t.Errorf("submit --wait: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	for _, args := range []string{"status r-1 --tenant acme", "status r-1 --tenant acme --source /worker/submit --watch"} {
		r := w.as("acme", "", strings.Fields(args)...)
		if r.code != exitOK || !strings.Contains(r.stdout, "looked up: it is there, with this request's mark; adopted") || strings.Contains(r.stdout+r.stderr, "permissions") {
			t.Errorf("%s: exit %d:\n%s%s", args, r.code, r.stdout, r.stderr)
		}
	}
	r := w.as("acme", "", "status", "r-1", "--tenant", "acme", "--json")
	var rec provision.Record
	if err := json.Unmarshal([]byte(r.stdout), &rec); err != nil || rec.State != provision.StateCreated || rec.Owner != "" {
		t.Errorf("status --json: exit %d, %v, owner %q:\n%s", r.code, err, rec.Owner, r.stderr)
	}
	w.checkFailedAsTenant()
	w.checkRefusedTenant()
}

// checkFailedAsTenant looks at a failure: what it means is told, but not what only operators can do.
func (w *testWorld) checkFailedAsTenant() {
	w.t.Helper()
	if r := w.as("acme", request("Late", "vault:databricks/late#accessToken"), "submit", "--tenant", "acme", "--id", "late", "--wait", "-"); r.code != exitFailed {
		w.t.Errorf("submit --wait: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	r := w.as("acme", "", "status", "late", "--tenant", "acme")
	if r.code != exitOK || !strings.Contains(r.stdout, "failed secret_not_found") || !strings.Contains(r.stdout, "\nPut the secret where the reference points to") || strings.Contains(r.stdout, "worker retry") {
		w.t.Errorf("of a failed one: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
}

func (w *testWorld) checkRefusedTenant() {
	w.t.Helper()
	for _, c := range []struct {
		user, args string
		code       int
		says       string
	}{
		{"globex", "status r-1 --tenant acme", exitFailed, "NATS does not let this user ask; let it publish on connections.status.acme"},
		{"acme", "status r-1 --tenant globex", exitFailed, "NATS does not let this user ask"},
		{"globex", "status r-1 --tenant globex", exitFailed, `no worker has taken up a request of globex with id "r-1"`},
		{"acme", "status none --tenant acme", exitFailed, "check the id and --source"},
		{"acme", "status r-1 --tenant acme --source /other", exitFailed, "check the id and --source"},
		{"acme", "status r-1", exitUsage, "give --tenant"},
		{"acme", "submit --tenant globex -", exitFailed, "may not submit for tenant globex; let it publish on connections.requests.globex"},
		{"acme", "submit --tenant globex --wait -", exitFailed, "globex"},
	} {
		r := w.as(c.user, request("A", goodToken), strings.Fields(c.args)...)
		if r.code != c.code || !strings.Contains(r.stderr, c.says) || r.stdout != "" {
			w.t.Errorf("%s: %s: exit %d, want %d and %q:\n%s%s", c.user, c.args, r.code, c.code, c.says, r.stdout, r.stderr)
		}
	}
	for _, args := range []string{"list", "retry r-1 --yes", "resolve r-1 --absent --reason x --by me --yes", "pause"} {
		if r := w.as("acme", "", strings.Fields(args)...); r.code != exitFailed || r.stdout != "" || !strings.HasPrefix(r.stderr, "worker: "+operatorsOnly) {
			w.t.Errorf("acme: %s: exit %d:\n%s%s", args, r.code, r.stdout, r.stderr)
		}
	}
	if r := w.as("acme", "", "init"); r.code != exitFailed || r.stdout != "" || !strings.HasPrefix(r.stderr, "worker: "+initsOnly) {
		w.t.Errorf("acme: init: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if n := len(w.flow.Connections()); n != 1 {
		w.t.Errorf("%d connections", n)
	}
}

// Without a worker that answers, or without the right to ask, a tenant is told what is missing.
func TestTenantsAskNobody(t *testing.T) {
	t.Parallel()
	w := newDeployedWorld(t, withQuestions)
	if r := w.as("acme", "", "status", "r-1", "--tenant", "acme"); r.code != exitFailed || !strings.Contains(r.stderr, "no worker answers questions") {
		t.Errorf("nobody there: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if r := w.as("operator", "", "init"); r.code != exitFailed || !strings.HasPrefix(r.stderr, "worker: "+initsOnly) || !strings.Contains(r.stderr, "$JS.API.STREAM.CREATE.") {
		t.Errorf("init as an operator: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if r := w.as("init", "", "init"); r.code != exitOK {
		t.Errorf("init as init: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
}
