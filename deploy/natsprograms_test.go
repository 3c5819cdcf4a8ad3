//go:build soak

package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// programs runs the worker's program with the users of accounts.conf.
type programs struct {
	*broker
	ctx                    context.Context
	binary                 string
	env                    []string
	flow                   *flowtest.Emulator
	worker, operator, init *tap
	log                    journal
	cmd                    *exec.Cmd
}

// journal is a log that can be waited for.
type journal struct {
	mu      sync.Mutex
	text    bytes.Buffer  // guarded by mu
	changed chan struct{} // closed at every write; guarded by mu
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.changed != nil {
		close(j.changed)
	}
	j.changed = make(chan struct{})
	return j.text.Write(b)
}

func (j *journal) look() (string, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.changed == nil {
		j.changed = make(chan struct{})
	}
	return j.text.String(), j.changed
}

// await waits until the log says text n times.
func (j *journal) await(ctx context.Context, t *testing.T, text string, n int) string {
	t.Helper()
	for {
		log, changed := j.look()
		if strings.Count(log, text) >= n {
			return log
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("the log doesn't say %q %d times:\n%s", text, n, log)
		}
	}
}

func buildWorker(ctx context.Context, t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "worker")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "../cmd/worker").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

func newPrograms(ctx context.Context, t *testing.T) *programs {
	t.Helper()
	p := &programs{broker: newEditedBroker(t, withAdmin, withDeletions), ctx: ctx, binary: buildWorker(ctx, t), flow: flowtest.New(flowtest.Config{})}
	vault := vaulttest.New(vaulttest.Config{})
	vault.Put("flow/tenants/acme/adobe", map[string]any{"orgId": "a@AdobeOrg", "clientId": "id", "clientSecret": "s"})
	vault.Put("flow/tenants/acme/databricks/acme", map[string]any{"accessToken": "dapi"})
	vaultAt, flowAt := httptest.NewServer(vault), httptest.NewServer(p.flow)
	t.Cleanup(vaultAt.Close)
	t.Cleanup(flowAt.Close)
	p.worker, p.operator, p.init = newTap(t, p.url), newTap(t, p.url), newTap(t, p.url)
	p.env = []string{
		"VAULT_ADDR=" + vaultAt.URL, "VAULT_TOKEN=" + vault.Token(), "FLOW_URL=" + flowAt.URL, "IMS_URL=" + flowAt.URL,
		"WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_STATUS_ADDR=127.0.0.1:0", "WORKER_RETRY_INITIAL=20ms", "WORKER_RETRY_DELAY_MAX=200ms", "WORKER_SETTLE=1s",
		"LOG_LEVEL=debug", "HOME=" + t.TempDir(),
	}
	return p
}

// start runs `worker run` until the test ends.
func (p *programs) start() {
	p.t.Helper()
	p.cmd = exec.CommandContext(context.WithoutCancel(p.ctx), p.binary, "run")
	p.cmd.Env = append([]string{"NATS_URL=" + p.worker.url("worker")}, p.env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		if err := p.cmd.Wait(); err != nil {
			log, _ := p.log.look()
			p.t.Errorf("worker run: %v\n%s", err, log)
		}
	})
	p.log.await(p.ctx, p.t, "worker is ready", 1)
}

// command runs a command as one of the users, and fails unless it ends with the code.
func (p *programs) command(at *tap, user string, code int, stdin string, args ...string) string {
	p.t.Helper()
	cmd := exec.CommandContext(p.ctx, p.binary, args...)
	cmd.Env = append([]string{"NATS_URL=" + at.url(user)}, p.env...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
		p.t.Errorf("%s: worker %q: %v, want code %d:\n%s", user, args, err, code, out)
	}
	return string(out)
}

func (p *programs) operate(code int, stdin string, args ...string) string {
	p.t.Helper()
	return p.command(p.operator, "operator", code, stdin, args...)
}

func requestData(name string) string {
	return `{"sandbox":"prod","name":"` + name + `","auth":{"specName":"Access Token Authentication","params":{` +
		`"domain":"https://adb-1.7.azuredatabricks.net","clusterId":"c","accessToken":"vault:databricks/acme#accessToken","database":"d"}},` +
		`"connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}}`
}

// Whole programs with the shipped users: nothing that they do is refused, and an operator's rights are
// used. (That those of worker and init are is shown by TestNATSWorkerHasExactlyWhatItUses and its like.)
func TestNATSProgramsHaveExactlyWhatTheyUse(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	p := newPrograms(ctx, t)
	p.command(p.init, "init", 0, "", "init")
	p.command(p.init, "init", 0, "", "init")
	p.start()
	p.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Name: "lost", Effect: flowtest.EffectReset, When: flowtest.StageAfter, Times: 1})
	p.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Name: "busy", Effect: flowtest.EffectStatus, Status: 503, Times: 1})
	p.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Name: "bad", Effect: flowtest.EffectBadCredentials, Times: 2})
	submit := []string{"submit", "--tenant", "acme", "--source", "/s", "--wait", "--id"}
	for name, code := range map[string]int{"good": 0, "lost": 0, "busy": 0, "bad": 1} {
		p.operate(code, requestData(name), append(submit, name, "-")...)
	}
	p.operate(0, "", "status", "bad")
	p.operate(0, "", "list", "--json")
	p.operate(0, "", "list", "--stuck")
	p.operate(0, "", "retry", "bad", "--yes")
	p.operate(0, "", "status", "bad", "--watch")
	p.operate(0, "", "pause", "--for", "1h")
	p.awaitMetric("flow_worker_paused 1")
	p.operate(0, requestData("waiting"), "submit", "--tenant", "acme", "--id", "waiting", "-")
	p.operate(0, "", "status", "waiting")
	p.operate(0, "", "resume")
	p.operate(0, "", "status", "waiting", "--watch")
	p.operate(0, "", "doctor", "--tenant", "acme")
	p.command(p.worker, "worker", 0, "", "doctor")
	p.get("status", "/status.json")
	p.loseConsumer()
	p.checkRefusals()
	p.checkOperator()
}

// checkRefusals finds nothing refused, but for what doctor tries in order to tell.
func (p *programs) checkRefusals() {
	p.t.Helper()
	for user, at := range map[string]*tap{"worker": p.worker, "operator": p.operator, "init": p.init} {
		for _, text := range at.refusals() {
			byDoctor := strings.Contains(text, "._doctor") || user == "operator" && strings.Contains(text, "MSG.NEXT.CONNECTION_REQUESTS.flow-worker") ||
				user == "worker" && strings.Contains(text, "CONSUMER.LIST.CONNECTION_REQUESTS") || strings.Contains(text, `"$SYS.REQ.USER.INFO"`)
			if !byDoctor {
				p.t.Errorf("%s: %s", user, text)
			}
		}
	}
}

// untried are the operator's rights for looking around.
var untried = strings.Fields(`
	$JS.API.STREAM.MSG.GET.CONNECTION_RESULTS $JS.API.INFO $JS.API.STREAM.NAMES $JS.API.STREAM.LIST $JS.API.CONSUMER.NAMES.*
	connections.deadletters.* $JS.EVENT.ADVISORY.>`)

// checkOperator finds each of the operator's other rights used.
func (p *programs) checkOperator() {
	p.t.Helper()
	uses := p.operator.uses()
	for _, right := range rightsOf(p.t, "operator") {
		used := slices.ContainsFunc(uses, func(u probe) bool { return u.verb == right.verb && covers(right.subject, u.subject) })
		if !used && !slices.Contains(untried, right.subject) {
			p.t.Errorf("the operator never uses %s", right.subject)
		}
	}
}

// get returns what the running worker says at a path of one of its two addresses, "http" and "status".
func (p *programs) get(address, path string) string {
	p.t.Helper()
	log, _ := p.log.look()
	for line := range strings.Lines(log) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) != nil || entry["msg"] != "worker started" {
			continue
		}
		resp, err := http.Get(fmt.Sprint("http://", entry[address], path))
		if err != nil {
			p.t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			p.t.Errorf("%s: %s, %v\n%s", path, resp.Status, err, body)
		}
		return string(body)
	}
	p.t.Fatal("the worker's addresses are not in its log")
	return ""
}

func (p *programs) awaitMetric(line string) {
	p.t.Helper()
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for !strings.Contains(p.get("http", "/metrics"), "\n"+line+"\n") {
		select {
		case <-poll.C:
		case <-p.ctx.Done():
			p.t.Fatalf("no metric %s", line)
		}
	}
}

// loseConsumer deletes the consumer under the worker, which makes it anew and goes on.
func (p *programs) loseConsumer() {
	p.t.Helper()
	_, admin := p.connect("admin")
	if err := admin.DeleteConsumer(p.ctx, consumer.StreamRequests, consumer.ConsumerName); err != nil {
		p.t.Fatal(err)
	}
	p.operate(0, requestData("after"), "submit", "--tenant", "acme", "--id", "after", "--wait", "-")
	info, err := mustStream(p.ctx, p.t, admin, ledgerStream).Info(p.ctx, jetstream.WithSubjectFilter(">"))
	if err != nil || len(info.State.Subjects) != 7 { // six requests and the note
		p.t.Error(fmt.Sprint("the ledger has ", info.State.Subjects, err))
	}
}

// What `worker doctor` says of a connection that does not come about names the cause and no secret.
func TestNATSDoctorSaysWhyThereIsNoConnection(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	binary := buildWorker(ctx, t)
	a, stranger := newAuthority(t), newAuthority(t)
	later, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	_, seedFile, seed := newUser(t)
	public, _, _ := newUser(t)
	secure := asWorker(natsWith(t, a, "127.0.0.1", later, nil, nil), "pw-worker")
	for name, c := range map[string]struct{ says, url, env string }{
		"unknown authority": {"unknown authority", secure, "NATS_CA=" + stranger.ca},
		"wrong host":        {"127.0.0.1", asWorker(natsWith(t, a, "nats.example.com", later, nil, nil), "pw-worker"), "NATS_CA=" + a.ca},
		"expired":           {"expired", asWorker(natsWith(t, a, "127.0.0.1", past, nil, nil), "pw-worker"), "NATS_CA=" + a.ca},
		"no certificate": {"tls", // the server's reason may come too late for a client that tries once
			asWorker(natsWith(t, a, "127.0.0.1", later, mutual, nil), "pw-worker"), "NATS_CA=" + a.ca},
		"wrong password": {"refuses this user", strings.Replace(secure, "pw-worker", "pw-wrong", 1), "NATS_CA=" + a.ca},
		"wrong nkey":     {"refuses this user", natsWith(t, nil, "", later, nil, keyed(public)), "NATS_NKEY=" + seedFile},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(ctx, binary, "doctor")
			cmd.Env = []string{"NATS_URL=" + c.url, c.env, "VAULT_ADDR=http://127.0.0.1:1", "VAULT_TOKEN=t", "FLOW_URL=http://127.0.0.1:1", "IMS_URL=http://127.0.0.1:1"}
			out, _ := cmd.CombinedOutput()
			first, _, _ := strings.Cut(string(out), "\n")
			t.Log(first)
			if cmd.ProcessState.ExitCode() != 1 || !strings.HasPrefix(first, "FAIL  nats ") || !strings.Contains(first, c.says) {
				t.Errorf("code %d, want a first line that says %q:\n%s", cmd.ProcessState.ExitCode(), c.says, out)
			}
			for _, secret := range []string{"pw-worker", "pw-wrong", string(seed)} {
				if strings.Contains(string(out), secret) {
					t.Errorf("it shows %q", secret)
				}
			}
		})
	}
}
