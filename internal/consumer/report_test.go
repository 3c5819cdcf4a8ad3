package consumer_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

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
