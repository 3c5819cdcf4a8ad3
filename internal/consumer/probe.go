package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// wrote tells Config.OnWrite what is to be told.
func (c *Consumer) wrote(object string, err error) {
	if !tooLarge(err) && !errors.Is(err, context.Canceled) {
		c.OnWrite(object, err)
	}
}

// ProbeStream asks whether the stream of results or of dead letters is there, has a leader, and has room. It publishes
// nothing, not even what the stream would refuse, for those who subscribe to its subjects would get that. So nil is no
// proof: storing may fail all the same, or not be allowed.
func (c *Consumer) ProbeStream(ctx context.Context, stream string) error {
	info, err := c.JS.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("stream %s: %w", stream, err)
	}
	if cluster := info.CachedInfo().Cluster; cluster != nil && cluster.Leader == "" {
		return fmt.Errorf("stream %s has no leader", stream)
	}
	return Room(info.CachedInfo())
}

// roomBytes is how much a stream has to have left: as much as a common record, result or dead letter.
const roomBytes = 4 << 10

// Room returns an error that says which limit a stream has reached that refuses what is new.
func Room(info *jetstream.StreamInfo) error {
	cfg, state := info.Config, info.State
	switch {
	case cfg.Discard != jetstream.DiscardNew:
		return nil
	case cfg.MaxBytes > 0 && state.Bytes+roomBytes > uint64(cfg.MaxBytes):
		return fmt.Errorf("stream %s is full: max_bytes is %d, and it holds %d", cfg.Name, cfg.MaxBytes, state.Bytes)
	case cfg.MaxMsgs > 0 && state.Msgs >= uint64(cfg.MaxMsgs):
		return fmt.Errorf("stream %s is full: max_msgs is %d", cfg.Name, cfg.MaxMsgs)
	}
	return nil
}

// ProbeAcks sends a heartbeat for a message that there can't be, and returns nil when the workers' consumer has
// confirmed it. It takes the way of heartbeats and acknowledgements.
func (c *Consumer) ProbeAcks(ctx context.Context) error {
	const never = "9223372036854775807"
	subject := "$JS.ACK." + StreamRequests + "." + ConsumerName + ".1." + never + "." + never + "." + fmt.Sprint(time.Now().UnixNano()) + ".0"
	if _, err := c.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Data: []byte("+WPI")}); err != nil {
		return fmt.Errorf("an acknowledgement at %s: %w", ConsumerName, err)
	}
	return nil
}
