package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go/jetstream"
)

// streamCreateFailed is JetStream's error code (JSStreamCreateErrF, with status 500) for a stream that
// the server could not make, whatever the cause.
const streamCreateFailed jetstream.ErrorCode = 10049

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
