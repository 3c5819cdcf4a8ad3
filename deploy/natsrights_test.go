package deploy

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
)

func TestNATSRights(t *testing.T) {
	b := newBroker(t)
	_, wjs := b.connect("worker")
	b.createObjects(testContext(t), wjs)
	tests := []struct {
		user, verb, subject string
		allowed             bool
	}{
		{"acme", "pub", "connections.requests.acme", true},
		{"acme", "pub", "connections.requests.globex", false},
		{"acme", "pub", "connections.status.acme", true},
		{"acme", "pub", "connections.status.globex", false},
		{"acme", "sub", "connections.status.acme", false},
		{"acme", "pub", "connections.results.acme.created", false},
		{"acme", "pub", "connections.deadletters.acme", false},
		{"acme", "pub", "$KV.connection-ledger.acme.x.y", false},
		{"acme", "pub", "$JS.API.STREAM.INFO.CONNECTION_REQUESTS", false},
		{"acme", "pub", "$JS.API.CONSUMER.MSG.NEXT.CONNECTION_REQUESTS.flow-worker", false},
		{"acme", "pub", "_INBOX.worker.1", false},
		{"acme", "sub", "connections.results.acme.created", true},
		{"acme", "sub", "connections.results.acme.*", true},
		{"acme", "sub", "connections.results.*.*", false},
		{"acme", "sub", "connections.results.globex.*", false},
		{"acme", "sub", "connections.requests.acme", false},
		{"acme", "sub", "connections.deadletters.acme", false},
		{"acme", "sub", ">", false},

		{"worker", "pub", "connections.results.acme.created", true},
		{"worker", "pub", "connections.deadletters._invalid", true},
		{"worker", "pub", "connections.requests.acme", false},
		{"worker", "sub", "connections.status.*", true},
		{"worker", "pub", "connections.status.acme", false},
		{"worker", "pub", "$JS.API.STREAM.DELETE.CONNECTION_REQUESTS", false},
		{"worker", "pub", "$JS.API.STREAM.PURGE.KV_connection-ledger", false},
		{"worker", "pub", "$JS.API.STREAM.MSG.DELETE.CONNECTION_REQUESTS", false},
		{"worker", "pub", "$JS.API.STREAM.INFO.OTHER", false},
		{"worker", "pub", "$JS.API.CONSUMER.DELETE.CONNECTION_REQUESTS.flow-worker", false},
		{"worker", "pub", "$JS.API.CONSUMER.CREATE.CONNECTION_REQUESTS.other", false},
		{"worker", "pub", "$JS.API.CONSUMER.PAUSE.CONNECTION_REQUESTS.flow-worker", false},
		{"worker", "pub", "$JS.API.CONSUMER.RESET.CONNECTION_REQUESTS.other", false},
		{"worker", "pub", "$JS.API.CONSUMER.RESET.KV_connection-ledger.flow-worker", false},
		{"worker", "sub", "connections.requests.*", false},
		{"worker", "sub", "connections.results.*.*", false},

		{"worker", "pub", "$JS.API.STREAM.UPDATE.CONNECTION_RESULTS", false},
		{"worker", "sub", "_INBOX.>", false},
		{"worker", "sub", "_INBOX.operator.x", false},

		{"init", "pub", "$JS.API.STREAM.UPDATE.CONNECTION_RESULTS", true},
		{"init", "pub", "$JS.API.STREAM.DELETE.CONNECTION_RESULTS", false},
		{"init", "pub", "$KV.connection-ledger.acme.x.y", false},
		{"init", "pub", "connections.requests.acme", false},
		{"init", "pub", "$JS.API.CONSUMER.MSG.NEXT.CONNECTION_REQUESTS.flow-worker", false},
		{"init", "sub", "_INBOX.>", false},

		{"operator", "pub", "connections.requests.acme", true},
		{"operator", "pub", "connections.status.acme", false},
		{"operator", "pub", "$JS.API.STREAM.UPDATE.CONNECTION_REQUESTS", false},
		{"operator", "pub", "$JS.API.STREAM.CREATE.CONNECTION_REQUESTS", false},
		{"operator", "pub", "$JS.API.CONSUMER.CREATE.CONNECTION_REQUESTS.flow-worker", false},
		{"operator", "pub", "$JS.API.CONSUMER.MSG.NEXT.CONNECTION_RESULTS.mine", false},
		{"operator", "pub", "$JS.API.DIRECT.GET.CONNECTION_REQUESTS", false},
		{"operator", "pub", "$JS.API.DIRECT.GET.KV_connection-ledger.x", false},
		{"operator", "pub", "$KV.connection-ledger._flow-worker.complete", false},
		{"operator", "sub", "_INBOX.>", false},
		{"operator", "sub", "_INBOX.worker.x", false},
		{"operator", "pub", "$JS.API.CONSUMER.PAUSE.CONNECTION_REQUESTS.flow-worker", true},
		{"operator", "pub", "$JS.API.CONSUMER.MSG.NEXT.CONNECTION_REQUESTS.flow-worker", false},
		{"operator", "pub", "$JS.API.CONSUMER.DELETE.CONNECTION_REQUESTS.flow-worker", false},
		{"operator", "pub", "$JS.ACK.CONNECTION_REQUESTS.flow-worker.1.1.1.1.1", false},
		{"operator", "pub", "$JS.API.STREAM.DELETE.CONNECTION_REQUESTS", false},
		{"operator", "pub", "$JS.API.STREAM.PURGE.CONNECTION_RESULTS", false},
		{"operator", "pub", "connections.results.acme.created", false},
		{"operator", "sub", "connections.results.*.*", true},
	}
	for _, tt := range tests {
		t.Run(tt.user+" "+tt.verb+" "+tt.subject, func(t *testing.T) {
			nc, _ := b.connect(tt.user)
			var err error
			if tt.verb == "sub" {
				_, err = nc.SubscribeSync(tt.subject)
			} else {
				err = nc.Publish(tt.subject, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			if denied := b.denied(nc); denied == tt.allowed {
				t.Errorf("denied = %t (%v), want %t", denied, nc.LastError(), !tt.allowed)
			}
		})
	}
}

// Who may do everything can't delete what flow-worker keeps, but can what is somebody else's.
func TestNATSNobodyDeletes(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	calls := []string{"$JS.API.CONSUMER.DELETE.CONNECTION_REQUESTS.flow-worker"}
	for _, stream := range []string{consumer.StreamRequests, consumer.StreamResults, consumer.StreamDeadLetters, ledgerStream} {
		for _, op := range []string{"DELETE", "PURGE", "MSG.DELETE"} {
			calls = append(calls, "$JS.API.STREAM."+op+"."+stream)
		}
	}
	for _, call := range calls {
		for _, body := range []string{"", `{"seq":1}`} {
			if msg, err := s.admin.Conn().RequestWithContext(s.ctx, call, []byte(body)); !errors.Is(err, nats.ErrNoResponders) {
				t.Errorf("%s %s: answer %+v, error %v; want none", call, body, msg, err)
			}
		}
	}
	if n := s.waits("globex"); n != 1 {
		t.Errorf("globex has %d requests in the queue, want its one", n)
	}
	_, err := s.admin.CreateStream(s.ctx, jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"other"}})
	s.must(err)
	s.must(s.admin.DeleteStream(s.ctx, "OTHER"))
}

// Messages that the consumer lost sight of come back without a person, with the worker's rights.
func TestNATSWorkerMayHaveLostMessagesDelivered(t *testing.T) {
	ctx := testContext(t)
	b := newBroker(t)
	nc, js := b.connect("worker")
	b.createObjects(ctx, js)
	_, tenant := b.connect("acme")
	if _, err := tenant.Publish(ctx, "connections.requests.acme", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := js.ResetConsumerToSequence(ctx, consumer.StreamRequests, consumer.ConsumerName, 2); err != nil { // past the message
		t.Fatal(err)
	}
	b.runConsumer(js)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for mustStream(ctx, t, js, consumer.StreamRequests).CachedInfo().State.Msgs > 0 {
		select {
		case <-poll.C:
		case <-ctx.Done():
			t.Fatalf("the message is never delivered; last refusal: %v", nc.LastError())
		}
	}
}

// A reply subject is not covered by a publish permission, and the stream answers on it. In a tenant's
// own account that answer can't become another tenant's request.
func TestNATSReplyDoesNotReachAnotherTenant(t *testing.T) {
	ctx := testContext(t)
	b := newBroker(t)
	_, wjs := b.connect("worker")
	b.createObjects(ctx, wjs)
	nc, _ := b.connect("acme")
	for _, reply := range []string{"connections.requests.globex", "$KV.connection-ledger.globex.a.b"} {
		if err := nc.PublishRequest("connections.requests.acme", reply, []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
	if b.denied(nc) {
		t.Fatal(nc.LastError())
	}
	if _, err := nc.RequestWithContext(ctx, "connections.requests.acme", []byte(`{}`)); err != nil { // all before it are stored
		t.Fatal(err)
	}
	info, err := mustStream(ctx, t, wjs, "CONNECTION_REQUESTS").Info(ctx, jetstream.WithSubjectFilter("connections.requests.*"))
	if err != nil || info.State.Subjects["connections.requests.acme"] != 3 || len(info.State.Subjects) != 1 {
		t.Errorf("requests %v, error %v; want three of acme and no other", info.State.Subjects, err)
	}
	if info, err := mustStream(ctx, t, wjs, "KV_connection-ledger").Info(ctx); err != nil || info.State.Msgs != 0 {
		t.Errorf("ledger has %d messages, error %v; want none", info.State.Msgs, err)
	}
}

func mustStream(ctx context.Context, t *testing.T, js jetstream.JetStream, name string) jetstream.Stream {
	t.Helper()
	s, err := js.Stream(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The account's name is the tenant, whatever its block says.
func TestNATSTenantBlockCannotTakeAnotherTenantsSubjects(t *testing.T) {
	for _, swap := range []string{"connections.requests.acme", "connections.results.acme.*"} {
		t.Run(swap, func(t *testing.T) {
			dir := t.TempDir()
			copyFile(t, natsConf, filepath.Join(dir, "server.conf"), nil)
			copyFile(t, natsAccount, filepath.Join(dir, "accounts.conf"), func(s string) string {
				return strings.ReplaceAll(s, swap, strings.Replace(swap, "acme", "globex", 1))
			})
			err := checkNATSFile(t, filepath.Join(dir, "server.conf"))
			if err == nil || !strings.Contains(err.Error(), "import not authorized") {
				t.Errorf("reading the file: error %v, want the import refused", err)
			}
		})
	}
}

func copyFile(t *testing.T, from, to string, edit func(string) string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if edit != nil {
		text = edit(text)
		if text == string(b) {
			t.Fatalf("%s: nothing to edit", from)
		}
	}
	if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

var update = flag.Bool("update", false, "rewrite what is observed in docs/rights.md")

const rightsPage = "../docs/rights.md"

// checkPage compares a section of docs/rights.md, between its two marks, with what was observed.
func checkPage(t *testing.T, section, observed string) {
	t.Helper()
	begin, end := "<!-- observed: "+section+" -->\n", "<!-- end: "+section+" -->"
	page := string(read(t, rightsPage))
	head, rest, found := strings.Cut(page, begin)
	was, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no section %s", rightsPage, section)
	}
	if *update {
		if err := os.WriteFile(rightsPage, []byte(head+begin+observed+end+tail), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(was, observed); diff != "" {
		t.Errorf("%s says other than what was observed; if that is as it should be, run this test with -update (-page +observed):\n%s", rightsPage, diff)
	}
}
