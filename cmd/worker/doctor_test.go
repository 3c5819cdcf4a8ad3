package main

import (
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/doctor"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// examined runs the doctor and returns its findings.
func (w *testWorld) examined(args ...string) (int, []doctor.Finding) {
	w.t.Helper()
	r := w.worker("", append([]string{"doctor", "--json"}, args...)...)
	var all []doctor.Finding
	for line := range strings.Lines(r.stdout) {
		var f doctor.Finding
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			w.t.Fatalf("%v in %q", err, line)
		}
		all = append(all, f)
	}
	if len(all) == 0 {
		w.t.Fatalf("nothing found: exit %d: %s", r.code, r.stderr)
	}
	return r.code, all
}

// told reports whether a finding of that check and status says all of texts.
func told(all []doctor.Finding, check string, status doctor.Status, texts ...string) bool {
	return slices.ContainsFunc(all, func(f doctor.Finding) bool {
		ok := f.Check == check && f.Status == status
		for _, text := range texts {
			ok = ok && strings.Contains(f.What+" → "+f.Remedy, text)
		}
		return ok
	})
}

func TestDoctorOfAHealthyWorld(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.start()
	w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "-")
	posts, before := w.flow.Count(flowtest.OpCreate), w.messages()
	for before[0] > 0 && t.Context().Err() == nil { // the acknowledgement comes after the result
		before = w.messages()
	}
	r := w.worker("", "doctor", "--tenant", "acme", "--sandbox", "prod")
	if r.code != exitOK || strings.Contains(r.stdout, "FAIL") || strings.Contains(r.stdout, "warn") {
		t.Errorf("exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	for _, want := range []string{"ok    nats ", "CONNECTION_REQUESTS is as it must be", "this user may take requests, publish results", "none stuck",
		"unsealed", "the token never ends", "well-formed (OAuth server-to-server)", "gives a token for acme", "can be listed by acme",
		"this login may read what is below secret/flow/tenants/acme/", "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b is there: databricks, version 1.0",
		"that of NATS agree", "that of the Flow Service agree"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in:\n%s", want, r.stdout)
		}
	}
	if code, all := w.examined(); code != exitOK || !told(all, "tenants", doctor.OK, "acme") || !told(all, "ims", doctor.OK, "reachable") {
		t.Errorf("all tenants: exit %d: %+v", code, all)
	}
	if after := w.messages(); w.flow.Count(flowtest.OpCreate) != posts || !slices.Equal(before, after) {
		t.Errorf("something was changed: messages %v before, %v after", before, after)
	}
}

// messages returns how many messages the streams hold, and how many they ever held.
func (w *testWorld) messages() (counts []uint64) {
	w.t.Helper()
	js := w.jetStream()
	for _, name := range []string{consumer.StreamRequests, consumer.StreamResults, consumer.StreamDeadLetters, "KV_connection-ledger"} {
		s, err := js.Stream(w.t.Context(), name)
		if err != nil {
			w.t.Fatal(err)
		}
		counts = append(counts, s.CachedInfo().State.Msgs, s.CachedInfo().State.LastSeq)
	}
	return counts
}

func TestDoctorOfASickWorld(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	if code, all := w.examined(); code != exitFailed || !told(all, "nats objects", doctor.Fail, "worker init") || told(all, "intake", doctor.OK) {
		t.Errorf("without objects: exit %d: %+v", code, all)
	}
	w.worker("", "init")
	w.worker("", "pause")
	js := w.jetStream()
	w.store(js, "stuck", provision.StateUnknown, 7)
	w.flow.AddFault(flowtest.Fault{Operation: flowtest.OpToken, Effect: flowtest.EffectStatus, Status: 401})
	w.vault.Put("flow/tenants/globex/adobe", map[string]any{"orgId": "x", "clientId": "id", "clientSecret": clientSecret})
	code, all := w.examined("--tenant", "acme", "--sandbox", "prod")
	if code != exitFailed || !told(all, "intake", doctor.Warn, "PAUSED", "worker resume") || !told(all, "intake", doctor.Warn, "no worker asks") ||
		!told(all, "ledger", doctor.Fail, "are stuck: 1", "worker list --stuck") || !told(all, "ims", doctor.Fail) {
		t.Errorf("exit %d: %+v", code, all)
	}
	if code, all := w.examined("--tenant", "globex"); code != exitFailed || !told(all, "tenant globex", doctor.Fail, "orgId") {
		t.Errorf("a malformed secret: exit %d: %+v", code, all)
	}
	if code, all := w.examined("--tenant", "initech"); code != exitFailed || !told(all, "tenant initech", doctor.Fail, "vault kv put") {
		t.Errorf("an unknown tenant: exit %d: %+v", code, all)
	}
	w.checkSickUpstream()
	w.checkSickQueue(js)
}

// Who has no Vault login, such as an operator, learns about all else.
func TestDoctorWithoutVault(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.worker("", "init")
	w.environ = slices.DeleteFunc(w.environ, func(kv string) bool { return strings.HasPrefix(kv, "VAULT_TOKEN=") })
	code, all := w.examined("--tenant", "acme")
	if code != exitFailed || !told(all, "vault", doctor.Fail, "not looked at: VAULT_TOKEN is not set", "kubectl exec deploy/flow-worker") {
		t.Errorf("exit %d: %+v", code, all)
	}
	for _, check := range []string{"nats", "nats objects", "queue", "ledger", "flow service", "ims"} {
		if !told(all, check, doctor.OK) {
			t.Errorf("%s was not looked at: %+v", check, all)
		}
	}
	if code, all := w.examined("--vault-auth", "jwt"); code != exitFailed || !told(all, "vault", doctor.Fail, "VAULT_ROLE is not set", "VAULT_JWT_FILE is not set") {
		t.Errorf("another login: exit %d: %+v", code, all)
	}
	for _, wrong := range [][]string{{"--nats-cert", "doctor_test.go"}, {"--vault-kv-mount", "a b"}, {"--tenant", "A"}} {
		if r := w.worker("", append([]string{"doctor"}, wrong...)...); r.code != exitUsage || r.stdout != "" {
			t.Errorf("%q: exit %d:\n%s%s", wrong, r.code, r.stdout, r.stderr)
		}
	}
}

func (w *testWorld) checkSickUpstream() {
	t := w.t
	t.Helper()
	if code, all := w.examined("--vault-token", "wrong"); code != exitFailed || !told(all, "vault login", doctor.Fail, "VAULT_AUTH=token") {
		t.Errorf("a wrong token: exit %d: %+v", code, all)
	}
	if code, all := w.examined("--vault-addr", "http://127.0.0.1:1"); code != exitFailed || !told(all, "vault", doctor.Fail, "VAULT_ADDR") {
		t.Errorf("no Vault: exit %d: %+v", code, all)
	}
	if code, all := w.examined("--flow-url", "http://127.0.0.1:1"); code != exitFailed || !told(all, "flow service", doctor.Fail, "FLOW_URL") {
		t.Errorf("no Flow Service: exit %d: %+v", code, all)
	}
	if code, all := w.examined("--ims-url", "http://127.0.0.1:1"); code != exitFailed || !told(all, "ims", doctor.Fail, "IMS_URL") {
		t.Errorf("no token service: exit %d: %+v", code, all)
	}
	code, all := w.examined("--nats-url", "nats://127.0.0.1:1")
	if code != exitFailed || !told(all, "nats", doctor.Fail, "NATS_URL") || !told(all, "vault", doctor.OK) || !told(all, "tenants", doctor.Warn, "not looked at", "--tenant") {
		t.Errorf("no NATS: exit %d: %+v", code, all)
	}
}

// checkSickQueue has the broker give a message up.
func (w *testWorld) checkSickQueue(js jetstream.JetStream) {
	t := w.t
	t.Helper()
	ctx := t.Context()
	w.worker("", "resume")
	w.worker(request("A", goodToken), "submit", "--tenant", "acme", "-")
	from, err := js.Consumer(ctx, consumer.StreamRequests, consumer.ConsumerName)
	if err != nil {
		t.Fatal(err)
	}
	cfg := from.CachedInfo().Config
	cfg.MaxDeliver = 1
	if _, err := js.UpdateConsumer(ctx, consumer.StreamRequests, cfg); err != nil {
		t.Fatal(err)
	}
	if code, all := w.examined(); code != exitFailed || !told(all, "nats objects", doctor.Fail, "max deliver") {
		t.Errorf("a consumer with a limit: exit %d: %+v", code, all)
	}
	msg, err := from.Next()
	if err == nil {
		err = msg.Nak()
	}
	for pending := 1; err == nil && pending > 0; {
		if _, err = from.FetchNoWait(1); err != nil { // the broker looks at limits when it is asked for messages
			break
		}
		var info *jetstream.ConsumerInfo
		if info, err = from.Info(ctx); err == nil {
			pending = info.NumAckPending
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	w.worker("", "init") // mends the limit, but not what it has done
	if code, all := w.examined(); code != exitFailed || !told(all, "queue", doctor.Fail, "delivered again: 1", "nats consumer rm") {
		t.Errorf("an orphan: exit %d: %+v", code, all)
	}
}

// A session on a broken set-up: each thing that is wrong is named with its remedy, and what follows from
// it, or can't be looked at because of it, is not blamed.
func TestDoctorNamesTheRemedy(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.worker("", "init")
	limited := w.vault.NewToken(vaulttest.Role{TTL: time.Hour})
	as := []string{"--tenant", "acme", "--sandbox", "prod", "--vault-token", limited}

	w.vault.Deny("secret/data/flow/tenants/*")
	if code, all := w.examined(as...); code != exitFailed || !told(all, "tenant acme", doctor.Fail, "read secret/data/flow/tenants/acme/*", "deploy/vault/policy.hcl") {
		t.Errorf("a policy without the tenants: exit %d: %+v", code, all)
	}
	w.vault.Permit()
	w.vault.Deny("secret/data/flow/tenants/acme/flow-worker-doctor*")
	if code, all := w.examined(as...); code != exitFailed || !told(all, "vault rights", doctor.Fail, "but not its others", "policy.hcl") || !told(all, "ims", doctor.OK) {
		t.Errorf("a policy with the adobe secret only: exit %d: %+v", code, all)
	}
	w.vault.Permit()
	if code, all := w.examined(append(as, "--vault-tenant-prefix", "wrong")...); code != exitFailed || !told(all, "tenant acme", doctor.Fail, "secret/wrong/acme/adobe") {
		t.Errorf("a wrong prefix: exit %d: %+v", code, all)
	}
	w.checkStoppedFlowService(as)
	if err := w.jetStream().DeleteStream(t.Context(), consumer.StreamDeadLetters); err != nil {
		t.Fatal(err)
	}
	if code, all := w.examined(as...); code != exitFailed || !told(all, "nats objects", doctor.Fail, consumer.StreamDeadLetters, "worker init") || !told(all, "sandbox prod", doctor.OK) {
		t.Errorf("a missing stream: exit %d: %+v", code, all)
	}
}

// checkStoppedFlowService looks at a Flow Service that has lost its connector, refuses, and is away.
func (w *testWorld) checkStoppedFlowService(as []string) {
	t := w.t
	t.Helper()
	w.flow.SetFaults(flowtest.Fault{Operation: flowtest.OpSpecs, Effect: flowtest.EffectStatus, Status: 404})
	if code, all := w.examined(as...); code != exitFailed || !told(all, "connection spec", doctor.Fail, "any more", "connectionSpec.id") || !told(all, "sandbox prod", doctor.OK) {
		t.Errorf("no connector: exit %d: %+v", code, all)
	}
	w.flow.SetFaults(flowtest.Fault{Operation: flowtest.OpList, Effect: flowtest.EffectStatus, Status: 403}, flowtest.Fault{Operation: flowtest.OpSpecs, Effect: flowtest.EffectStatus, Status: 403})
	if code, all := w.examined(as...); code != exitFailed || !told(all, "sandbox prod", doctor.Fail, "product profile") || !told(all, "connection spec", doctor.Fail, "product profile") {
		t.Errorf("no rights: exit %d: %+v", code, all)
	}
	w.flow.SetFaults()
	away := append([]string{"--flow-url", "http://127.0.0.1:1"}, as...)
	if code, all := w.examined(away...); code != exitFailed || !told(all, "flow service", doctor.Fail, "refused", "FLOW_URL") || !told(all, "vault", doctor.OK) ||
		told(all, "sandbox prod", doctor.Fail) || told(all, "connection spec", doctor.Fail) {
		t.Errorf("stopped: exit %d: %+v", code, all)
	}
	plain := strings.Replace(w.natsURL, "nats://", "tls://", 1)
	if code, all := w.examined(append([]string{"--nats-url", plain}, as...)...); code != exitFailed || !told(all, "nats", doctor.Fail, "speaks no TLS at this port: correct NATS_URL") {
		t.Errorf("TLS to a NATS without: exit %d: %+v", code, all)
	}
	secure := strings.Replace(w.setting("VAULT_ADDR"), "http://", "https://", 1)
	if code, all := w.examined(append([]string{"--vault-addr", secure}, as...)...); code != exitFailed || !told(all, "vault", doctor.Fail, "speaks no TLS at this port: correct VAULT_ADDR") {
		t.Errorf("TLS to a Vault without: exit %d: %+v", code, all)
	}
}

// setting returns one of the world's settings.
func (w *testWorld) setting(name string) string {
	w.t.Helper()
	for _, kv := range w.environ {
		if key, value, _ := strings.Cut(kv, "="); key == name {
			return value
		}
	}
	w.t.Fatalf("no %s", name)
	return ""
}

// A server that takes the connection and then says nothing, as a frozen one does.
func TestFrozenNATSHasARemedy(t *testing.T) {
	t.Parallel()
	frozen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = frozen.Close() })
	set := settings.Settings{NATSURL: "nats://me:hidden@" + frozen.Addr().String()}
	_, err = nats.Connect(set.NATSURL, nats.Timeout(50*time.Millisecond))
	if err == nil {
		t.Fatal("it is not frozen")
	}
	got := unreachable(set, err)
	for _, want := range []string{"does not answer", "i/o timeout", "NATS_URL", "whether the server hangs"} {
		if !strings.Contains(got.Error(), want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if strings.Contains(got.Error(), "hidden") || !errors.Is(got, err) {
		t.Errorf("got %q", got)
	}
	if other := unreachable(set, errors.New("odd")); strings.Contains(other.Error(), "does not answer") {
		t.Errorf("another error: %q", other)
	}
}
