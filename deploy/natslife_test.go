package deploy

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/inquiry"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// life is all that a worker does at NATS, done by the worker's own code with the worker's rights.
type life struct {
	*broker
	ctx    context.Context
	at     *tap
	js     jetstream.JetStream // the worker's
	admin  jetstream.JetStream
	init   jetstream.JetStream // an administrator's
	tenant jetstream.JetStream
	manage bool // WORKER_MANAGE_STREAMS
	guard  *ledger.Guard
	book   atomic.Pointer[ledger.Ledger]
	rested map[string]bool // requests that were given back once; only the handler uses it, one message at a time
}

func newLife(ctx context.Context, b *broker, at *tap, manage bool) *life {
	b.t.Helper()
	l := &life{broker: b, ctx: ctx, at: at, manage: manage, guard: new(ledger.Guard), rested: map[string]bool{}}
	l.js = natstest.Connect(b.t, at.url("worker"), natstest.As("worker", "pw-worker"), consumer.OwnInbox())
	_, l.init = b.connect("init")
	_, l.admin = b.connect("admin")
	_, l.tenant = b.connect("acme")
	return l
}

// must ends the test where a step fails.
func (l *life) must(what string, err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatalf("%s: %v", what, err)
	}
}

// until waits for what sends no event.
func (l *life) until(what string, cond func() bool) {
	l.t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for !cond() {
		select {
		case <-poll.C:
		case <-l.ctx.Done():
			l.t.Fatalf("%s: %v; last refusal: %v", what, l.ctx.Err(), l.js.Conn().LastError())
		}
	}
}

func (l *life) openLedger(ctx context.Context) error {
	book, err := ledger.Open(ctx, l.js, ledger.Config{Manage: l.manage, Guard: l.guard})
	if err != nil {
		return err
	}
	l.book.Store(book)
	return l.guard.Check(ctx, book)
}

func (l *life) objects() consumer.ObjectsConfig {
	return consumer.ObjectsConfig{Manage: l.manage, Ledger: l.openLedger}
}

// spoilStreams changes every stream, as a person or an older version would, so that it has to be upgraded.
func (l *life) spoilStreams() {
	for name, change := range map[string]func(*jetstream.StreamConfig){
		consumer.StreamRequests:    func(c *jetstream.StreamConfig) { c.NoAck = true },
		consumer.StreamResults:     func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		consumer.StreamDeadLetters: func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		ledgerStream:               func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld },
	} {
		cfg := mustStream(l.ctx, l.t, l.admin, name).CachedInfo().Config
		change(&cfg)
		_, err := l.admin.UpdateStream(l.ctx, cfg)
		l.must("spoil "+name, err)
	}
}

// spoilConsumer changes the consumer so that the worker has to set it right.
func (l *life) spoilConsumer() {
	cfg := l.durable().Config
	cfg.MaxDeliver = 3
	_, err := l.admin.UpdateConsumer(l.ctx, consumer.StreamRequests, cfg)
	l.must("spoil the consumer", err)
}

const ledgerStream = "KV_" + ledger.DefaultBucket

func (l *life) durable() *jetstream.ConsumerInfo {
	con, err := l.admin.Consumer(l.ctx, consumer.StreamRequests, consumer.ConsumerName)
	l.must("consumer", err)
	return con.CachedInfo()
}

func (l *life) records(ctx context.Context, from uint64) iter.Seq2[consumer.Written, error] {
	return func(yield func(consumer.Written, error) bool) {
		for e, err := range l.book.Load().List(ctx, ledger.Filter{From: from}) {
			if !yield(consumer.Written{Record: e.Record, Revision: e.Revision}, err) {
				return
			}
		}
	}
}

func (l *life) consumer() *consumer.Consumer {
	con, err := consumer.New(consumer.Config{
		JS: l.js, Codec: &event.Decoder{}, Objects: l.objects(), Handle: l.handle, Concurrency: 1, PollInterval: 10 * time.Millisecond,
		PullExpires: time.Second,
		Sweep: consumer.SweepConfig{Interval: 10 * time.Millisecond, LedgerInterval: 10 * time.Millisecond, Records: l.records,
			Load: func(ctx context.Context, key provision.Key) (provision.Record, uint64, error) {
				return l.book.Load().Load(ctx, key)
			}},
	})
	l.must("consumer", err)
	return con
}

// handle gives every request back once, and has it fail the next time.
func (l *life) handle(_ context.Context, d provision.Delivery) provision.Outcome {
	key := d.Request.Key
	if !l.rested[key.ID] {
		l.rested[key.ID] = true
		return provision.Outcome{Delay: time.Millisecond}
	}
	return provision.Outcome{Result: &provision.Result{
		EventID: key.EventID(0, provision.OutcomeFailed), Outcome: provision.OutcomeFailed, Error: d.Invalid,
		Request: provision.RequestID{ID: key.ID, Source: key.Source}, Tenant: key.Tenant,
	}}
}

func (l *life) request(id string) {
	_, err := l.tenant.Publish(l.ctx, "connections.requests.acme", []byte(`{}`), jetstream.WithMsgID(id))
	l.must("request "+id, err)
	l.until("the outcome of "+id, func() bool { return l.queued() == 0 })
}

func (l *life) queued() uint64 {
	return mustStream(l.ctx, l.t, l.admin, consumer.StreamRequests).CachedInfo().State.Msgs
}

// fillLedger writes so much that reading it takes flow control, and a record that hangs.
func (l *life) fillLedger() {
	large := strings.Repeat("x", 200<<10)
	for i := range 12 {
		rec := provision.Record{Key: provision.Key{Tenant: "acme", Source: "/s", ID: fmt.Sprint(i)}, State: provision.StateClaimed,
			Nonce: fmt.Sprint(i), Fingerprint: large, UpdatedAt: time.Now().Add(-time.Hour), HeldSeq: 1000}
		_, err := l.book.Load().Store(l.ctx, rec.Key, rec, 0)
		l.must("ledger", err)
	}
	n := 0
	for _, err := range l.book.Load().List(l.ctx, ledger.Filter{}) {
		l.must("ledger list", err)
		n++
	}
	if n < 12 {
		l.t.Fatalf("the ledger lists %d records", n)
	}
}

// prepare makes the NATS objects: the worker does, and sets its consumer right, or else an administrator
// does, who has chosen direct reads.
func (l *life) prepare() {
	if l.manage {
		_, err := consumer.EnsureObjects(l.ctx, l.js, l.objects())
		l.must("make the objects", err)
		l.spoilConsumer()
		_, err = consumer.EnsureObjects(l.ctx, l.js, l.objects())
		l.must("set the consumer right", err)
		l.spoilConsumer()
		return
	}
	l.createObjects(l.ctx, l.init)
	l.must("ledger", l.openLedger(l.ctx))
	for _, name := range []string{consumer.StreamRequests, ledgerStream} {
		cfg := mustStream(l.ctx, l.t, l.admin, name).CachedInfo().Config
		cfg.AllowDirect = true
		_, err := l.admin.UpdateStream(l.ctx, cfg)
		l.must("direct reads of "+name, err)
	}
}

// live lives.
func (l *life) live() {
	l.prepare()
	con := l.consumer()
	ctx, stop := context.WithCancel(context.WithoutCancel(l.ctx))
	done := make(chan error, 1)
	go func() { done <- con.Run(ctx) }()
	defer func() {
		stop()
		l.must("run", <-done)
	}()
	l.until("the worker is ready", func() bool { return con.Ready() == nil })
	l.request("r-1")
	_, err := l.admin.Publish(l.ctx, "connections.requests._invalid", []byte(`{}`))
	l.must("a request of no tenant", err)
	l.until("its dead letter", func() bool { return l.queued() == 0 })
	useLedger(l.ctx, l.t, l.js, l.manage)
	l.fillLedger()
	l.question()
	l.pause(con)
	if l.manage {
		l.loseObjects(con)
	}
}

// question has the tenant ask what became of a request.
func (l *life) question() {
	ctx, stop := context.WithCancel(l.ctx)
	done := make(chan error, 1)
	go func() {
		done <- inquiry.Run(ctx, inquiry.Config{Conn: l.js.Conn(), Find: func(_ context.Context, tenant, _, id string) iter.Seq2[provision.Record, error] {
			return func(yield func(provision.Record, error) bool) {
				yield(provision.Record{Key: provision.Key{Tenant: tenant, ID: id}}, nil)
			}
		}})
	}()
	l.until("the tenant's question is answered", func() bool {
		recs, err := inquiry.Ask(l.ctx, l.tenant.Conn(), "acme", inquiry.Question{ID: "r-1"})
		return err == nil && len(recs) == 1 && recs[0].Key.Tenant == "acme"
	})
	stop()
	l.must("answer", <-done)
}

// pause has a request wait amid a pause, where the sweepers look at it, and a worker that may change the
// consumer finds that it has lost sight of it.
func (l *life) pause(con *consumer.Consumer) {
	_, operator := l.connect("operator")
	_, err := consumer.Pause(l.ctx, operator, time.Time{})
	l.must("pause", err)
	l.until("the pause is seen", func() bool { return con.Status().Pauses.Paused })
	ack, err := l.tenant.Publish(l.ctx, "connections.requests.acme", []byte(`{}`), jetstream.WithMsgID("r-2"))
	l.must("request", err)
	l.until("the ledger is compared with the queue", func() bool { return l.asked("STREAM.MSG.GET") || l.asked("DIRECT.GET") })
	if l.manage {
		_, err = l.admin.ResetConsumerToSequence(l.ctx, consumer.StreamRequests, consumer.ConsumerName, ack.Sequence+1)
		l.must("lose sight", err)
		l.until("the message is seen again", func() bool { return l.durable().NumPending > 0 })
	}
	_, err = consumer.Resume(l.ctx, operator)
	l.must("resume", err)
	l.until("its outcome", func() bool { return l.queued() == 0 })
}

// asked reports whether the worker has read a message of the queue.
func (l *life) asked(op string) bool {
	return slices.Contains(l.at.uses(), probe{"pub", "$JS.API." + op + "." + consumer.StreamRequests})
}

// loseObjects deletes what the worker then makes anew.
func (l *life) loseObjects(con *consumer.Consumer) {
	for _, name := range []string{ledgerStream, consumer.StreamResults, consumer.StreamDeadLetters, consumer.StreamRequests} {
		l.must("delete "+name, l.admin.DeleteStream(l.ctx, name))
		l.until(name+" is there again", func() bool {
			con.Recheck(nats.ErrNoResponders)
			_, err := l.admin.Stream(l.ctx, name)
			return err == nil
		})
	}
	l.until("the worker is ready again", func() bool { return con.Ready() == nil })
	l.request("r-3")
}

// lives are the kinds of lives that a worker can have.
var lives = []struct {
	name   string
	manage bool
	edit   func(string) string // of accounts.conf; what is added at its end counts for the whole server
}{
	{"makes its objects", true, func(s string) string { return s }},
	{"finds them made, with direct reads, and may not change them", false, withoutObjects},
	{"with the new form of acknowledgements", true, func(s string) string { return s + "\nfeature_flags { js_ack_fc_v2: true }\n" }},
}

// trace returns what the worker's lives use. Nothing of it may be refused.
func trace(t *testing.T) (uses []probe) {
	t.Helper()
	for _, kind := range lives {
		ok := t.Run(kind.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a slow machine may take its time
			defer cancel()
			b := newEditedBroker(t, withAdmin, withDeletions, kind.edit)
			at := newTap(t, b.url)
			newLife(ctx, b, at, kind.manage).live()
			if refused := at.refusals(); len(refused) > 0 {
				t.Errorf("refused: %q", refused)
			}
			uses = append(uses, at.uses()...)
		})
		if !ok {
			t.FailNow()
		}
	}
	return uses
}
