package consumer

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// TestTailIsGivenBack ends a pull that has received more than was begun: the rest must be there for
// others at once, not after the ack wait of an hour.
func TestTailIsGivenBack(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	js := natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL())
	c, err := New(Config{JS: js, Codec: &event.Decoder{}, Handle: func(context.Context, provision.Delivery) provision.Outcome {
		return provision.Outcome{}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureObjects(ctx, js, ObjectsConfig{Manage: true, AckWait: time.Hour}); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := js.Publish(ctx, "connections.requests.acme", nil, jetstream.WithMsgID(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	from, err := js.Consumer(ctx, StreamRequests, ConsumerName)
	if err != nil {
		t.Fatal(err)
	}
	received := pullAll(ctx, t, from)
	c.giveBackTail(received)

	again, err := from.Messages(jetstream.PullMaxMessages(10))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	for i := range 4 {
		msg, err := again.Next(jetstream.NextContext(ctx))
		if err != nil {
			t.Fatalf("message %d of 4 did not come back: %v", i+1, err)
		}
		if meta, err := msg.Metadata(); err != nil || meta.NumDelivered != 2 {
			t.Errorf("delivery %+v, %v, want the second", meta, err)
		}
	}
}

// pullAll has all five messages delivered and takes one of them.
func pullAll(ctx context.Context, t *testing.T, from jetstream.Consumer) jetstream.MessagesContext {
	t.Helper()
	messages, err := from.Messages(jetstream.PullMaxMessages(5), jetstream.PullThresholdMessages(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := messages.Next(jetstream.NextContext(ctx)); err != nil {
		t.Fatal(err)
	}
	for {
		info, err := from.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if info.NumAckPending == 5 {
			return messages
		}
	}
}
