package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

// How far status looks into the queue for a request that the ledger doesn't know. Messages are asked
// for one by one, so it must have an end.
const (
	queueDepth   = 2000
	queueTimeout = 5 * time.Second
)

// queuedRequest is what status --json prints of a request that no worker has taken up.
type queuedRequest struct {
	Key         provision.Key `json:"key"`
	State       string        `json:"state"` // "queued"
	RequestedAt time.Time     `json:"requestedAt"`
	Seq         uint64        `json:"seq"` // in the stream of requests
	Note        string        `json:"note,omitempty"`
}

// queued tells of a request that the ledger doesn't know: perhaps its message waits in the queue.
func (q *statusQuery) queued(ctx context.Context, client requester.Reader, js jetstream.JetStream, id string) error {
	found, all := q.search(ctx, js, id)
	switch {
	case len(found) == 0 && all:
		return fmt.Errorf("no worker has taken up a request with id %q, nor is it in the queue; its record may have expired: check the id, --tenant and --source", id)
	case len(found) == 0:
		return fmt.Errorf("no worker has taken up a request with id %q yet, and it is not among the first in the queue; check the id, --tenant and --source", id)
	}
	first := found[0]
	for _, d := range found {
		if d.Request.Key != first.Request.Key {
			return usagef("several requests with this id wait in the queue; say which by --tenant and --source")
		}
	}
	view := queuedRequest{first.Request.Key, "queued", first.EnteredAt, first.Seq, queueNote(ctx, js)}
	if err := q.printQueued(view); err != nil || !q.watch {
		return err
	}
	return q.follow(ctx, client, provision.Record{Key: view.Key})
}

func (q *statusQuery) printQueued(v queuedRequest) error {
	if q.asJSON {
		return q.printJSON(v)
	}
	return q.printTable(story.Queued(v.Key, v.RequestedAt, v.Note)...)
}

// search looks for the id in the queue, as far as that is allowed and quick. It reports whether it saw
// the whole queue.
func (q *statusQuery) search(ctx context.Context, js jetstream.JetStream, id string) ([]provision.Delivery, bool) {
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	queue, err := consumer.OpenQueue(ctx, js, &event.Decoder{})
	if err != nil {
		return nil, false
	}
	found, all, err := queue.Find(ctx, q.tenant, queueDepth, func(d provision.Delivery) bool {
		return d.Request.Key.ID == id && (q.source == "" || d.Request.Key.Source == q.source)
	})
	return found, all && err == nil
}

// queueNote says why a request may have to wait, nothing if that is not known.
func queueNote(ctx context.Context, js jetstream.JetStream) string {
	from, err := js.Consumer(ctx, consumer.StreamRequests, consumer.ConsumerName)
	if err != nil {
		return ""
	}
	switch info := from.CachedInfo(); {
	case info.Paused:
		return "the intake of all workers is paused" + remaining(info.PauseRemaining) + `; "worker resume" ends it`
	case info.NumWaiting == 0 && info.NumAckPending == 0:
		return "no worker asks for requests; is one running?"
	}
	return ""
}
