package consumer_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestNewNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := consumer.New(consumer.Config{Concurrency: -1, DelayMax: -1, PullExpires: time.Millisecond})
	for _, field := range []string{"JS", "Handle", "Codec", "Concurrency", "DelayMax", "PullExpires"} {
		if err == nil || !strings.Contains(err.Error(), "Config."+field+" ") {
			t.Errorf("New does not name %s: %v", field, err)
		}
	}
}

func TestCreatedIsToldThenAcknowledged(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	started, settled := make(chan provision.Delivery, 1), make(chan provision.Outcome, 1)
	cfg.OnStart = func(d provision.Delivery) { started <- d }
	cfg.OnSettled = func(_ provision.Delivery, out provision.Outcome) { settled <- out }
	w := r.runReady(cfg)
	r.submit("acme", "one")
	d := receive(r, started, "start")
	if want := (provision.Key{Tenant: "acme", Source: "nats", ID: "one"}); d.Request.Key != want {
		t.Errorf("key %v, want %v", d.Request.Key, want)
	}
	if d.Seq != 1 || d.Delivered != 1 || d.EnteredAt.IsZero() {
		t.Errorf("delivery %+v", d)
	}
	receive(r, settled, "settlement")
	results := r.stored(consumer.StreamResults)
	if len(results) != 1 || results[0].Subject != "connections.results.acme.created" {
		t.Fatalf("results: %v", results)
	}
	res, err := event.DecodeResult(results[0].Data)
	if err != nil || res.Connection.ID != "c-one" || results[0].Header.Get("Nats-Msg-Id") != res.EventID {
		t.Errorf("result %+v, headers %v, %v", res, results[0].Header, err)
	}
	if n := r.waiting(); n != 0 {
		t.Errorf("%d requests are left", n)
	}
	if n := len(r.stored(consumer.StreamDeadLetters)); n != 0 {
		t.Errorf("%d dead letters of a request that succeeded", n)
	}
	r.end(w)
	r.wantMetric("requests_total", "created", 1)
	r.wantMetric("deliveries_total", "ack", 1)
	r.wantMetric("requests_in_flight", "", 0)
}

func TestFailedGoesToTheDeadLettersToo(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	settled := make(chan provision.Delivery, 1)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return failed(d) })
	cfg.OnSettled = func(d provision.Delivery, _ provision.Outcome) { settled <- d }
	w := r.runReady(cfg)
	r.submit("acme", "bad")
	d := receive(r, settled, "settlement")
	letters, results := r.stored(consumer.StreamDeadLetters), r.stored(consumer.StreamResults)
	if len(letters) != 1 || len(results) != 1 {
		t.Fatalf("%d dead letters, %d results", len(letters), len(results))
	}
	l := letters[0]
	if l.Subject != "connections.deadletters.acme" || l.Header.Get("Flow-Worker-Reason") != "flow_rejected" ||
		l.Header.Get("Flow-Worker-Request-Key") != d.Request.Key.String() || l.Header.Get("Nats-Msg-Id") == "bad" {
		t.Errorf("dead letter on %s with %v", l.Subject, l.Header)
	}
	if results[0].Time.Before(l.Time) {
		t.Error("the result was stored before the dead letter")
	}
	r.end(w)
	r.wantMetric("requests_total", "failed", 1)
	r.wantMetric("request_failures_total", "flow_rejected", 1)
}

func TestGiveBackRestsAndComesAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	seen := make(chan uint64, 10)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		seen <- d.Delivered
		if d.Delivered < 3 {
			return provision.Outcome{Delay: time.Duration(d.Delivered-2) * time.Hour, Why: "not now"} // negative and zero
		}
		return created(d)
	})
	cfg.DelayMax = 100 * time.Millisecond
	w := r.runReady(cfg)
	r.submit("acme", "later")
	for want := uint64(1); want <= 3; want++ {
		if got := receive(r, seen, "delivery"); got != want {
			t.Errorf("delivery %d, want %d", got, want)
		}
	}
	r.awaitEmpty()
	r.end(w)
	r.wantMetric("deliveries_total", "nak", 2)
	r.wantMetric("deliveries_total", "ack", 1)
	r.wantMetric("requests_total", "created", 1)
}

func TestPanicsAreContained(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	settled := make(chan string, 10)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		if d.Request.Key.ID == "handler" && d.Delivered == 1 {
			panic("boom")
		}
		return created(d)
	})
	cfg.DelayMax = 100 * time.Millisecond
	cfg.OnSettled = func(d provision.Delivery, _ provision.Outcome) { settled <- d.Request.Key.ID }
	w := r.runReady(cfg)
	r.submit("acme", "handler")
	if got := receive(r, settled, "settlement"); got != "handler" {
		t.Errorf("settled: %v", got)
	}
	r.end(w)
	r.wantMetric("deliveries_total", "nak", 1)
	r.wantMetric("requests_in_flight", "", 0)
}

// buggy is a codec that panics over every message, or over every dead letter.
type buggy struct {
	consumer.Codec
	letters bool
}

func (b buggy) Decode(tenant string, h map[string][]string, body []byte, meta event.Meta) provision.Delivery {
	if !b.letters {
		panic("boom")
	}
	return b.Codec.Decode(tenant, h, body, meta)
}

func (b buggy) DeadLetter(l event.Letter) event.Message {
	if b.letters {
		panic("boom")
	}
	return b.Codec.DeadLetter(l)
}

// TestPanicOfTheDecoderIsFinal: it would come again with every delivery. One result and one dead letter
// say so, and the letter holds nothing of a body that nobody has understood.
func TestPanicOfTheDecoderIsFinal(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	seen := make(chan provision.Delivery, 1)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		seen <- d
		out := failed(d)
		out.Result.Error = d.Invalid
		return out
	})
	cfg.Codec = buggy{Codec: cfg.Codec}
	w := r.runReady(cfg)
	const body = `{"password":"s3cret"}`
	r.publish("connections.requests.acme", body, "m-1")
	d := receive(r, seen, "delivery")
	r.awaitEmpty()
	r.end(w)
	if d.Invalid == nil || d.Invalid.Reason != provision.ReasonInternal || !strings.Contains(d.Invalid.Message, "log_id") ||
		d.Request.Key != (provision.Key{Tenant: "acme", Source: "nats", ID: "m-1"}) {
		t.Errorf("%+v: %v", d, d.Invalid)
	}
	letters := r.stored(consumer.StreamDeadLetters)
	if len(letters) != 1 || len(r.stored(consumer.StreamResults)) != 1 {
		t.Fatalf("%d dead letters, %d results", len(letters), len(r.stored(consumer.StreamResults)))
	}
	sum := sha256.Sum256([]byte(body))
	want := fmt.Sprintf(`{"bytes":%d,"sha256":"%x"}`, len(body), sum)
	if l := letters[0]; string(l.Data) != want || l.Header.Get("Flow-Worker-Redacted") != "true" || l.Header.Get("Flow-Worker-Reason") != "internal" {
		t.Errorf("dead letter %s %v", l.Data, l.Header)
	}
	r.wantMetric("deliveries_total", "ack", 1)
	r.wantMetric("deliveries_total", "nak", 0)
}

// TestPanicOverADeadLetter leaves less of the message, but it is told.
func TestPanicOverADeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return failed(d) })
	cfg.Codec = buggy{Codec: cfg.Codec, letters: true}
	w := r.runReady(cfg)
	r.publish("connections.requests.acme", "{}", "m-1")
	r.publish("connections.requests._NO", "{}", "m-2")
	r.awaitEmpty()
	r.end(w)
	letters := r.stored(consumer.StreamDeadLetters)
	for _, l := range letters {
		if !strings.HasPrefix(string(l.Data), `{"bytes":2,`) {
			t.Errorf("dead letter %s", l.Data)
		}
	}
	if len(letters) != 2 {
		t.Errorf("%d dead letters, want 2", len(letters))
	}
}

func TestTwoConsumersShare(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	const messages = 30
	var mu sync.Mutex
	seen := map[string]int{}
	handle := func(_ context.Context, d provision.Delivery) provision.Outcome {
		mu.Lock()
		defer mu.Unlock()
		seen[d.Request.Key.ID]++
		return created(d)
	}
	cfg := r.config(handle)
	first := r.run(cfg)
	cfg.JS, cfg.Metrics = connect(t, r.server.ClientURL()), nil
	second := r.run(cfg)
	r.eventually("ready", func() bool { return first.Ready() == nil && second.Ready() == nil })
	r.submitMany("acme", messages)
	r.awaitEmpty()
	r.end(first)
	r.end(second)
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s was handled %d times", id, n)
		}
	}
	if len(seen) != messages || len(r.stored(consumer.StreamResults)) != messages {
		t.Errorf("%d handled, %d results, want %d", len(seen), len(r.stored(consumer.StreamResults)), messages)
	}
}
