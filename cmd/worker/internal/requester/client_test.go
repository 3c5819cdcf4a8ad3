package requester_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

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
