package requester_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
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
