package doctor

import (
	"errors"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/ledger"
)

// right is something that a worker, or who submits requests, must be allowed to publish.
type right struct {
	name    string
	subject string
	body    string
}

// probe stands in a tenant's place: no tenant can be called so.
const probe = "_doctor"

// workerRights are what a worker does. A request for messages that isn't JSON takes none.
func workerRights(js jetstream.JetStream) []right {
	record := "$KV." + ledger.DefaultBucket + "." + probe
	if opts := js.Options(); opts.Domain != "" || opts.APIPrefix != "" { // as the client of KV buckets has it
		record = consumer.APISubject(js, record)
	}
	return []right{
		{takeRequests, consumer.APISubject(js, "CONSUMER.MSG.NEXT."+consumer.StreamRequests+"."+consumer.ConsumerName), "{"},
		{"publish results", "connections.results." + probe + ".failed", ""},
		{"publish dead letters", "connections.deadletters." + probe, ""},
		{"write the ledger", record, ""},
	}
}

const takeRequests = "take requests"

// rights tries what this user may publish. A user that may take requests must be able to do the rest of
// a worker's work; one that may not is taken for an operator or a requester.
func (x *examination) rights(js jetstream.JetStream) {
	nc := js.Conn()
	var may, mayNot []string
	for _, r := range workerRights(js) {
		allowed, err := tryRight(nc, r)
		if err != nil {
			x.fail("nats rights", "can't be tried: "+err.Error(), "")
			return
		}
		if allowed {
			may = append(may, r.name)
		} else {
			mayNot = append(mayNot, r.name)
		}
	}
	if len(may) > 0 && may[0] == takeRequests && x.Settings.ManageStreams {
		x.repair(js)
	}
	submit, _ := tryRight(nc, right{"submit", "connections.requests." + x.requestsOf(), ""})
	x.tellRights(may, mayNot, submit)
}

// resetRight is what the worker mends a queue with that lost sight of messages. A request that isn't JSON
// resets nothing.
func resetRight(js jetstream.JetStream) right {
	return right{"reset", consumer.APISubject(js, "CONSUMER.RESET."+consumer.StreamRequests+"."+consumer.ConsumerName), "{"}
}

// repair tells whether a worker that may manage the NATS objects could mend the queue. Without, it works
// all the same, and only reports what it would have mended.
func (x *examination) repair(js jetstream.JetStream) {
	nc := js.Conn()
	const without = "messages that the queue loses sight of would be reported, but not delivered again: "
	if err := consumer.CheckReset(nc); err != nil {
		x.warn("nats repair", without+err.Error(), "")
		return
	}
	allowed, err := tryRight(nc, resetRight(js))
	switch {
	case err != nil:
		x.fail("nats repair", "can't be tried: "+err.Error(), "")
	case !allowed:
		x.warn("nats repair", without+"this user may not reset the consumer", "grant it to publish on "+resetRight(js).subject+", as deploy/nats/accounts.conf does")
	default:
		x.ok("nats repair", "this user may have messages delivered again that the queue lost sight of")
	}
}

func (x *examination) requestsOf() string {
	if x.Tenant == "" {
		return probe
	}
	return x.Tenant
}

func (x *examination) tellRights(may, mayNot []string, submit bool) {
	works := len(may) > 0 && may[0] == takeRequests
	switch {
	case len(mayNot) == 0:
		x.ok("nats rights", "this user may "+strings.Join(may, ", "))
	case works:
		x.fail("nats rights", "this user may take requests, but not "+strings.Join(mayNot, ", "), "grant what deploy/nats/accounts.conf grants the worker")
	case submit:
		x.ok("nats rights", "this user may submit and retry requests, but not work on them; run doctor with the worker's credentials to try those")
	default:
		x.warn("nats rights", "this user may neither work on requests nor submit them", credentialsRemedy)
	}
}

// tryRight reports whether nc's user may publish on the subject. The message demands a stream that does
// not exist, so the server stores nothing.
func tryRight(nc *nats.Conn, r right) (bool, error) {
	msg := &nats.Msg{Subject: r.subject, Data: []byte(r.body), Header: nats.Header{nats.ExpectedStreamHdr: {"no-such-stream"}}}
	if err := nc.PublishMsg(msg); err != nil {
		return false, err
	}
	if err := nc.FlushTimeout(patience); err != nil { // a refusal comes ahead of the answer
		return false, err
	}
	err := nc.LastError()
	return !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"`+r.subject+`"`), nil
}
