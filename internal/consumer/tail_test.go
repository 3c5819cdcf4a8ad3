package consumer_test

import (
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

// TestTailIsGivenBack stops the intake while a pull is open: what the pull still brings is there for others soon,
// not after the ack wait of an hour.
func TestTailIsGivenBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{AckWait: time.Hour})
	cfg, started, release := r.holding()
	cfg.Concurrency, cfg.PullExpires = 20, 5*time.Second
	w := r.runReady(cfg)
	r.submit("acme", "first")
	receive(r, started, "the first")
	w.stop()
	for _, id := range []string{"a", "b", "c"} {
		r.submit("acme", id) // the pull is still open for them
	}
	close(release)
	r.wantEnd(w, nil)

	cfg, started, release = r.holding()
	other := r.run(cfg)
	for range 3 {
		receive(r, started, "one that was given back")
	}
	close(release)
	r.awaitEmpty()
	r.end(other)
}
