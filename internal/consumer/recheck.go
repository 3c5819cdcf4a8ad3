package consumer

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Recheck makes the intake look at the streams, the consumer and the ledger again where err says that
// one of them is not there: it stops, Ready says why, and goes on once Config.Objects are as they must
// be, with growing waits between its looks. Any other error, and nil, change nothing. It does not wait.
func (c *Consumer) Recheck(err error) {
	if !missing(err) {
		return
	}
	select {
	case c.suspect <- fmt.Errorf("an object is gone, or JetStream has no leader for it: %w", err):
	default: // a look is due already
	}
}

// missing knows the errors of calls to streams and buckets that are not there. A server that has no
// leader for one at the moment gives the same.
func missing(err error) bool {
	for _, one := range []error{
		nats.ErrNoResponders, jetstream.ErrNoStreamResponse, jetstream.ErrStreamNotFound, jetstream.ErrBucketNotFound,
	} {
		if errors.Is(err, one) {
			return true
		}
	}
	return false
}
