package requester_test

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

var decoder = &event.Decoder{AllowedDomains: []string{"azuredatabricks.net"}}

// failure is a failed request as the worker leaves it behind.
type failure struct {
	key      provision.Key
	reason   provision.Reason
	at       time.Time
	retry    int
	headers  map[string][]string
	body     string
	detached bool // of a message, not of the request
}

var failedAt = time.Date(2026, 11, 22, 3, 0, 0, 123456789, time.UTC)

func fail(tenant, id string, reason provision.Reason) failure {
	return failure{key: provision.Key{Tenant: tenant, Source: "/s", ID: id}, reason: reason, at: failedAt, body: data}
}

// letter publishes f's dead letter, as the worker makes it.
func (b *bench) letter(f failure) {
	b.t.Helper()
	headers := maps.Clone(f.headers)
	if f.retry > 0 {
		headers = map[string][]string{event.HeaderRetry: {strconv.Itoa(f.retry)}}
	}
	m := decoder.DeadLetter(event.Letter{Headers: headers, Body: []byte(f.body), Key: f.key, Retry: f.retry, Reason: f.reason, FailedAt: f.at, Detached: f.detached})
	msg := &nats.Msg{Subject: m.Subject, Header: nats.Header(m.Headers), Data: m.Body}
	if _, err := b.js.PublishMsg(within(b.t), msg); err != nil {
		b.t.Fatal(err)
	}
}

// record writes f's ledger record; a state other than failed is that of a later try.
func (b *bench) record(f failure, state provision.State) {
	b.t.Helper()
	rec := provision.Record{Key: f.key, State: state, Retry: f.retry, Nonce: "n", RequestedAt: f.at}
	if state == provision.StateFailed {
		rec.Final = &provision.FinalResult{Outcome: provision.OutcomeFailed, Result: provision.Result{CompletedAt: f.at, Error: provision.Fail(f.reason, "no")}}
	}
	if _, err := b.book.Store(within(b.t), f.key, rec, 0); err != nil {
		b.t.Fatal(err)
	}
}

// retries returns what is found, a line for each: id, reason, number, and an obstacle's first words.
func (b *bench) retries(s requester.Selection) []string {
	b.t.Helper()
	found, err := b.client.Retries(within(b.t), s)
	if err != nil {
		b.t.Fatal(err)
	}
	var lines []string
	for _, r := range found.List {
		line := r.Key.ID + " " + string(r.Reason) + " " + strconv.Itoa(r.Number)
		if r.Over {
			line += " over"
		}
		if why := r.Obstacle + r.Note; why != "" {
			line += ": " + strings.Join(strings.Fields(why)[:4], " ")
		}
		lines = append(lines, line)
	}
	return lines
}

func TestRetriesAreJudged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	missing := provision.ReasonSecretNotFound
	plain := fail("acme", "plain", missing)
	b.letter(plain)
	b.record(plain, provision.StateFailed)

	twice := fail("acme", "twice", provision.ReasonFlowDenied)
	b.letter(twice)
	twice.retry, twice.reason, twice.at = 1, missing, failedAt.Add(time.Minute)
	b.letter(twice)
	b.record(twice, provision.StateFailed)

	used := fail("acme", "used", missing)
	b.letter(used)
	b.record(used, provision.StateFailed)
	used.reason, used.at, used.detached = provision.ReasonIDReused, failedAt.Add(time.Minute), true
	b.letter(used)

	odd := fail("acme", "odd", missing)
	b.letter(odd)
	b.record(odd, provision.StateFailed)
	odd.reason, odd.at, odd.detached, odd.headers = provision.ReasonInvalidRequest, failedAt.Add(time.Minute), true, map[string][]string{event.HeaderRetry: {"x"}}
	b.letter(odd)

	secret := fail("acme", "secret", provision.ReasonPlaintextSecret)
	secret.body = strings.Replace(data, "vault:databricks/acme#accessToken", "dapi-oops", 1)
	b.letter(secret)
	b.record(secret, provision.StateFailed)
	for id, state := range map[string]provision.State{"made": provision.StateCreated, "again": provision.StateUnknown} {
		f := fail("acme", id, missing)
		b.letter(f)
		b.record(f, state)
	}
	b.letter(fail("acme", "lost", missing))
	b.record(fail("acme", "letterless", missing), provision.StateFailed)
	b.record(fail("acme", "fine", missing), provision.StateCreated)

	for _, tc := range []struct {
		name string
		s    requester.Selection
		want []string
	}{
		{"one id", requester.Selection{IDs: []string{"plain"}}, []string{"plain secret_not_found 1"}},
		{"the latest try counts", requester.Selection{IDs: []string{"twice"}}, []string{"twice secret_not_found 2"}},
		{"messages that use its name don't", requester.Selection{IDs: []string{"used", "odd"}}, []string{"odd secret_not_found 1", "used secret_not_found 1"}},
		{"redacted", requester.Selection{IDs: []string{"secret"}}, []string{"secret plaintext_secret 0: its dead letter is"}},
		{"not failed", requester.Selection{IDs: []string{"made", "again"}}, []string{
			"again secret_not_found 0 over: it has not ended", "made secret_not_found 0 over: it has its connection"}},
		{"no record", requester.Selection{IDs: []string{"lost"}}, []string{"lost secret_not_found 1: its ledger record is"}},
		{"no letter", requester.Selection{IDs: []string{"letterless", "fine", "nobody"}}, []string{
			"nobody  0: no request with this", "fine  0 over: it has its connection", "letterless secret_not_found 0: the dead letter of"}},
		{"by reason", requester.Selection{Reasons: []provision.Reason{missing}}, []string{
			"again secret_not_found 0 over: it has not ended", "lost secret_not_found 1: its ledger record is", "made secret_not_found 0 over: it has its connection",
			"odd secret_not_found 1", "plain secret_not_found 1", "used secret_not_found 1", "twice secret_not_found 2"}},
		{"by the reason of an earlier try", requester.Selection{Reasons: []provision.Reason{provision.ReasonFlowDenied}}, nil},
		{"by a message's own reason", requester.Selection{Reasons: []provision.Reason{provision.ReasonInvalidRequest}}, nil},
		{"by reuse", requester.Selection{Reasons: []provision.Reason{provision.ReasonIDReused}}, []string{"used id_reused 0: it was other data"}},
		{"another source", requester.Selection{Source: "/t", Reasons: []provision.Reason{missing}}, nil},
		{"another tenant", requester.Selection{Tenant: "globex", Reasons: []provision.Reason{missing}}, nil},
		{"after that", requester.Selection{Since: time.Now().Add(time.Hour), Reasons: []provision.Reason{missing}}, nil},
	} {
		if diff := cmp.Diff(tc.want, b.retries(tc.s)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestRetriesOfAnAmbiguousID(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, tenant := range []string{"acme", "globex"} {
		f := fail(tenant, "r", provision.ReasonFlowRejected)
		b.letter(f)
		b.record(f, provision.StateFailed)
	}
	found, err := b.client.Retries(within(t), requester.Selection{IDs: []string{"r", "r"}})
	if !errors.Is(err, requester.ErrAmbiguous) || len(found.List) != 2 {
		t.Errorf("got %+v, %v", found, err)
	}
	if got := b.retries(requester.Selection{IDs: []string{"r"}, Tenant: "globex"}); !slices.Equal(got, []string{"r flow_rejected 1"}) {
		t.Errorf("got %q", got)
	}
}

func TestRetriesLimit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i, id := range []string{"third", "second", "first"} {
		f := fail("acme", id, provision.ReasonExpired)
		f.at = failedAt.Add(-time.Duration(i) * time.Minute)
		b.letter(f)
		b.record(f, provision.StateFailed)
	}
	f := fail("acme", "redacted", provision.ReasonExpired)
	f.at, f.body = failedAt.Add(-time.Hour), "no JSON"
	b.letter(f)
	b.record(f, provision.StateFailed)
	nobody := fail("Not A Tenant", "x", provision.ReasonInvalidRequest)
	b.letter(nobody)
	s := requester.Selection{Reasons: []provision.Reason{provision.ReasonExpired}, Limit: 2}
	found, err := b.client.Retries(within(t), s)
	if err != nil || found.More != 1 || found.Unnamed != 0 {
		t.Errorf("got %+v, %v; want one more", found, err)
	}
	for tenant, want := range map[string]int{"": 1, "acme": 0} {
		found, err := b.client.Retries(within(t), requester.Selection{Tenant: tenant, Reasons: []provision.Reason{provision.ReasonInvalidRequest}})
		if err != nil || found.Unnamed != want {
			t.Errorf("tenant %q: got %+v, %v; want %d unnamed", tenant, found, err, want)
		}
	}
	want := []string{"redacted expired 0: its dead letter is", "first expired 1", "second expired 1"}
	if diff := cmp.Diff(want, b.retries(s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Whatever form a request had and whatever its name: what comes back is the same request, as a retry.
func TestRequeuedIsTheSameRequest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	whole := `{"specversion":"1.0","id":"b%\"ä ","source":"/ x","type":"flowworker.connection.create.v1","data":` + data + `}`
	for name, original := range map[string]failure{
		"bare":       {headers: map[string][]string{event.HeaderMsgID: {"a b"}}, body: data},
		"nameless":   {body: data},
		"structured": {headers: map[string][]string{"Content-Type": {event.ContentType}, "traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}, body: whole},
		"binary": {body: data, headers: map[string][]string{"ce-id": {"%25%20%C3%A4"}, "CE-Source": {"/s"}, "ce-type": {event.TypeCreate},
			"ce-specversion": {"1.0"}, "Nats-Expected-Stream": {"x"}, event.HeaderRetry: {"3"}}},
	} {
		before := decoder.Decode("acme", original.headers, []byte(original.body), event.Meta{Seq: 9, Timestamp: failedAt, Delivered: 1})
		if before.Invalid != nil {
			t.Fatalf("%s: %v", name, before.Invalid)
		}
		original.key, original.reason, original.at, original.retry = before.Request.Key, provision.ReasonExpired, failedAt, before.Request.Retry
		headers := original.headers
		b.letter(failure{key: original.key, reason: original.reason, at: failedAt, headers: headers, body: original.body})
		b.record(original, provision.StateFailed)
		msg := b.requeue(original.key)
		after := decoder.Decode("acme", msg.Header, msg.Data, event.Meta{Seq: 10, Timestamp: failedAt, Delivered: 1})
		want := before.Request
		want.Retry++
		if diff := cmp.Diff(want, after.Request); diff != "" || after.Invalid != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, after.Invalid, diff)
		}
		if id := msg.Header.Get(event.HeaderMsgID); id == "" || id == "a b" {
			t.Errorf("%s: %s is %q, want a fresh one", name, event.HeaderMsgID, id)
		}
		for h := range msg.Header {
			if lower := strings.ToLower(h); h != event.HeaderRetry && strings.HasPrefix(lower, "flow-worker-") || lower == "nats-expected-stream" {
				t.Errorf("%s: header %s came back", name, h)
			}
		}
	}
}

// requeue sends the one request with this key again and returns the message.
func (b *bench) requeue(key provision.Key) *jetstream.RawStreamMsg {
	b.t.Helper()
	found, err := b.client.Retries(within(b.t), requester.Selection{IDs: []string{key.ID}, Source: key.Source})
	if err != nil || len(found.List) != 1 || found.List[0].Obstacle != "" {
		b.t.Fatalf("%s: got %+v, %v", key, found, err)
	}
	seq, err := b.client.Requeue(within(b.t), found.List[0])
	if err != nil {
		b.t.Fatal(err)
	}
	stream, err := b.js.Stream(within(b.t), requester.RequestStream)
	if err != nil {
		b.t.Fatal(err)
	}
	msg, err := stream.GetMsg(within(b.t), seq)
	if err != nil || msg.Subject != "connections.requests."+key.Tenant {
		b.t.Fatalf("%s: %+v, %v", key, msg, err)
	}
	return msg
}

func TestRequeueWithoutItsLetter(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	f := fail("acme", "r", provision.ReasonExpired)
	b.letter(f)
	b.record(f, provision.StateFailed)
	found, err := b.client.Retries(within(t), requester.Selection{IDs: []string{"r"}})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := b.js.Stream(within(t), requester.DeadLetterStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(within(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.Requeue(within(t), found.List[0]); err == nil || !strings.Contains(err.Error(), "just expired") {
		t.Errorf("got %v", err)
	}
	if err := b.js.DeleteStream(within(t), requester.DeadLetterStream); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.Requeue(within(t), found.List[0]); err == nil || !strings.Contains(err.Error(), "worker init") {
		t.Errorf("got %v", err)
	}
	if _, err := b.client.Retries(within(t), requester.Selection{IDs: []string{"r"}}); err == nil || !strings.Contains(err.Error(), "worker init") {
		t.Errorf("got %v", err)
	}
}
