package deploy

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
)

// What the workers' consumer itself listens to, in the account of its stream. A push consumer may deliver
// there, and JetStream looks at nobody's permissions when it delivers.
const (
	takeRequest = "$JS.API.CONSUMER.MSG.NEXT.CONNECTION_REQUESTS.flow-worker"
	resetQueue  = "$JS.API.CONSUMER.RESET.CONNECTION_REQUESTS.flow-worker"
)

// queue returns how the workers' consumer stands.
func (s *scene) queue() *jetstream.ConsumerInfo {
	s.t.Helper()
	con, err := s.admin.Consumer(s.ctx, consumer.StreamRequests, consumer.ConsumerName)
	s.must(err)
	return con.CachedInfo()
}

// pushes has a user make a consumer that pushes the last result, and all that come, to a subject.
func (s *scene) pushes(user, ack, subject string) {
	s.t.Helper()
	_, err := s.admin.Publish(s.ctx, "connections.results.acme.failed", []byte(`{}`))
	s.must(err)
	made := s.call(s.as(user), "$JS.API.CONSUMER.CREATE.CONNECTION_RESULTS.z1", fmt.Sprintf(`{"stream_name":"CONNECTION_RESULTS","config":{"name":"z1",
		"deliver_policy":"last","ack_policy":%q,"headers_only":true,"mem_storage":true,"inactive_threshold":5000000000,"deliver_subject":%q}}`, ack, subject))
	if !made {
		s.t.Logf("no consumer that delivers to %s", subject)
	}
}

// pulledForNobody has each result become a pull, whose answer goes to where the result would be
// acknowledged. It works if globex's request is in somebody's hands then, though no worker runs.
func pulledForNobody(user string) func(*scene) bool {
	return func(s *scene) bool { return s.taken(func() { s.pushes(user, "explicit", takeRequest) }) }
}

// taken reports whether an act has globex's request delivered to anybody.
func (s *scene) taken(act func()) bool {
	s.t.Helper()
	act()
	return s.happens(func() bool { return s.queue().NumAckPending > 0 })
}

// resetByPush works if the consumer forgets that a request was delivered.
func resetByPush(user string) func(*scene) bool {
	return func(s *scene) bool { return s.forgets(func() { s.pushes(user, "none", resetQueue) }) }
}

// forgets reports whether an act has the consumer forget that a request was delivered.
func (s *scene) forgets(act func()) bool {
	s.t.Helper()
	con, err := s.admin.Consumer(s.ctx, consumer.StreamRequests, consumer.ConsumerName)
	s.must(err)
	_, err = con.Next()
	s.must(err)
	if n := s.queue().NumAckPending; n != 1 {
		s.t.Errorf("%d requests are in hand, want one", n)
	}
	act()
	return s.happens(func() bool { return s.queue().NumAckPending == 0 })
}

// answered has the operator read a result, and one that there isn't, and have the answers sent to a subject.
func (s *scene) answered(subject string) {
	s.t.Helper()
	_, err := s.admin.Publish(s.ctx, "connections.results.acme.failed", []byte(`{}`))
	s.must(err)
	for _, seq := range []string{"1", "99"} {
		s.send(s.as("operator"), "$JS.API.STREAM.MSG.GET.CONNECTION_RESULTS", subject, `{"seq":`+seq+`}`)
	}
}

// answer returns what a tenant is answered that sends a request with a header.
func (s *scene) answer(user string, headers nats.Header) string {
	s.t.Helper()
	msg, err := s.as(user).Conn().RequestMsgWithContext(s.ctx, &nats.Msg{Subject: "connections.requests." + user, Data: []byte(`{}`), Header: headers})
	s.must(err)
	return string(msg.Data)
}

// toldSequence works if the answer has the sequence of globex's last request, and not just the stream's.
func toldSequence(s *scene) bool {
	last, err := s.as("globex").Publish(s.ctx, victim, []byte(`{}`))
	s.must(err)
	_, err = s.as("acme").Publish(s.ctx, "connections.requests.acme", []byte(`{}`))
	s.must(err)
	said := s.answer("acme", nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"99999"}, "Nats-Expected-Last-Subject-Sequence-Subject": {victim}})
	return strings.Contains(said, fmt.Sprintf("wrong last sequence: %d\"", last.Sequence))
}

// toldID works if the answer has the id of globex's last request.
func toldID(s *scene) bool {
	_, err := s.as("globex").Publish(s.ctx, victim, []byte(`{}`), jetstream.WithMsgID("order-4711"))
	s.must(err)
	return strings.Contains(s.answer("acme", nats.Header{jetstream.ExpectedLastMsgIDHeader: {"zz"}}), "order-4711")
}
