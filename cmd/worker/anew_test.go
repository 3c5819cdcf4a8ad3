package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

// The workers have the queue delivered anew where messages were lost sight of, if need be while they
// work on it. Here that happens again and again, to two workers at their POSTs: no request makes two
// connections, has two outcomes, or fails for it.
func TestAQueueThatIsDeliveredAnewAmidWork(t *testing.T) {
	t.Parallel()
	const requests, resets = 30, 8
	w := newTestWorld(t)
	w.environ = append(w.environ, "WORKER_SETTLE=500ms", "FLOW_TIMEOUT=3s", "WORKER_RETRY_DELAY_MAX=300ms", "WORKER_ACK_WAIT=2s", "WORKER_REDELIVERY_DELAY_MAX=1s")
	w.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectLatency, Delay: 200 * time.Millisecond})
	w.flow.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectStatus, Status: 503, Probability: 0.2})
	w.start()
	other := &testWorld{t: t, environ: w.environ, natsURL: w.natsURL, flow: w.flow, vault: w.vault}
	other.start()
	js := w.jetStream()
	for i := range requests {
		body := request(fmt.Sprint("connection ", i), goodToken)
		if _, err := js.Publish(t.Context(), "connections.requests.acme", []byte(body), jetstream.WithMsgID(fmt.Sprint("r-", i))); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	again := time.NewTicker(150 * time.Millisecond)
	defer again.Stop()
	for done := 0; done < resets || messages(t, js, consumer.StreamRequests) > 0; done++ {
		if done < resets {
			if _, err := js.ResetConsumerToSequence(t.Context(), consumer.StreamRequests, consumer.ConsumerName, 1); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatal("the queue does not get empty")
		}
	}
	if n := messages(t, js, consumer.StreamResults); n != requests {
		t.Errorf("%d results, want %d", n, requests)
	}
	if n := messages(t, js, consumer.StreamDeadLetters); n != 0 {
		t.Errorf("%d requests failed", n)
	}
	marks := w.flow.Marks()
	for mark, ids := range marks {
		if len(ids) != 1 {
			t.Errorf("%d connections with the mark %s", len(ids), mark)
		}
	}
	if len(marks) != requests {
		t.Errorf("%d requests have their connections, want %d", len(marks), requests)
	}
	if w.stopWorker()+other.stopWorker() != exitOK || strings.Contains(w.log.String()+other.log.String(), "crash_loop") {
		t.Error("the workers did not end well")
	}
}

func messages(t *testing.T, js jetstream.JetStream, stream string) uint64 {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}
