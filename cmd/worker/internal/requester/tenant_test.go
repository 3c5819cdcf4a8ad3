package requester_test

import (
	"context"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/inquiry"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// asDeployed starts a server with the accounts that we deploy, all passwords being "p".
func asDeployed(t *testing.T, change func(string) string) *natstest.Server {
	t.Helper()
	accounts, err := os.ReadFile("../../../../deploy/nats/accounts.conf")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`\$NATS_\w+_PASSWORD`).ReplaceAllString(string(accounts), "p")
	file := filepath.Join(t.TempDir(), "server.conf")
	if err := os.WriteFile(file, []byte(change(text)), 0o600); err != nil {
		t.Fatal(err)
	}
	return natstest.Run(t, natstest.Options{ConfigFile: file})
}

func as(t *testing.T, srv *natstest.Server, user string) jetstream.JetStream {
	t.Helper()
	return natstest.Connect(t, srv.ClientURL(), natstest.As(user, "p"), consumer.OwnInbox())
}

// workerOn is the worker's user on a server, with all objects made.
func workerOn(t *testing.T, srv *natstest.Server) *bench {
	t.Helper()
	b := &bench{t: t, js: as(t, srv, "worker")}
	var err error
	if b.book, err = ledger.Open(within(t), b.js, ledger.Config{Manage: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := consumer.EnsureObjects(within(t), b.js, consumer.ObjectsConfig{Manage: true}); err != nil {
		t.Fatal(err)
	}
	return b
}

// A tenant's user has rights to its own subjects only; an operator's may look at the ledger too.
func TestSubmitAsDeployed(t *testing.T) {
	t.Parallel()
	srv := asDeployed(t, func(s string) string { return s })
	b := workerOn(t, srv)
	for user, news := range map[string]bool{"acme": false, "operator": true} {
		client, err := requester.NewSubmitter(within(t), as(t, srv, user))
		if err != nil {
			t.Fatalf("%s: %v", user, err)
		}
		var s seen
		ms := messages(t, "of-"+user, "A")
		err = client.SubmitAndWait(within(t), "acme", ms, s.progress(func(m requester.Message) {
			other := m
			other.Key.ID = "other-" + user
			b.conclude(other, "c-other")
			b.conclude(m, "c-"+user)
		}))
		if err != nil || s.results["A"].Connection == nil || s.results["A"].Connection.ID != "c-"+user {
			t.Errorf("%s: got %+v, %v", user, s.results, err)
		}
		if len(s.published) != 1 || s.published[0] == 0 || len(s.news) > 0 != news {
			t.Errorf("%s: published %v, news %q", user, s.published, s.news)
		}
		if err := client.SubmitOnly(within(t), messages(t, "", "B"), requester.Progress{}); err != nil {
			t.Errorf("%s without waiting: %v", user, err)
		}
	}
}

// Who may not read results learns so before anything is sent.
func TestWaitWithoutTheRightToResults(t *testing.T) {
	t.Parallel()
	srv := asDeployed(t, func(s string) string {
		return strings.Replace(s, `allow: ["connections.results.acme.*", "_INBOX.>"]`, `allow: ["_INBOX.>"]`, 1)
	})
	workerOn(t, srv)
	client, err := requester.NewSubmitter(within(t), as(t, srv, "acme"))
	if err != nil {
		t.Fatal(err)
	}
	var s seen
	err = client.SubmitAndWait(within(t), "acme", messages(t, "r", "A"), s.progress(nil))
	subject := event.ResultSubject(provision.Result{Tenant: "acme", Outcome: "*"})
	if err == nil || !strings.Contains(err.Error(), subject) || len(s.published) > 0 {
		t.Errorf("got %v, published %v", err, s.published)
	}
}

// withQuestions adds what a tenant needs to ask, and a worker to answer, unless it is there already.
func withQuestions(s string) string {
	if strings.Contains(s, "connections.status.") {
		return s
	}
	for _, edit := range [][2]string{
		{`{ service: "connections.requests.*", account_token_position: 3 }`, `{ service: "connections.status.*", account_token_position: 3 }`},
		{`{ service: { account: FLOW, subject: "connections.requests.acme" } }`, `{ service: { account: FLOW, subject: "connections.status.acme" } }`},
	} {
		s = strings.Replace(s, edit[0], edit[0]+"\n"+edit[1], 1)
	}
	s = strings.Replace(s, `publish { allow: ["connections.requests.acme"`, `publish { allow: ["connections.status.acme", "connections.requests.acme"`, 1)
	return strings.Replace(s, `subscribe { allow: ["_INBOX.worker.>"`, "allow_responses: { max: 1, expires: \"30s\" }\n"+`subscribe { allow: ["connections.status.*", "_INBOX.worker.>"`, 1)
}

// A result that was told while nobody listened is asked for.
func TestWaitAsksForAMissedResult(t *testing.T) {
	t.Parallel()
	srv := asDeployed(t, withQuestions)
	b := workerOn(t, srv)
	ctx, stop := context.WithCancel(within(t))
	ended := make(chan error, 1)
	go func() {
		ended <- inquiry.Run(ctx, inquiry.Config{Conn: as(t, srv, "worker").Conn(), Find: func(ctx context.Context, tenant, source, id string) iter.Seq2[provision.Record, error] {
			return func(yield func(provision.Record, error) bool) {
				for e, err := range b.book.List(ctx, ledger.Filter{Tenant: tenant, Source: source, ID: id}) {
					if !yield(e.Record, err) {
						return
					}
				}
			}
		}})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	client, err := requester.NewSubmitter(within(t), as(t, srv, "acme"))
	if err != nil {
		t.Fatal(err)
	}
	var s seen
	err = client.SubmitAndWait(within(t), "acme", messages(t, "r-1", "A"), s.progress(func(m requester.Message) { b.store(m, "c-1") }))
	if err != nil || s.results["A"].Connection == nil || s.results["A"].Connection.ID != "c-1" || s.results["A"].Outcome != provision.OutcomeCreated {
		t.Errorf("got %+v, %v", s.results, err)
	}
	if got := strings.Join(s.news, "; "); got != "the POST made the connection; created connection c-1" {
		t.Errorf("news: %s", got)
	}
}
