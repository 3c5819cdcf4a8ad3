package requester_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/inquiry"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestWaitForAnEvent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var s seen
	ms := messages(t, "r-1", "A")
	err := b.client.SubmitAndWait(within(t), "acme", ms, s.progress(func(m requester.Message) {
		if _, err := b.js.Publish(within(t), "connections.results.acme.created", []byte("no event")); err != nil {
			t.Error(err)
		}
		b.conclude(m, "c-1")
	}))
	if err != nil || s.results["A"].Connection.ID != "c-1" {
		t.Fatalf("got %+v, %v", s.results, err)
	}
	if got := strings.Join(s.news, "; "); got != "the POST made the connection; created connection c-1" {
		t.Errorf("news: %s", got)
	}
}

// The stream of results drops an event that it knows already; then the ledger has the outcome.
func TestWaitForARepeat(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ms := messages(t, "r-1", "A")
	b.store(ms[0], "c-1")
	var s seen
	if err := b.client.SubmitAndWait(within(t), "acme", ms, s.progress(nil)); err != nil || s.results["A"].Connection.ID != "c-1" {
		t.Fatalf("got %+v, %v", s.results, err)
	}
	if len(s.published) != 1 {
		t.Errorf("published %d times, want once all the same", len(s.published))
	}
}

// Another message has our identity: neither its result nor its record is ours.
func TestWaitIsNotFooledByAnotherMessage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	other, ours := messages(t, "r-1", "Other")[0], messages(t, "r-1", "Ours")
	recorded := b.store(other, "c-other")
	var s seen
	err := b.client.SubmitAndWait(within(t), "acme", ours, s.progress(func(m requester.Message) {
		b.publish(recorded)
		b.publish(provision.Result{
			EventID: "of-this-message", Outcome: provision.OutcomeFailed, Tenant: "acme", RequestedAt: time.Now(), StartedAt: time.Now(),
			CompletedAt: time.Now(), Request: recorded.Request, Error: provision.Fail(provision.ReasonIDReused, "used"),
		})
	}))
	if err != nil || s.results["Ours"].Error == nil || s.results["Ours"].EventID != "of-this-message" {
		t.Fatalf("got %+v, %v", s.results, err)
	}
	if len(s.news) > 0 {
		t.Errorf("news of another message: %q", s.news)
	}
}

// The same as before, once more: the stream drops the event, but the message is gone.
func TestWaitLearnsOfAReusedIDWithoutAnEvent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.store(messages(t, "r-1", "Other")[0], "c-other")
	stream, err := b.js.Stream(within(t), requester.RequestStream)
	if err != nil {
		t.Fatal(err)
	}
	var s seen
	progress := s.progress(nil)
	progress.Published = func(_ requester.Message, seq uint64) {
		if err := stream.DeleteMsg(within(t), seq); err != nil {
			t.Error(err)
		}
	}
	err = b.client.SubmitAndWait(within(t), "acme", messages(t, "r-1", "Ours"), progress)
	if f := s.results["Ours"].Error; err != nil || f == nil || f.Reason != provision.ReasonIDReused {
		t.Fatalf("got %+v, %v", s.results, err)
	}
}

func TestWaitForMany(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var names []string
	for i := range 100 { // more than are under way at a time
		names = append(names, fmt.Sprint("N", i))
	}
	var s seen
	err := b.client.SubmitAndWait(within(t), "acme", messages(t, "", names...), s.progress(func(m requester.Message) { b.conclude(m, "c-"+m.Name) }))
	if err != nil || len(s.results) != len(names) {
		t.Fatalf("%d of %d results, %v", len(s.results), len(names), err)
	}
	for n, r := range s.results {
		if r.Connection.ID != "c-"+n {
			t.Errorf("%s got the result of %s", n, r.Connection.ID)
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	var s seen
	err := b.client.SubmitAndWait(ctx, "acme", messages(t, "", "A", "B"), s.progress(func(requester.Message) { cancel(enough) }))
	if !errors.Is(err, enough) || len(s.results) != 0 {
		t.Errorf("got %v and %d results", err, len(s.results))
	}
}

func TestFindAndList(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := messages(t, "r-1", "A")[0]
	second := first
	second.Key.Source = "/elsewhere"
	b.store(first, "c-1")
	filter := func(f ledger.Filter) requester.Filter { return requester.Filter{Filter: f} }
	if recs, err := b.client.Find(within(t), filter(ledger.Filter{ID: "r-1"})); err != nil || len(recs) != 1 {
		t.Errorf("one: %d, %v", len(recs), err)
	}
	b.store(second, "c-2")
	if recs, err := b.client.Find(within(t), filter(ledger.Filter{ID: "r-1"})); !errors.Is(err, requester.ErrAmbiguous) || len(recs) != 2 {
		t.Errorf("two: %d, %v", len(recs), err)
	}
	if recs, err := b.client.Find(within(t), filter(ledger.Filter{ID: "r-1", Source: "/elsewhere"})); err != nil || recs[0].Key != second.Key {
		t.Errorf("one of two: %d, %v", len(recs), err)
	}
	if _, err := b.client.Find(within(t), filter(ledger.Filter{ID: "r-2"})); !errors.Is(err, requester.ErrUnknown) {
		t.Errorf("none: %v", err)
	}
	if recs, err := b.client.List(within(t), requester.Filter{OlderThan: time.Hour}); err != nil || len(recs) != 0 {
		t.Errorf("old ones: %d, %v", len(recs), err)
	}
	if recs, err := b.client.List(within(t), requester.Filter{NewerThan: time.Hour}); err != nil || len(recs) != 2 {
		t.Errorf("young ones: %d, %v", len(recs), err)
	}
}

func TestUnreadableRecordsDontHideTheOthers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.store(messages(t, "r-1", "A")[0], "c-1")
	kv, err := b.js.KeyValue(within(t), ledger.DefaultBucket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(within(t), "acme.x.y", []byte("{")); err != nil {
		t.Fatal(err)
	}
	recs, err := b.client.List(within(t), requester.Filter{})
	if len(recs) != 1 || err == nil {
		t.Errorf("got %d records, %v; want one, and a word on the other", len(recs), err)
	}
}

func TestNATSWithoutOurObjects(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL())
	if _, err := requester.New(within(t), js); err == nil || !strings.Contains(err.Error(), `run "worker init"`) {
		t.Errorf("no objects: %v", err)
	}
	plain, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	plain.Start()
	t.Cleanup(plain.Shutdown)
	if !plain.ReadyForConnections(time.Minute) {
		t.Fatal("not ready")
	}
	js = natstest.Connect(t, plain.ClientURL())
	if _, err := requester.New(within(t), js); err == nil || !strings.Contains(err.Error(), "JetStream is not enabled") {
		t.Errorf("no JetStream: %v", err)
	}
}

func TestPublishWithoutAStream(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := b.js.DeleteStream(within(t), requester.RequestStream); err != nil {
		t.Fatal(err)
	}
	err := b.client.SubmitOnly(within(t), messages(t, "", "A"), requester.Progress{})
	if err == nil || !strings.Contains(err.Error(), "0 of 1 requests are published") || !strings.Contains(err.Error(), "worker init") {
		t.Errorf("got %v", err)
	}
}

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
