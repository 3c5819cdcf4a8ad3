package requester_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

// bench is a broker with the worker's objects, but no worker: the test plays that part.
type bench struct {
	t      *testing.T
	js     jetstream.JetStream
	book   *ledger.Ledger
	client *requester.Client
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ctx := within(t)
	b := &bench{t: t, js: natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL())}
	var err error
	if b.book, err = ledger.Open(ctx, b.js, ledger.Config{Manage: true}); err != nil {
		t.Fatal(err)
	}
	for _, conf := range []jetstream.StreamConfig{
		{Name: requester.RequestStream, Subjects: []string{"connections.requests.*"}, Retention: jetstream.WorkQueuePolicy},
		{Name: requester.ResultStream, Subjects: []string{"connections.results.*.*"}},
		{Name: requester.DeadLetterStream, Subjects: []string{"connections.deadletters.*"}},
	} {
		if _, err := b.js.CreateStream(ctx, conf); err != nil {
			t.Fatal(err)
		}
	}
	if b.client, err = requester.New(ctx, b.js); err != nil {
		t.Fatal(err)
	}
	return b
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// messages makes requests of one name each.
func messages(t *testing.T, id string, names ...string) []requester.Message {
	t.Helper()
	var all []requester.Message
	for _, n := range names {
		o := options()
		o.ID = id
		ms, err := requester.Parse(strings.NewReader(strings.Replace(data, `"N"`, `"`+n+`"`, 1)), o)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ms...)
	}
	return all
}

// conclude does what a worker does last: it writes the outcome to the ledger and publishes the event.
func (b *bench) conclude(m requester.Message, connection string) {
	b.t.Helper()
	b.publish(b.store(m, connection))
}

// store writes m's outcome to the ledger.
func (b *bench) store(m requester.Message, connection string) provision.Result {
	b.t.Helper()
	ctx := within(b.t)
	r := provision.Result{
		EventID: m.Key.EventID(0, provision.OutcomeCreated), Outcome: provision.OutcomeCreated, Tenant: m.Key.Tenant,
		Request:    provision.RequestID{ID: m.Key.ID, Source: m.Key.Source},
		Connection: &provision.Connection{ID: connection}, RequestedAt: time.Now(), StartedAt: time.Now(), CompletedAt: time.Now(),
	}
	rec := provision.Record{
		Key: m.Key, State: provision.StateCreated, Fingerprint: m.Fingerprint, Nonce: requester.NewID(), RequestedAt: time.Now(),
		Attempts: []provision.Attempt{{Step: "post", Result: "created", At: time.Now()}},
		Final:    &provision.FinalResult{EventID: r.EventID, Outcome: r.Outcome, Result: r},
	}
	if _, err := b.book.Store(ctx, m.Key, rec, 0); err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) publish(r provision.Result) {
	b.t.Helper()
	body, err := event.EncodeResult(r)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.js.Publish(within(b.t), event.ResultSubject(r), body); err != nil {
		b.t.Fatal(err)
	}
}

// seen collects what SubmitAndWait tells.
type seen struct {
	mu        sync.Mutex
	published []uint64
	news      []string
	results   map[string]provision.Result // :: connection's name → its result
}

func (s *seen) progress(published func(requester.Message)) requester.Progress {
	return requester.Progress{
		Published: func(m requester.Message, seq uint64) {
			s.mu.Lock()
			s.published = append(s.published, seq)
			s.mu.Unlock()
			if published != nil {
				published(m)
			}
		},
		News: func(_ requester.Message, l story.Line) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.news = append(s.news, l.Text)
		},
		Result: func(m requester.Message, r provision.Result) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.results == nil {
				s.results = map[string]provision.Result{}
			}
			s.results[m.Name] = r
		},
	}
}

// thief stands between a requester and the stream. It knows the ids of messages before the stream does,
// and uses the first few itself, so that the broker takes the requester's for repeats.
type thief struct {
	js     jetstream.JetStream
	steals int      // this many more
	ids    []string // that came by; only the subscription's goroutine adds to it
}

// pass passes msg on, and the broker's own answer back.
func (f *thief) pass(t *testing.T, msg *nats.Msg) {
	f.ids = append(f.ids, msg.Header.Get(nats.MsgIdHdr))
	subjects := []string{"stored.acme"}
	if f.steals > 0 {
		f.steals--
		subjects = []string{"stored.globex", "stored.acme"}
	}
	var answer *nats.Msg
	for _, subject := range subjects {
		var err error
		answer, err = f.js.Conn().RequestMsgWithContext(within(t), &nats.Msg{Subject: subject, Header: msg.Header, Data: msg.Data})
		if err != nil {
			t.Error(err)
			return
		}
	}
	if err := msg.Respond(answer.Data); err != nil {
		t.Error(err)
	}
}

// robbed is a client whose messages pass a thief, and the stream behind it.
func robbed(t *testing.T, steals int) (*requester.Client, *thief, jetstream.Stream) {
	t.Helper()
	url := natstest.Run(t, natstest.Options{}).ClientURL()
	js := natstest.Connect(t, url)
	if _, err := ledger.Open(within(t), js, ledger.Config{Manage: true}); err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(within(t), jetstream.StreamConfig{Name: requester.RequestStream, Subjects: []string{"stored.*"}})
	if err != nil {
		t.Fatal(err)
	}
	f := &thief{js: natstest.Connect(t, url), steals: steals}
	if _, err := js.Conn().Subscribe("connections.requests.*", func(msg *nats.Msg) { f.pass(t, msg) }); err != nil {
		t.Fatal(err)
	}
	if err := js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	client, err := requester.New(within(t), natstest.Connect(t, url))
	if err != nil {
		t.Fatal(err)
	}
	return client, f, stream
}

func (f *thief) checkNewIDs(t *testing.T, tries int) {
	t.Helper()
	different := map[string]bool{}
	for _, id := range f.ids {
		different[id] = id != ""
	}
	if len(f.ids) != tries || len(different) != tries {
		t.Errorf("sent with the ids %q, want %d different ones", f.ids, tries)
	}
}

// What the broker takes for a repeat is no success: it is sent again, under another id.
func TestPublishSwallowedIsSentAgain(t *testing.T) {
	t.Parallel()
	for steals := range 3 {
		client, f, stream := robbed(t, steals)
		seq, err := client.Publish(within(t), messages(t, "r", "A")[0])
		if err != nil {
			t.Fatalf("%d stolen: %v", steals, err)
		}
		f.checkNewIDs(t, steals+1)
		msg, err := stream.GetMsg(within(t), seq)
		if err != nil || msg.Subject != "stored.acme" {
			t.Errorf("%d stolen: the sequence %d is that of %+v, %v; want the request's own", steals, seq, msg, err)
		}
	}
}

// One that is swallowed every time is an error, and not sent for ever.
func TestPublishSwallowedForEverFails(t *testing.T) {
	t.Parallel()
	client, f, stream := robbed(t, 1000)
	seq, err := client.Publish(within(t), messages(t, "r", "A")[0])
	if !errors.Is(err, requester.ErrSwallowed) || seq != 0 {
		t.Errorf("got %d, %v; want ErrSwallowed", seq, err)
	}
	f.checkNewIDs(t, 3)
	info, err := stream.Info(within(t), jetstream.WithSubjectFilter("stored.acme"))
	if err != nil || len(info.State.Subjects) != 0 {
		t.Errorf("stored: %v, %v; want nothing of acme's", info.State.Subjects, err)
	}
	client, _, _ = robbed(t, 1000)
	var s seen
	err = client.SubmitOnly(within(t), messages(t, "r", "A"), s.progress(nil))
	if !errors.Is(err, requester.ErrSwallowed) || len(s.published) > 0 {
		t.Errorf("submit: %v, published %v; want ErrSwallowed", err, s.published)
	}
}
