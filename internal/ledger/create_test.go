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

// deleting is a JetStream that is in the middle of deleting the bucket, for so many looks: it says that there
// is none.
type deleting struct {
	jetstream.JetStream
	looks, made int
}

func (d *deleting) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	if d.looks--; d.looks >= 0 {
		return nil, jetstream.ErrStreamNotFound
	}
	return d.JetStream.Stream(ctx, name)
}

func (d *deleting) CreateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	d.made++
	return d.JetStream.CreateStream(ctx, cfg)
}

// A bucket that is made anew amid its deletion would never confirm a write, so who knows it looks for it once
// more before.
func TestNoBucketIsMadeAmidItsDeletion(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newServer(t))
	p.written("x")
	for name, c := range map[string]struct {
		guard *ledger.Guard
		looks int
		made  int
	}{
		"who knows the bucket":           {p.guard, 1, 0},
		"who knows one that stays away":  {p.guard, 2, 1},
		"who has seen no bucket before":  {&ledger.Guard{}, 1, 1},
		"who only opens it for a moment": {nil, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := &deleting{JetStream: p.js, looks: c.looks}
			if _, err := ledger.Open(testContext(t), js, ledger.Config{Manage: true, Guard: c.guard}); err != nil {
				t.Fatal(err)
			}
			if js.made != c.made {
				t.Errorf("%d were made, want %d", js.made, c.made)
			}
		})
	}
}
