package deploy

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/ledger"
)

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
	{"acme", "a message under the guessable `Nats-Msg-Id` of globex's next request has the broker swallow that one", swallowed},
	{"acme", "`Nats-Expected-Last-Subject-Sequence` of globex's subject: the error tells the sequence of globex's last request", toldSequence},
	{"acme", "`Nats-Expected-Last-Msg-Id`: the error tells the last `Nats-Msg-Id`, which is globex's", toldID},
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
	{"worker", "the same without the object rights", func(s *scene) bool { return narrowed(newScene(s.t, withoutObjects)) }},
	{"worker", "results are forgotten, for their stream is given a limit", limited("worker", consumer.StreamResults)},
	{"worker", "… by making it again, with a limit", func(s *scene) bool {
		return s.call(s.as("worker"), "$JS.API.STREAM.CREATE.CONNECTION_RESULTS", `{"name":"CONNECTION_RESULTS","subjects":["connections.results.*.*"],"max_msgs":1}`)
	}},
	{"worker", "the answer to a pull that finds nothing, which is empty, comes out as the call that deletes the results", func(s *scene) bool {
		return s.loses(func() { s.pulls(s.as("worker"), consumer.StreamRequests, consumer.ConsumerName) })
	}},
	{"worker", "`Nats-Rollup: all` on a record removes all others", rolledUp("worker", "$KV.connection-ledger.acme.a.c")},
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
	{"worker", "what the operator is answered is overheard", spied("worker", "operator")},
	{"worker", "… of all inboxes at once", overheard("worker", "_INBOX.>", asked("operator"))},
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
	{"operator", "… by the confirmation of a request (reply subject): it is no record any more", func(s *scene) bool {
		return s.rewritten(func() { s.send(s.as("operator"), "connections.requests.acme", "$KV.connection-ledger.acme.a.b", `{}`) })
	}},
	{"operator", "… by a push consumer on the results that delivers to it", func(s *scene) bool {
		return s.rewritten(func() { s.delivers("operator", "$KV.connection-ledger.acme.a.b") })
	}},
	{"operator", "`Nats-Rollup: all` on the ledger's note removes all records", rolledUp("operator", "$KV.connection-ledger._flow-worker.complete")},
	{"operator", "requests are forgotten, for their stream is given a limit", limited("operator", consumer.StreamRequests)},
	{"operator", "… results", limited("operator", consumer.StreamResults)},
	{"operator", "… records", limited("operator", ledgerStream)},
	{"operator", "the confirmation of a request comes out as a call that purges the results", func(s *scene) bool {
		return s.loses(func() {
			s.send(s.as("operator"), "connections.requests.acme", purgeResults, `{}`)
		})
	}},
	{"operator", "… the same on a server that reads calls leniently (NATS 2.11 and older, or `strict: false`)", func(s *scene) bool {
		lax := newScene(s.t, lenient)
		return lax.loses(func() {
			lax.send(lax.as("operator"), "connections.requests.acme", purgeResults, `{}`)
		})
	}},
	{"operator", "… as the acknowledgement of a request in a worker's hands", func(s *scene) bool {
		return s.acknowledges(func(subject string) { s.send(s.as("operator"), "connections.requests.acme", subject, `{}`) })
	}},
	{"operator", "… as a result of acme's", func(s *scene) bool {
		const result = "connections.results.acme.created"
		return s.reaches(result, func() { s.send(s.as("operator"), "connections.requests.acme", result, `{}`) })
	}},
	{"operator", "a push consumer on the results delivers, without bodies, to the call that deletes them", func(s *scene) bool {
		return s.loses(func() { s.delivers("operator", deleteResults) })
	}},
	{"operator", "… to the call that takes a request: it is taken, and nobody gets it", pulledForNobody("operator")},
	{"operator", "… to the call that resets the workers' consumer: what they have in hand is delivered again", resetByPush("operator")},
	{"operator", "a result that is read comes out as the call that takes a request", func(s *scene) bool {
		return s.taken(func() { s.answered(takeRequest) })
	}},
	{"operator", "… as the call that resets the workers' consumer", func(s *scene) bool {
		return s.forgets(func() { s.answered(resetQueue) })
	}},
	{"operator", "… the same on a server that reads calls leniently", func(s *scene) bool {
		lax := newScene(s.t, lenient)
		return lax.forgets(func() { lax.answered(resetQueue) })
	}},
	{"operator", "… as the call that deletes the results", func(s *scene) bool {
		return s.loses(func() { s.answered(deleteResults) })
	}},
	{"operator", "the answer to a pull that finds nothing, which is empty, comes out as the call that deletes the results", func(s *scene) bool {
		return s.loses(func() {
			_, err := s.admin.CreateConsumer(s.ctx, consumer.StreamDeadLetters, jetstream.ConsumerConfig{Name: "x", AckPolicy: jetstream.AckNonePolicy})
			s.must(err)
			s.pulls(s.as("operator"), consumer.StreamDeadLetters, "x")
		})
	}},
	{"operator", "the requests are read, without being taken", readFirst("operator")},
	{"operator", "what a worker is answered is overheard", spied("operator", "worker")},
	{"operator", "… of all inboxes at once", overheard("operator", "_INBOX.>", asked("worker"))},
	{"init", "results are forgotten, for their stream is given a limit", limited("init", consumer.StreamResults)},
	{"init", "`Nats-Rollup: all` on the ledger's note removes all records", rolledUp("init", "$KV.connection-ledger._flow-worker.complete")},
	{"init", "the requests are read, without being taken", readFirst("init")},
	{"init", "what a worker is answered is overheard", spied("init", "worker")},
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

// limited has a user give a stream a limit of one message, by which it forgets all others.
func limited(user, stream string) func(*scene) bool {
	return func(s *scene) bool {
		cfg := mustStream(s.ctx, s.t, s.admin, stream).CachedInfo().Config
		cfg.MaxMsgs, cfg.Discard = 1, jetstream.DiscardOld
		_, err := s.as(user).UpdateStream(short(s), cfg)
		return err == nil
	}
}

// rolledUp has a user write one key of the ledger with a header that has it replace all others.
func rolledUp(user, subject string) func(*scene) bool {
	return func(s *scene) bool {
		s.send(s.as(user), subject, "", `{}`, "Nats-Rollup", "all")
		_, err := s.admin.AccountInfo(s.ctx)
		s.must(err)
		return s.rewritten(func() {})
	}
}

// rewritten reports whether an act changes the record that a scene begins with, or removes it.
func (s *scene) rewritten(act func()) bool {
	s.t.Helper()
	kv, err := s.admin.KeyValue(s.ctx, ledger.DefaultBucket)
	s.must(err)
	act()
	return s.happens(func() bool {
		record, err := kv.Get(s.ctx, "acme.a.b")
		return err != nil || string(record.Value()) != "x"
	})
}

// loses reports whether an act has results go missing.
func (s *scene) loses(act func()) bool {
	s.t.Helper()
	for range 3 {
		_, err := s.admin.Publish(s.ctx, "connections.results.acme.failed", []byte(`{}`))
		s.must(err)
	}
	act()
	return s.happens(func() bool {
		results, err := s.admin.Stream(s.ctx, consumer.StreamResults)
		return err != nil || results.CachedInfo().State.Msgs < 3
	})
}

// pulls asks a consumer for messages that it doesn't have, to be answered on the call that deletes the
// results.
func (s *scene) pulls(js jetstream.JetStream, stream, from string) {
	s.t.Helper()
	con, err := s.admin.Consumer(s.ctx, stream, from)
	s.must(err)
	for con.CachedInfo().NumPending > 0 { // take what there is first
		_, err := con.Next()
		s.must(err)
		_, err = con.Info(s.ctx)
		s.must(err)
	}
	s.send(js, "$JS.API.CONSUMER.MSG.NEXT."+stream+"."+from, deleteResults, `{"batch":1,"no_wait":true}`)
}

// happens waits for what should not happen.
func (s *scene) happens(cond func() bool) bool {
	s.t.Helper()
	over := time.NewTimer(settle)
	defer over.Stop()
	poll := time.NewTicker(settle / 20)
	defer poll.Stop()
	for {
		if cond() {
			return true
		}
		select {
		case <-poll.C:
		case <-over.C:
			return false
		}
	}
}

// delivers has a user make a consumer that delivers a result, as headers alone, to a subject.
func (s *scene) delivers(user, subject string) {
	s.t.Helper()
	_, err := s.admin.Publish(s.ctx, "connections.results.acme.failed", []byte(`{}`))
	s.must(err)
	made := s.call(s.as(user), "$JS.API.CONSUMER.CREATE.CONNECTION_RESULTS.x",
		`{"stream_name":"CONNECTION_RESULTS","config":{"name":"x","ack_policy":"none","headers_only":true,"deliver_subject":"`+subject+`"}}`)
	if !made {
		s.t.Logf("no consumer that delivers to %s", subject)
	}
}

// swallowed has acme send, again and again, under the id that globex is about to use.
func swallowed(s *scene) bool {
	acme, globex := s.as("acme"), s.as("globex")
	for i := range 50 { // on a slow machine the window may be over before globex sends
		id := fmt.Sprint("order-", i)
		_, err := acme.Publish(s.ctx, "connections.requests.acme", []byte(`{}`), jetstream.WithMsgID(id))
		s.must(err)
		ack, err := globex.Publish(s.ctx, victim, []byte(`{}`), jetstream.WithMsgID(id))
		s.must(err)
		if ack.Duplicate {
			return true
		}
	}
	return false
}

// acknowledges has globex's request delivered, and reports whether an act that is told the subject of its
// acknowledgement ends it.
func (s *scene) acknowledges(act func(subject string)) bool {
	s.t.Helper()
	con, err := s.admin.Consumer(s.ctx, consumer.StreamRequests, consumer.ConsumerName)
	s.must(err)
	msg, err := con.Next()
	s.must(err)
	act(msg.Reply())
	return s.happens(func() bool { return s.waits("globex") == 0 })
}

// asked has a user ask the broker for something.
func asked(user string) func(*scene) {
	return func(s *scene) { _ = mustStream(s.ctx, s.t, s.as(user), ledgerStream) }
}

// spied has one user listen to another one's inboxes, by that one's name.
func spied(spy, user string) func(*scene) bool {
	return overheard(spy, "_INBOX."+user+".>", asked(user))
}

// readFirst has a user read the first request.
func readFirst(user string) func(*scene) bool {
	return func(s *scene) bool {
		return s.call(s.as(user), "$JS.API.STREAM.MSG.GET.CONNECTION_REQUESTS", `{"seq":1}`)
	}
}
