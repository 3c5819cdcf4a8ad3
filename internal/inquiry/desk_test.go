package inquiry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// newTestDesk returns a desk at a time that stands still, what it logs, and somebody to ask.
func newTestDesk(t *testing.T) (*desk, *bytes.Buffer, *nats.Conn) {
	t.Helper()
	url := natstest.Run(t, natstest.Options{}).ClientURL()
	var log bytes.Buffer
	d := newDesk(Config{
		Conn: natstest.Connect(t, url).Conn(), Find: shelf{record("acme", "/a", "r-1")}.find,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	d.now = func() time.Time { return time.Unix(1, 0) }
	d.pace.now, d.seldom.now = d.now, d.now
	return d, &log, natstest.Connect(t, url).Conn()
}

func asked(tenant string, size int) *nats.Msg {
	return &nats.Msg{Subject: Subject(tenant), Reply: "_INBOX.a", Data: bytes.Repeat([]byte(" "), size)}
}

// What one tenant sends too much of is not kept, and leaves room for others.
func TestTooManyAreDropped(t *testing.T) {
	t.Parallel()
	d, log, _ := newTestDesk(t)
	for range 3 * perSecond {
		d.take(asked("acme", 10))
	}
	d.take(asked("globex", 10))
	if n := len(d.line.waiting["acme"]); n != eachWaiting {
		t.Errorf("%d questions wait, want %d", n, eachWaiting)
	}
	if n := len(d.line.waiting["globex"]); n != 1 {
		t.Errorf("%d questions of another tenant wait", n)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "tenant=acme") {
		t.Errorf("%d lines of log:\n%s", n, log)
	}
}

// Whoever asks a bit too often or too much is told so, as long as there aren't many of these, either.
func TestRefusals(t *testing.T) {
	t.Parallel()
	d, _, _ := newTestDesk(t)
	header := asked("acme", 1)
	header.Header = nats.Header{"X": {strings.Repeat("x", maxQuestion)}}
	for _, msg := range []*nats.Msg{asked("acme", maxQuestion), header} {
		d.take(msg)
		if q := d.line.first(<-d.line.turns); !errors.Is(q.refusal, errNoQuestion) || q.body != nil {
			t.Errorf("too large: %v, %d bytes are kept", q.refusal, len(q.body))
		}
		d.line.done("acme")
	}
	kept, told := 0, 0
	for range 3 * perSecond {
		d.take(asked("acme", 10))
		if d.line.n == 0 {
			continue
		}
		if q := d.line.first(<-d.line.turns); q.refusal == nil {
			kept++
		} else if strings.Contains(q.refusal.Error(), "ask less often") && q.body == nil {
			told++
		}
		d.line.done("acme")
	}
	if kept != perSecond-2 || told != perSecond {
		t.Errorf("%d to be answered and %d to be told, want %d and %d", kept, told, perSecond-2, perSecond)
	}
}

// An answer that the server would refuse, or nobody waits for, is not given.
func TestLateAnswersAreNotGiven(t *testing.T) {
	t.Parallel()
	d, log, nc := newTestDesk(t)
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
	d, log, _ := newTestDesk(t)
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
	begun := make(chan string, 2*clerks)
	books := shelf{record("globex", "/a", "r-1")}
	nc := answering(t, func(ctx context.Context, tenant, source, id string) iter.Seq2[provision.Record, error] {
		if tenant != "acme" {
			return books.find(ctx, tenant, source, id)
		}
		return func(func(provision.Record, error) bool) { begun <- id; <-ctx.Done() }
	})
	for range 2 * clerks {
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
