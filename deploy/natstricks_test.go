package deploy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/ledger"
)

// scene is what a trick is played on: a server with all objects, a request of globex that waits, and a
// ledger with a record.
type scene struct {
	*broker
	ctx   context.Context
	admin jetstream.JetStream
}

func newScene(t *testing.T, edits ...func(string) string) *scene {
	t.Helper()
	b := newEditedBroker(t, append(edits, withGlobex, withAdmin)...)
	s := &scene{broker: b, ctx: testContext(t)}
	_, s.admin = b.connect("admin")
	b.createObjects(s.ctx, s.admin)
	_, globex := b.connect("globex")
	_, err := globex.Publish(s.ctx, "connections.requests.globex", []byte(`{}`))
	s.must(err)
	_, err = s.admin.Publish(s.ctx, "$KV.connection-ledger.acme.a.b", []byte("x"))
	s.must(err)
	return s
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) as(user string) jetstream.JetStream {
	s.t.Helper()
	_, js := s.connect(user)
	return js
}

// reaches reports whether an act has a message come out on a subject of the workers' account. The act
// is followed by something that is answered only after whatever it causes.
func (s *scene) reaches(subject string, act func()) bool {
	s.t.Helper()
	sub, err := s.admin.Conn().SubscribeSync(subject)
	s.must(err)
	s.must(s.admin.Conn().Flush())
	act()
	for range 3 { // JetStream answers from goroutines of its own
		_, err = s.admin.AccountInfo(s.ctx)
		s.must(err)
	}
	_, err = sub.NextMsg(settle)
	return err == nil
}

// settle is how long a message that should not come is waited for.
const settle = 500 * time.Millisecond

// waits returns how many requests of a tenant are in the queue.
func (s *scene) waits(tenant string) uint64 {
	s.t.Helper()
	info, err := mustStream(s.ctx, s.t, s.admin, consumer.StreamRequests).Info(s.ctx, jetstream.WithSubjectFilter("connections.requests."+tenant))
	s.must(err)
	return info.State.Subjects["connections.requests."+tenant]
}

// call sends a request to the JetStream API and reports whether it was done.
func (s *scene) call(js jetstream.JetStream, subject, body string) bool {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 2*settle)
	defer cancel()
	msg, err := js.Conn().RequestWithContext(ctx, subject, []byte(body))
	return err == nil && !strings.Contains(string(msg.Data), `"error"`)
}

// send publishes with a reply subject and headers.
func (s *scene) send(js jetstream.JetStream, subject, reply, body string, headers ...string) {
	s.t.Helper()
	msg := &nats.Msg{Subject: subject, Reply: reply, Data: []byte(body), Header: nats.Header{}}
	for i := 0; i+1 < len(headers); i += 2 {
		msg.Header.Set(headers[i], headers[i+1])
	}
	s.must(errors.Join(js.Conn().PublishMsg(msg), js.Conn().Flush()))
}

// victim is what tricks are after.
const victim = "connections.requests.globex"

// trick is something that is not done by a plain publication or subscription.
type trick struct {
	who, what string
	works     func(*scene) bool
}

// replied tries to have the stream's confirmation come out on a subject.
func replied(user, subject string) func(*scene) bool {
	return func(s *scene) bool {
		return s.reaches(subject, func() { s.send(s.as(user), "connections.requests.acme", subject, `{}`) })
	}
}

// headed tries headers on a request of acme's. The trick works if globex's queue changes, or anything
// comes out on its subject.
func headed(user string, headers ...string) func(*scene) bool {
	return func(s *scene) bool {
		reached := s.reaches(victim, func() { s.send(s.as(user), "connections.requests.acme", "", `{}`, headers...) })
		return reached || s.waits("globex") != 1
	}
}

// overheard has a user listen while somebody else does something.
func overheard(user, subject string, act func(*scene)) func(*scene) bool {
	return func(s *scene) bool {
		nc := s.as(user).Conn()
		sub, err := nc.SubscribeSync(subject)
		s.must(errors.Join(err, nc.Flush()))
		act(s)
		_, err = sub.NextMsg(settle)
		return err == nil
	}
}

// natsTricks are all tricks, in the order of the page.
var natsTricks = []trick{
	{"acme", "the confirmation of a request comes out as globex's request (reply subject)", replied("acme", victim)},
	{"acme", "… as a record of the ledger", replied("acme", "$KV.connection-ledger.globex.a.b")},
	{"acme", "… as an acknowledgement", replied("acme", "$JS.ACK.CONNECTION_REQUESTS.flow-worker.1.1.1.1.0")},
	{"acme", "… as a call of the JetStream API", replied("acme", "$JS.API.STREAM.DELETE.CONNECTION_RESULTS")},
	{"acme", "… in an inbox of the workers' account", replied("acme", "_INBOX.abc.1")},
	{"acme", "`Nats-Rollup: all` removes globex's requests", headed("acme", "Nats-Rollup", "all")},
	{"acme", "`Nats-Trace-Dest` names globex's subject", headed("acme", "Nats-Trace-Dest", victim)},
	{"acme", "`Nats-Schedule` publishes on globex's subject later", headed("acme", "Nats-Schedule", "@every 1s", "Nats-Schedule-Target", victim)},
	{"acme", "`Nats-Subject`, `Nats-Stream` and `Nats-Sequence` name globex's", headed("acme", "Nats-Subject", victim, "Nats-Stream", "CONNECTION_REQUESTS", "Nats-Sequence", "1")},
	{"acme", "`KV-Operation: PURGE`", headed("acme", "KV-Operation", "PURGE", "Nats-Rollup", "sub")},
	{"acme", "`Nats-Batch-Id` and `Nats-Batch-Commit`", headed("acme", "Nats-Batch-Id", "b", "Nats-Batch-Sequence", "1", "Nats-Batch-Commit", "1")},
	{"acme", "globex's inbox is overheard", overheard("acme", "_INBOX.>", func(s *scene) {
		_, err := s.as("globex").Publish(s.ctx, victim, []byte(`{}`))
		s.must(err)
	})},
	{"worker", "a second consumer on the requests, under the name of its own", func(s *scene) bool {
		return s.call(s.as("worker"), "$JS.API.CONSUMER.CREATE.CONNECTION_REQUESTS.flow-worker",
			`{"stream_name":"CONNECTION_REQUESTS","config":{"name":"thief","durable_name":"thief","ack_policy":"explicit"}}`)
	}},
	{"worker", "its consumer pushes requests to a subject", func(s *scene) bool {
		return s.call(s.as("worker"), "$JS.API.CONSUMER.CREATE.CONNECTION_REQUESTS.flow-worker",
			`{"stream_name":"CONNECTION_REQUESTS","config":{"name":"flow-worker","durable_name":"flow-worker","ack_policy":"explicit","deliver_subject":"_INBOX.x"}}`)
	}},
	{"worker", "its consumer serves acme only (object rights)", narrowed},
	{"worker", "results are forgotten (object rights)", forgotten},
	{"worker", "the same two without the object rights", func(s *scene) bool {
		poor := newScene(s.t, withoutObjects)
		return narrowed(poor) || forgotten(poor)
	}},
	{"worker", "the confirmation of a ledger write comes out as globex's request", func(s *scene) bool {
		return s.reaches(victim, func() { s.send(s.as("worker"), "$KV.connection-ledger.acme.a.c", victim, `{}`) })
	}},
	{"worker", "a push consumer on the ledger delivers to globex's subject", func(s *scene) bool {
		return s.reaches(victim, func() {
			s.call(s.as("worker"), "$JS.API.CONSUMER.CREATE.KV_connection-ledger.x",
				`{"stream_name":"KV_connection-ledger","config":{"name":"x","ack_policy":"none","deliver_subject":"`+victim+`"}}`)
		})
	}},
	{"worker", "`Nats-Trace-Dest` names globex's subject", func(s *scene) bool {
		return s.reaches(victim, func() { s.send(s.as("worker"), "connections.results.acme.failed", "", `{}`, "Nats-Trace-Dest", victim) })
	}},
	{"worker", "what the operator is answered is overheard", overheard("worker", "_INBOX.>", func(s *scene) {
		_ = mustStream(s.ctx, s.t, s.as("operator"), ledgerStream)
	})},
	{"operator", "a second consumer on the requests", func(s *scene) bool {
		_, err := s.as("operator").CreateConsumer(short(s), consumer.StreamRequests, jetstream.ConsumerConfig{Durable: "thief", AckPolicy: jetstream.AckExplicitPolicy})
		return err == nil
	}},
	{"operator", "a request is taken from the workers' consumer", func(s *scene) bool {
		con, err := s.as("operator").Consumer(s.ctx, consumer.StreamRequests, consumer.ConsumerName)
		s.must(err)
		msgs, err := con.Fetch(1, jetstream.FetchMaxWait(2*settle))
		if err != nil {
			return false
		}
		return <-msgs.Messages() != nil
	}},
	{"operator", "a record of the ledger is written", func(s *scene) bool {
		kv, err := s.as("operator").KeyValue(s.ctx, ledger.DefaultBucket)
		s.must(err)
		_, err = kv.Put(short(s), "acme.a.b", []byte("x"))
		return err == nil
	}},
	{"operator", "the requests are read, without being taken", func(s *scene) bool {
		_, err := mustStream(s.ctx, s.t, s.as("operator"), consumer.StreamRequests).GetMsg(s.ctx, 1)
		return err == nil
	}},
	{"sys", "a request for acme", func(s *scene) bool {
		return s.reaches("connections.requests.acme", func() { s.send(s.as("sys"), "connections.requests.acme", "", `{}`) })
	}},
	{"sys", "the workers' account is overheard", overheard("sys", "connections.>", func(s *scene) {
		_, err := s.admin.Publish(s.ctx, "connections.results.acme.created", []byte(`{}`))
		s.must(err)
	})},
	{"sys", "a stream of the workers' account is deleted", func(s *scene) bool {
		return s.call(s.as("sys"), "$JS.API.STREAM.DELETE.CONNECTION_RESULTS", "")
	}},
	{"sys", "the server's connections are listed", func(s *scene) bool {
		return s.call(s.as("sys"), "$SYS.REQ.SERVER.PING.CONNZ", "")
	}},
}

// short is a context for a call that may be left without an answer.
func short(s *scene) context.Context {
	ctx, cancel := context.WithTimeout(s.ctx, 2*settle)
	s.t.Cleanup(cancel)
	return ctx
}

func narrowed(s *scene) bool {
	return s.call(s.as("worker"), "$JS.API.CONSUMER.CREATE.CONNECTION_REQUESTS.flow-worker",
		`{"stream_name":"CONNECTION_REQUESTS","config":{"name":"flow-worker","durable_name":"flow-worker","ack_policy":"explicit","max_ack_pending":-1,"filter_subject":"connections.requests.acme"}}`)
}

func forgotten(s *scene) bool {
	cfg := mustStream(s.ctx, s.t, s.as("worker"), consumer.StreamResults).CachedInfo().Config
	cfg.MaxMsgs = 1
	_, err := s.as("worker").UpdateStream(short(s), cfg)
	return err == nil
}

// withoutObjects takes from the worker what the comment in accounts.conf says it can do without.
func withoutObjects(accounts string) string {
	for _, right := range []string{
		"$JS.API.STREAM.CREATE.CONNECTION_REQUESTS", "$JS.API.STREAM.UPDATE.CONNECTION_REQUESTS", "$JS.API.STREAM.CREATE.CONNECTION_RESULTS",
		"$JS.API.STREAM.UPDATE.CONNECTION_RESULTS", "$JS.API.STREAM.CREATE.CONNECTION_DEADLETTERS", "$JS.API.STREAM.UPDATE.CONNECTION_DEADLETTERS",
		"$JS.API.STREAM.CREATE.KV_connection-ledger", "$JS.API.STREAM.UPDATE.KV_connection-ledger",
		"$JS.API.CONSUMER.CREATE.CONNECTION_REQUESTS.flow-worker", "$JS.API.CONSUMER.RESET.CONNECTION_REQUESTS.flow-worker",
	} {
		accounts = without(accounts, right)
	}
	return accounts
}

// The table says of every trick what came of it.
func TestNATSTricks(t *testing.T) {
	t.Parallel()
	worked := make([]bool, len(natsTricks))
	t.Run("played", func(t *testing.T) { // returns when all are done
		for i, trick := range natsTricks {
			t.Run(trick.who+" "+trick.what, func(t *testing.T) {
				t.Parallel()
				worked[i] = trick.works(newScene(t))
			})
		}
	})
	var page strings.Builder
	page.WriteString("| who | tries | |\n|---|---|---|\n")
	works := 0
	for i, trick := range natsTricks {
		outcome := refused
		if worked[i] {
			outcome = allowed
			works++
		}
		fmt.Fprintf(&page, "| %s | %s | %s |\n", trick.who, trick.what, outcome)
	}
	t.Logf("%d tricks, %d of them work", len(natsTricks), works)
	checkPage(t, "nats tricks", page.String())
}

// The same tricks work for one who may do everything: so they are played well, and their success is seen.
func TestNATSTricksWorkForAnAdministrator(t *testing.T) {
	t.Parallel()
	for name, works := range map[string]func(*scene) bool{
		"reply": replied("admin", victim), "reply to an inbox": replied("admin", "_INBOX.abc.1"),
		"trace":    headed("admin", "Nats-Trace-Dest", victim),
		"overhear": overheard("admin", "_INBOX.>", func(s *scene) { _ = mustStream(s.ctx, s.t, s.as("operator"), ledgerStream) }),
	} {
		t.Run(name, func(t *testing.T) {
			if !works(newScene(t)) {
				t.Error("the trick does not work")
			}
		})
	}
}
