package inquiry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
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
	d := newServer(Config{Find: books.find})
	if a := d.find(within(t), "acme", []byte(`{"id":"r-1"}`)); len(a.Records) != maxRecords || !a.More {
		t.Errorf("%d records, more %v", len(a.Records), a.More)
	}
	p := newRate(func() time.Time { return time.Unix(1, 0) })
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

// newTestServer returns a server at a time that stands still, what it logs, and somebody to ask.
func newTestServer(t *testing.T) (*server, *bytes.Buffer, *nats.Conn) {
	t.Helper()
	url := natstest.Run(t, natstest.Options{}).ClientURL()
	var log bytes.Buffer
	d := newServer(Config{
		Conn: natstest.Connect(t, url).Conn(), Find: shelf{record("acme", "/a", "r-1")}.find,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	d.now = func() time.Time { return time.Unix(1, 0) }
	d.rate.now, d.log.now = d.now, d.now
	return d, &log, natstest.Connect(t, url).Conn()
}

func asked(tenant string, size int) *nats.Msg {
	return &nats.Msg{Subject: Subject(tenant), Reply: "_INBOX.a", Data: bytes.Repeat([]byte(" "), size)}
}

// What one tenant sends too much of is not kept, and leaves room for others.
func TestTooManyAreDropped(t *testing.T) {
	t.Parallel()
	d, log, _ := newTestServer(t)
	for range 3 * perSecond {
		d.take(asked("acme", 10))
	}
	d.take(asked("globex", 10))
	if n := len(d.queue.waiting["acme"]); n != eachWaiting {
		t.Errorf("%d questions wait, want %d", n, eachWaiting)
	}
	if n := len(d.queue.waiting["globex"]); n != 1 {
		t.Errorf("%d questions of another tenant wait", n)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "tenant=acme") {
		t.Errorf("%d lines of log:\n%s", n, log)
	}
}

// Whoever asks a bit too often or too much is told so, as long as there aren't many of these, either.
func TestRefusals(t *testing.T) {
	t.Parallel()
	d, _, _ := newTestServer(t)
	header := asked("acme", 1)
	header.Header = nats.Header{"X": {strings.Repeat("x", maxQuestion)}}
	for _, msg := range []*nats.Msg{asked("acme", maxQuestion), header} {
		d.take(msg)
		if q := d.queue.pop(<-d.queue.next); !errors.Is(q.refusal, errNoQuestion) || q.body != nil {
			t.Errorf("too large: %v, %d bytes are kept", q.refusal, len(q.body))
		}
		d.queue.done("acme")
	}
	kept, told := 0, 0
	for range 3 * perSecond {
		d.take(asked("acme", 10))
		if d.queue.n == 0 {
			continue
		}
		if q := d.queue.pop(<-d.queue.next); q.refusal == nil {
			kept++
		} else if strings.Contains(q.refusal.Error(), "ask less often") && q.body == nil {
			told++
		}
		d.queue.done("acme")
	}
	if kept != perSecond-2 || told != perSecond {
		t.Errorf("%d to be answered and %d to be told, want %d and %d", kept, told, perSecond-2, perSecond)
	}
}

// An answer that the server would refuse, or nobody waits for, is not given.
func TestLateAnswersAreNotGiven(t *testing.T) {
	t.Parallel()
	d, log, nc := newTestServer(t)
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	if err == nil {
		err = nc.FlushWithContext(within(t))
	}
	if err != nil {
		t.Fatal(err)
	}
	q := question{tenant: "acme", reply: inbox.Subject, body: []byte(`{"id":"r-1"}`), since: d.now()}
	for _, late := range []func(*question){
		func(q *question) { q.since = q.since.Add(-stale - 1) },
		func(q *question) { q.session++ },
	} {
		other := q
		other.body = []byte(`{"id":"late"}`)
		late(&other)
		d.answer(within(t), other)
	}
	d.answer(within(t), q)
	msg, err := inbox.NextMsgWithContext(within(t))
	var a Answer
	if err == nil {
		err = json.Unmarshal(msg.Data, &a)
	}
	if err != nil || len(a.Records) != 1 || a.Records[0].Key.ID != "r-1" || log.Len() > 0 {
		t.Errorf("the first answer: %+v, %v\n%s", a, err, log)
	}
}

func TestAnswerThatCannotBeSentIsTold(t *testing.T) {
	t.Parallel()
	d, log, _ := newTestServer(t)
	d.cfg.Conn.Close()
	for range 2 {
		d.answer(within(t), question{tenant: "acme", reply: "_INBOX.a", body: []byte(`{"id":"r-1"}`), since: d.now()})
	}
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, nats.ErrConnectionClosed.Error()) {
		t.Errorf("log:\n%s", text)
	}
}

// Questions that take long hold up their own tenant's only.
func TestSlowAnswersHoldUpNobodyElse(t *testing.T) {
	t.Parallel()
	begun := make(chan string, 2*answerers)
	books := shelf{record("globex", "/a", "r-1")}
	nc := answering(t, func(ctx context.Context, tenant, source, id string) iter.Seq2[provision.Record, error] {
		if tenant != "acme" {
			return books.find(ctx, tenant, source, id)
		}
		return func(func(provision.Record, error) bool) { begun <- id; <-ctx.Done() }
	})
	for range 2 * answerers {
		if err := nc.PublishRequest(Subject("acme"), nc.NewInbox(), []byte(`{"id":"slow"}`)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-begun:
	case <-within(t).Done():
		t.Fatal("the slow question is not answered at all")
	}
	if got, err := Ask(within(t), nc, "globex", Question{ID: "r-1"}); err != nil || len(got) != 1 {
		t.Errorf("another tenant: %v, %v", got, err)
	}
	if n := len(begun); n > 0 {
		t.Errorf("%d more questions of the slow tenant had been begun", n)
	}
}

func TestQueueTakesTurns(t *testing.T) {
	t.Parallel()
	l := newQueue()
	for i := range 2 * eachWaiting {
		if got := l.push(question{tenant: "acme", reply: fmt.Sprint(i)}); got != (i < eachWaiting) {
			t.Errorf("question %d: %v", i, got)
		}
	}
	l.push(question{tenant: "globex", reply: "g-0"})
	l.push(question{tenant: "globex", reply: "g-1"})
	for i, want := range []string{"0", "g-0", "1", "g-1", "2", "3", "4", "5", "6", "7"} {
		tenant := <-l.next
		if got := l.pop(tenant).reply; got != want {
			t.Errorf("turn %d: %s, want %s", i, got, want)
		}
		l.done(tenant)
	}
	if len(l.next) > 0 || len(l.waiting) > 0 || l.n != 0 {
		t.Errorf("left: %d turns, %d tenants, %d questions", len(l.next), len(l.waiting), l.n)
	}
}

// A tenant's next question isn't begun before the one that is being answered is.
func TestQueueGivesOneQuestionOfATenantAtATime(t *testing.T) {
	t.Parallel()
	l := newQueue()
	l.push(question{tenant: "acme", reply: "0"})
	tenant := <-l.next
	l.pop(tenant)
	l.push(question{tenant: "acme", reply: "1"})
	if len(l.next) > 0 {
		t.Error("a turn while one is answered")
	}
	l.done(tenant)
	if got := l.pop(<-l.next).reply; got != "1" {
		t.Errorf("then %s", got)
	}
}

// However many tenants there are, as many questions wait, and joining never blocks.
func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	l := newQueue()
	room := 0
	for i := range 2 * allWaiting {
		if l.push(question{tenant: fmt.Sprint("t", i)}) {
			room++
		}
	}
	if room != allWaiting || len(l.next) != allWaiting {
		t.Errorf("%d questions and %d turns, want %d", room, len(l.next), allWaiting)
	}
	tenant := <-l.next // being answered: its place is taken by another
	l.pop(tenant)
	if !l.push(question{tenant: "late"}) || l.push(question{tenant: "later"}) {
		t.Error("one place was free")
	}
	l.done(tenant)
}
