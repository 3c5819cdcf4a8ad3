package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go/jetstream"
)

// streamCreateFailed is JetStream's error code (JSStreamCreateErrF, with status 500) for a stream that
// the server could not make, whatever the cause.
const streamCreateFailed jetstream.ErrorCode = 10049

// anewAfter is how long a bucket that was there has to be missed before it is made anew. While a server
// (2.15.2) is still deleting a stream it already says that there is none, and makes another one from the
// files of the first: that has the old state, its files are then deleted below it, and it never
// confirms a message.
const anewAfter = time.Second

// find looks for the bucket's stream, once more after anewAfter if it was there before and may be made anew.
func find(ctx context.Context, js jetstream.JetStream, cfg Config) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, streamPrefix+cfg.Bucket)
	if !errors.Is(err, jetstream.ErrStreamNotFound) || !cfg.Manage || cfg.Guard == nil || cfg.Guard.reached(0) == 0 {
		return stream, err
	}
	select {
	case <-time.After(anewAfter):
		return js.Stream(ctx, streamPrefix+cfg.Bucket)
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", err, ctx.Err())
	}
}

// createStream makes a stream, and tries again for a second or so where the server could not: one that
// has just deleted an account's last stream is still removing that account's folder from below the new one
// ("could not create storage directory" in the log of nats-server 2.15.2).
func createStream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig) error {
	pauses := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(20*time.Millisecond), backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(time.Second))
	return backoff.Retry(func() error {
		_, err := js.CreateStream(ctx, cfg)
		var api *jetstream.APIError
		if err != nil && !(errors.As(err, &api) && api.ErrorCode == streamCreateFailed) {
			return backoff.Permanent(err)
		}
		return err
	}, backoff.WithContext(pauses, ctx))
}
