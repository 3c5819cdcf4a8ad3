package consumer_test

import (
	"context"
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
	cfg.Codec = &moody{Codec: cfg.Codec}
	cfg.DelayMax = 100 * time.Millisecond
	cfg.OnSettled = func(d provision.Delivery, _ provision.Outcome) { settled <- d.Request.Key.ID }
	w := r.runReady(cfg)
	r.submit("acme", "decoder")
	r.submit("acme", "handler")
	got := map[string]bool{receive(r, settled, "settlement"): true, receive(r, settled, "settlement"): true}
	if !got["decoder"] || !got["handler"] {
		t.Errorf("settled: %v", got)
	}
	r.end(w)
	r.wantMetric("deliveries_total", "nak", 2)
	r.wantMetric("requests_in_flight", "", 0)
}

// moody is a codec that panics over the first delivery of the message "decoder".
type moody struct{ consumer.Codec }

func (m *moody) Decode(tenant string, h map[string][]string, body []byte, meta event.Meta) provision.Delivery {
	d := m.Codec.Decode(tenant, h, body, meta)
	if d.Request.Key.ID == "decoder" && meta.Delivered == 1 {
		panic("boom")
	}
	return d
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
