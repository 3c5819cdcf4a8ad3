package consumer_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// breakStream makes a stream refuse every message until the returned function is called.
func (r *rig) breakStream(name string) (mend func()) {
	r.t.Helper()
	s, err := r.js.Stream(r.ctx, name)
	if err != nil {
		r.t.Fatal(err)
	}
	whole := s.CachedInfo().Config
	broken := whole
	broken.MaxMsgs, broken.Discard = 1, jetstream.DiscardNew
	if _, err := r.js.UpdateStream(r.ctx, broken); err != nil {
		r.t.Fatal(err)
	}
	subject := strings.ReplaceAll(whole.Subjects[0], "*", "filler")
	if _, err := r.js.Publish(r.ctx, subject, nil); err != nil {
		r.t.Fatal(err)
	}
	return func() {
		if _, err := r.js.UpdateStream(r.ctx, whole); err != nil {
			r.t.Error(err)
		}
	}
}

// told returns the messages of a stream but for breakStream's own.
func (r *rig) told(stream string) []*jetstream.RawStreamMsg {
	r.t.Helper()
	var all []*jetstream.RawStreamMsg
	for _, m := range r.stored(stream) {
		if !strings.Contains(m.Subject, "filler") {
			all = append(all, m)
		}
	}
	return all
}

// TestOrderOfTelling breaks each stream in turn: what comes after it must not have happened, and the
// next delivery tells the same again.
func TestOrderOfTelling(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		broken           string
		letters, results int // stored while it is broken
	}{
		{consumer.StreamDeadLetters, 0, 0},
		{consumer.StreamResults, 1, 0},
	} {
		t.Run(c.broken, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, natstest.Options{})
			r.ensure(consumer.ObjectsConfig{})
			mend := r.breakStream(c.broken)
			settled := make(chan provision.Delivery, 10)
			cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
				out := failed(d)
				out.Repeat, out.Resumed = d.Delivered > 1, d.Delivered > 1
				return out
			})
			cfg.PublishElapsed = time.Millisecond
			cfg.DelayMax = 100 * time.Millisecond
			cfg.OnSettled = func(d provision.Delivery, _ provision.Outcome) { settled <- d }
			w := r.run(cfg)
			r.submit("acme", "bad")
			receive(r, settled, "settlement")
			if l, n := len(r.told(consumer.StreamDeadLetters)), len(r.told(consumer.StreamResults)); l != c.letters || n != c.results {
				t.Errorf("%d dead letters and %d results are stored, want %d and %d", l, n, c.letters, c.results)
			}
			if r.waiting() != 1 {
				t.Error("the request is gone although its outcome isn't told")
			}
			r.wantMetric("requests_total", "failed", 0)
			mend()
			r.awaitEmpty()
			r.end(w)
			if l, n := len(r.told(consumer.StreamDeadLetters)), len(r.told(consumer.StreamResults)); l != 1 || n != 1 {
				t.Errorf("%d dead letters and %d results are stored in the end, want 1 and 1", l, n)
			}
			r.wantMetric("requests_total", "failed", 1) // told again, but for the message that asked for it
			r.wantMetric("requests_total", "duplicate", 0)
			r.wantMetric("deliveries_total", "ack", 1)
		})
	}
}

// TestUntoldWithoutStreams loses the results stream for good: the message stays, and nothing spins.
func TestResultsStreamIsGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	settled := make(chan provision.Delivery, 10)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	cfg.PublishElapsed = time.Millisecond
	cfg.OnSettled = func(d provision.Delivery, _ provision.Outcome) { settled <- d }
	w := r.runReady(cfg)
	if err := r.js.DeleteStream(r.ctx, consumer.StreamResults); err != nil {
		t.Fatal(err)
	}
	r.submit("acme", "x")
	receive(r, settled, "settlement")
	if r.waiting() != 1 {
		t.Error("the request is gone although its outcome isn't told")
	}
	r.end(w)
	r.wantMetric("deliveries_total", "nak", 1)
	r.wantMetric("requests_total", "created", 0)
}

func TestRepeatForAnotherMessageIsADuplicate(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	var first provision.Delivery
	settled := make(chan provision.Delivery, 10)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		if first.Seq == 0 {
			first = d
			return created(d)
		}
		out := created(first)
		out.Repeat = true
		return out
	})
	cfg.Concurrency = 1
	cfg.OnSettled = func(d provision.Delivery, _ provision.Outcome) { settled <- d }
	w := r.runReady(cfg)
	r.submit("acme", "1")
	receive(r, settled, "settlement")
	r.submit("acme", "2")
	receive(r, settled, "settlement")
	r.end(w)
	if n := len(r.stored(consumer.StreamResults)); n != 1 {
		t.Errorf("%d results are stored, want 1: the stream knows their id", n)
	}
	r.wantMetric("requests_total", "created", 1)
	r.wantMetric("requests_total", "duplicate", 1)
	r.wantMetric("deliveries_total", "ack", 2)
}

// TestPoison sends what no decoder likes; every message has to end as its request's failure.
func TestPoison(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		if d.Invalid == nil {
			t.Errorf("%v was taken for valid", d.Request.Key)
			return created(d)
		}
		out := failed(d)
		out.Result.Error = d.Invalid
		return out
	})
	w := r.runReady(cfg)
	bodies := []string{"", "\x00\xff", "null", "[]", "{", strings.Repeat("[", 100_000), `{"specversion":1}`, strings.Repeat("x", 300<<10)}
	for i, body := range bodies {
		r.publish("connections.requests.acme", body, strings.Repeat("i", i+1))
	}
	r.awaitEmpty()
	r.end(w)
	if l, n := len(r.stored(consumer.StreamDeadLetters)), len(r.stored(consumer.StreamResults)); l != len(bodies) || n != len(bodies) {
		t.Errorf("%d dead letters and %d results, want %d of each", l, n, len(bodies))
	}
	r.wantMetric("request_failures_total", "invalid_request", float64(len(bodies)))
}

// TestTooLargeToTell lets the streams take less than what there is to tell.
func TestTooLargeToTell(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	for _, name := range []string{consumer.StreamDeadLetters, consumer.StreamResults} {
		s, err := r.js.Stream(r.ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		small := s.CachedInfo().Config
		small.MaxMsgSize = 4000
		if _, err := r.js.UpdateStream(r.ctx, small); err != nil {
			t.Fatal(err)
		}
	}
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		out := failed(d)
		out.Result.Error.Message = strings.Repeat("ä", 3000)
		return out
	})
	w := r.run(cfg)
	r.publish("connections.requests.acme", `{"name":"`+strings.Repeat("n", 10_000)+`"}`, "large")
	r.awaitEmpty()
	r.end(w)
	letters, results := r.stored(consumer.StreamDeadLetters), r.stored(consumer.StreamResults)
	if len(letters) != 1 || len(results) != 1 {
		t.Fatalf("%d dead letters and %d results, want 1 and 1", len(letters), len(results))
	}
	if l := letters[0]; l.Header.Get("Flow-Worker-Redacted") != "true" || len(l.Data) > 1000 {
		t.Errorf("dead letter with %d bytes and %v", len(l.Data), l.Header)
	}
	res, err := event.DecodeResult(results[0].Data)
	if err != nil || !strings.HasSuffix(res.Error.Message, "ä…") || res.Error.Reason != provision.ReasonFlowRejected {
		t.Errorf("result %+v, %v", res.Error, err)
	}
}

// TestOutcomeThatIsNone can't be told to anybody: the message stays and the error is logged.
func TestOutcomeThatIsNone(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	settled := make(chan struct{}, 1)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		out := created(d)
		out.Result.Outcome = "surprising"
		return out
	})
	cfg.PublishElapsed = time.Millisecond
	cfg.OnSettled = func(provision.Delivery, provision.Outcome) { settled <- struct{}{} }
	w := r.runReady(cfg)
	r.submit("acme", "x")
	receive(r, settled, "settlement")
	if r.waiting() != 1 {
		t.Error("the request is gone")
	}
	r.end(w)
	r.wantMetric("deliveries_total", "nak", 1)
}

// TestAckIsNotConfirmed deletes the consumer while a message is worked on.
func TestAckIsNotConfirmed(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	seen := make(chan uint64, 10)
	cfg := r.config(func(ctx context.Context, d provision.Delivery) provision.Outcome {
		if d.Request.Key.ID == "x" && len(seen) == 0 {
			err := r.js.DeleteConsumer(ctx, consumer.StreamRequests, consumer.ConsumerName)
			if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
				t.Error(err)
			}
		}
		seen <- d.Delivered
		return created(d)
	})
	cfg.PublishTimeout, cfg.PublishElapsed = 2*time.Second, time.Millisecond
	cfg.Concurrency = 1
	w := r.run(cfg)
	r.submit("acme", "x")
	// The consumer is made anew, and the message delivered again: it was not acknowledged.
	r.awaitEmpty()
	r.end(w)
	if len(seen) != 2 || len(r.stored(consumer.StreamResults)) != 1 {
		t.Errorf("%d deliveries and %d results, want 2 and 1", len(seen), len(r.stored(consumer.StreamResults)))
	}
	r.wantMetric("deliveries_total", "abandoned", 1)
	r.wantMetric("deliveries_total", "ack", 1)
}

// The dead letter of a message that was refused by itself has an id of its own: the stream must not take
// that of the request's own failure for a repeat of it.
func TestDeadLetterOfARefusedMessageIsItsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	first := true
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		out := failed(d)
		out.Detached, first = first, false
		return out
	})
	cfg.Concurrency = 1
	w := r.runReady(cfg)
	for range 2 {
		m := nats.NewMsg("connections.requests.acme") // without a message id, which the stream would take for a repeat's
		for name, value := range map[string]string{"ce-specversion": "1.0", "ce-id": "x", "ce-source": "/test", "ce-type": "flowworker.connection.create.v1"} {
			m.Header.Set(name, value)
		}
		if _, err := r.js.PublishMsg(r.ctx, m); err != nil {
			t.Fatal(err)
		}
		r.eventually("an empty queue", func() bool { return r.waiting() == 0 })
	}
	if n := len(r.told(consumer.StreamDeadLetters)); n != 2 {
		t.Errorf("%d dead letters, want 2", n)
	}
	r.end(w)
}

// feed passes on every write.
type feed chan []byte

func (l feed) Write(p []byte) (int, error) {
	l <- append([]byte(nil), p...)
	return len(p), nil
}

// Age and delay are numbers of seconds, and the delay is the one that was sent: within its bounds.
func TestSettledInSeconds(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	log := make(feed, 1000)
	cfg := r.config(func(context.Context, provision.Delivery) provision.Outcome {
		return provision.Outcome{Why: "later", Delay: time.Hour}
	})
	cfg.DelayMax, cfg.Log = 20*time.Second, slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w := r.run(cfg)
	r.submit("acme", "x")
	var got struct {
		Msg   string   `json:"msg"`
		Why   string   `json:"why"`
		Age   *float64 `json:"age_seconds"`
		Delay float64  `json:"delay_seconds"`
	}
	for got.Msg != "message settled" {
		if err := json.Unmarshal(receive(r, log, "line in the log"), &got); err != nil {
			t.Fatal(err)
		}
	}
	if got.Why != "later" || got.Delay != 20 || got.Age == nil || *got.Age > 60 {
		t.Errorf("got %+v", got)
	}
	r.end(w)
}
