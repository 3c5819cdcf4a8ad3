package consumer_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestNoTenant(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		t.Errorf("%v was handled", d.Request.Key)
		return created(d)
	})
	w := r.runReady(cfg)
	for _, tenant := range []string{"ACME", "_invalid", "ä", "a=b", strings.Repeat("x", 64)} {
		r.publish("connections.requests."+tenant, `{"auth":{"params":{"accessToken":"dapi-secret"}}}`, "id-"+tenant)
	}
	r.awaitEmpty()
	r.end(w)
	letters := r.stored(consumer.StreamDeadLetters)
	if len(letters) != 5 {
		t.Errorf("%d dead letters, want 5", len(letters))
	}
	for _, l := range letters {
		if l.Subject != "connections.deadletters._invalid" || l.Header.Get("Flow-Worker-Reason") != "invalid_request" {
			t.Errorf("dead letter on %s with %v", l.Subject, l.Header)
		}
		if strings.Contains(string(l.Data), "dapi-secret") {
			t.Errorf("a secret is in the dead letter: %s", l.Data)
		}
	}
	if n := len(r.stored(consumer.StreamResults)); n != 0 {
		t.Errorf("%d results, want none", n)
	}
	r.wantMetric("deliveries_total", "term", 5)
}

// TestForeignSubjectIsNoTenant has a stream that takes more than requests: a subject that happens to
// look like a tenant must not become one.
func TestForeignSubjectIsNoTenant(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	s, err := r.js.Stream(r.ctx, consumer.StreamRequests)
	if err != nil {
		t.Fatal(err)
	}
	wide := s.CachedInfo().Config
	wide.Subjects = append(wide.Subjects, "acme", "connections.requests.acme.x")
	if _, err := r.js.UpdateStream(r.ctx, wide); err != nil {
		t.Fatal(err)
	}
	w := r.run(r.config(func(_ context.Context, d provision.Delivery) provision.Outcome {
		t.Errorf("%v was handled", d.Request.Key)
		return created(d)
	}))
	r.publish("acme", "{}", "1")
	r.publish("connections.requests.acme.x", "{}", "2")
	r.awaitEmpty()
	r.end(w)
	r.wantMetric("deliveries_total", "term", 2)
}

func TestNoTenantWaitsForItsDeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	mend := r.breakStream(consumer.StreamDeadLetters)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	cfg.PublishElapsed, cfg.DelayMax = time.Millisecond, 100*time.Millisecond
	w := r.run(cfg)
	r.publish("connections.requests.ACME", "{}", "1")
	r.eventually("it goes back", func() bool { return r.metric("deliveries_total", "nak") > 0 })
	if r.waiting() != 1 {
		t.Error("the message was ended before its dead letter was stored")
	}
	mend()
	r.awaitEmpty()
	r.end(w)
	if n := len(r.told(consumer.StreamDeadLetters)); n != 1 {
		t.Errorf("%d dead letters, want 1", n)
	}
}
