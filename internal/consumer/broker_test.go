package consumer_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	cfg, started, release := r.holding()
	cfg.PublishElapsed = time.Minute
	w := r.runReady(cfg)
	r.submit("acme", "before")
	receive(r, started, "start")
	r.server.Stop()
	r.eventually("not ready", func() bool { return w.Ready() != nil })
	close(release) // its result has to wait for the broker
	if err := r.server.Restart(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.eventually("ready again", func() bool { return w.Ready() == nil })
	r.submit("acme", "after")
	r.awaitEmpty()
	r.end(w)
	if n := len(r.stored(consumer.StreamResults)); n != 2 {
		t.Errorf("%d results, want 2", n)
	}
}

func TestStartWithoutBroker(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.server.Stop()
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	cfg.JS = connect(t, r.server.ClientURL())
	w := r.run(cfg)
	if err := w.Ready(); err == nil {
		t.Error("ready without a broker")
	}
	r.wantMetric("nats_connected", "", 0)
	if err := r.server.Restart(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.eventually("ready", func() bool { return w.Ready() == nil })
	r.wantMetric("nats_connected", "", 1)
	r.end(w)
}

func TestStopWithoutBroker(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	cfg.PublishTimeout = 100 * time.Millisecond
	w := r.runReady(cfg)
	r.server.Stop()
	r.eventually("not connected", func() bool { return !w.Status().Connected })
	r.end(w)
}

func TestConnectionClosed(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	cfg.JS = connect(t, r.server.ClientURL())
	w := r.runReady(cfg)
	cfg.JS.Conn().Close()
	r.wantEnd(w, consumer.ErrConnectionClosed)
}

func TestConsumerDeleted(t *testing.T) {
	t.Parallel()
	for _, manage := range []bool{true, false} {
		t.Run(fmt.Sprint("manage ", manage), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, natstest.Options{})
			r.ensure(consumer.ObjectsConfig{})
			cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
			cfg.Objects.Manage = manage
			w := r.runReady(cfg)
			if err := r.js.DeleteConsumer(r.ctx, consumer.StreamRequests, consumer.ConsumerName); err != nil {
				t.Fatal(err)
			}
			r.submit("acme", "x")
			if !manage {
				r.eventually("not ready, with the remedy", func() bool {
					err := w.Ready()
					return err != nil && strings.Contains(err.Error(), "worker init")
				})
				r.ensure(consumer.ObjectsConfig{})
			}
			r.awaitEmpty()
			r.eventually("ready again", func() bool { return w.Ready() == nil })
			r.end(w)
		})
	}
}

func TestStreamsDeleted(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	ledgers := make(chan struct{}, 100)
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	cfg.Objects.Ledger = func(context.Context) error { ledgers <- struct{}{}; return nil }
	w := r.runReady(cfg)
	receive(r, ledgers, "ledger")
	for _, name := range []string{consumer.StreamDeadLetters, consumer.StreamResults, consumer.StreamRequests} {
		if err := r.js.DeleteStream(r.ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	receive(r, ledgers, "second look at the ledger")
	r.eventually("streams anew", func() bool {
		_, err := r.js.Stream(r.ctx, consumer.StreamRequests)
		return err == nil
	})
	r.submit("acme", "x")
	r.awaitEmpty()
	r.end(w)
}
