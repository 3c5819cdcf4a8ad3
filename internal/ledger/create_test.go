package ledger_test

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/ledger"
)

// failing is a JetStream that can't make the next streams.
type failing struct {
	jetstream.JetStream
	err   error
	times int // how often, from now on
	calls int
}

func (f *failing) CreateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	if f.calls++; f.calls <= f.times {
		return nil, f.err
	}
	return f.JetStream.CreateStream(ctx, cfg)
}

// A server that has just deleted an account's last stream fails to make the next one for a moment.
func TestOpenTriesAgainWhereTheServerCouldNot(t *testing.T) {
	t.Parallel()
	busy := &jetstream.APIError{Code: 500, ErrorCode: 10049, Description: "error creating store for stream"}
	full := &jetstream.APIError{Code: 500, ErrorCode: 10047, Description: "insufficient storage resources available"}
	for name, c := range map[string]struct {
		js    failing
		calls int // 0: more than one
		want  error
	}{
		"twice":            {failing{err: busy, times: 2}, 3, nil},
		"always":           {failing{err: busy, times: 1000}, 0, busy},
		"for a good cause": {failing{err: full, times: 1000}, 1, full},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := &c.js
			js.JetStream = newServer(t)
			_, err := ledger.Open(testContext(t), js, ledger.Config{Manage: true})
			if !errors.Is(err, c.want) {
				t.Errorf("Open: %v, want %v", err, c.want)
			}
			if js.calls != c.calls && c.calls > 0 || js.calls < 2 && c.calls == 0 {
				t.Errorf("%d calls, want %d (0 means several)", js.calls, c.calls)
			}
		})
	}
}
