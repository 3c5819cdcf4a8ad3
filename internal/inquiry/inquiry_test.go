package inquiry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// shelf holds records, and doesn't look at the tenant: that is for Run to insist on.
type shelf []provision.Record

func (s shelf) find(_ context.Context, _, source, id string) iter.Seq2[provision.Record, error] {
	return func(yield func(provision.Record, error) bool) {
		for _, r := range s {
			if r.Key.ID == id && (source == "" || r.Key.Source == source) && !yield(r, nil) {
				return
			}
		}
	}
}

func record(tenant, source, id string) provision.Record {
	return provision.Record{
		Key: provision.Key{Tenant: tenant, Source: source, ID: id}, State: provision.StateWaiting, Owner: "host-1", EndedBy: "host-1", Nonce: "n",
		Secrets: map[string]int{"adobe": 3}, Attempts: []provision.Attempt{{Step: "post", Result: "throttled", Owner: "host-1"}},
	}
}

// answering starts a worker's side, and returns a connection to ask on.
func answering(t *testing.T, find func(context.Context, string, string, string) iter.Seq2[provision.Record, error]) *nats.Conn {
	t.Helper()
	url := natstest.Run(t, natstest.Options{}).ClientURL()
	worker, asker := natstest.Connect(t, url).Conn(), natstest.Connect(t, url).Conn()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Config{Conn: worker, Find: find}) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for { // until it listens
		if _, err := Ask(within(t), asker, "probe", Question{ID: "x"}); !errors.Is(err, ErrNobody) {
			return asker
		}
	}
}

func TestAskAndAnswer(t *testing.T) {
	t.Parallel()
	books := shelf{record("acme", "/a", "r-1"), record("acme", "/b", "r-1"), record("globex", "/a", "r-1"), record("globex", "/a", "r-2")}
	nc := answering(t, books.find)
	want := record("acme", "/b", "r-1")
	want.Owner, want.EndedBy, want.Nonce, want.Secrets, want.Attempts[0].Owner = "", "", "", nil, ""
	got, err := Ask(within(t), nc, "acme", Question{ID: "r-1", Source: "/b"})
	if diff := cmp.Diff([]provision.Record{want}, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if books[1].Attempts[0].Owner == "" {
		t.Error("the record itself was changed")
	}
	for id, n := range map[string]int{"r-1": 2, "r-2": 0, "none": 0} {
		if got, err := Ask(within(t), nc, "acme", Question{ID: id}); err != nil || len(got) != n {
			t.Errorf("%s: %d records, %v; want %d, none of another tenant's", id, len(got), err, n)
		}
	}
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	var books shelf
	for i := range 2 * maxRecords {
		books = append(books, record("acme", fmt.Sprint("/", i), "r-1"))
	}
	d := newDesk(Config{Find: books.find})
	if a := d.find(within(t), "acme", []byte(`{"id":"r-1"}`)); len(a.Records) != maxRecords || !a.More {
		t.Errorf("%d records, more %v", len(a.Records), a.More)
	}
	p := newPace(func() time.Time { return time.Unix(1, 0) })
	for i := range perSecond + 1 {
		if got := p.count("acme"); got != i+1 {
			t.Errorf("question %d: %v", i+1, got)
		}
	}
	if n := p.count("globex"); n != 1 {
		t.Errorf("another tenant's first question is its %d.", n)
	}
	if p.now = func() time.Time { return time.Unix(2, 0) }; p.count("acme") != 1 {
		t.Error("the next second")
	}
}

func TestBadQuestions(t *testing.T) {
	t.Parallel()
	nc := answering(t, shelf{record("acme", "/a", "r-1")}.find)
	for body, says := range map[string]string{
		"": "want a question", "[]": "want a question", `{"id":1}`: "want a question", `{}`: "want an id",
		`{"id":"` + strings.Repeat("x", 257) + `"}`: "want an id", strings.Repeat(" ", maxQuestion+1): "want a question",
	} {
		msg, err := nc.RequestWithContext(within(t), Subject("acme"), []byte(body))
		var a Answer
		if err == nil {
			err = json.Unmarshal(msg.Data, &a)
		}
		if err != nil || !strings.Contains(a.Error, says) || len(a.Records) > 0 {
			t.Errorf("%.40q: %+v, %v", body, a, err)
		}
	}
	// What can't be answered is not, and does no harm.
	stray, err := nc.SubscribeSync("connections.results.globex.created")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(nc.PublishRequest(Subject("acme"), stray.Subject, []byte(`{"id":"r-1"}`)), nc.Publish(Subject("acme"), []byte(`{"id":"r-1"}`)), nc.PublishRequest(Subject("NoTenant"), nc.NewRespInbox(), []byte(`{"id":"r-1"}`))); err != nil {
		t.Fatal(err)
	}
	if got, err := Ask(within(t), nc, "acme", Question{ID: "r-1"}); err != nil || len(got) != 1 {
		t.Errorf("afterwards: %v, %v", got, err)
	}
	if n, _, err := stray.Pending(); err != nil || n > 0 {
		t.Errorf("%d answers went where the worker may publish and the asker not (%v)", n, err)
	}
}

func TestLedgerTroubleIsTold(t *testing.T) {
	t.Parallel()
	nc := answering(t, func(context.Context, string, string, string) iter.Seq2[provision.Record, error] {
		return func(yield func(provision.Record, error) bool) {
			yield(provision.Record{}, errors.New("host-1: no leader"))
		}
	})
	_, err := Ask(within(t), nc, "acme", Question{ID: "r-1"})
	if err == nil || !strings.Contains(err.Error(), "ask again") || strings.Contains(err.Error(), "host-1") {
		t.Errorf("%v", err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL()).Conn()
	if _, err := Ask(within(t), nc, "acme", Question{ID: "r-1"}); !errors.Is(err, ErrNobody) {
		t.Errorf("%v", err)
	}
	nc.Close()
	if _, err := Ask(within(t), nc, "acme", Question{ID: "r-1"}); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("on a closed connection: %v", err)
	}
	if err := Run(within(t), Config{Conn: nc}); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("Run on a closed connection: %v", err)
	}
}
