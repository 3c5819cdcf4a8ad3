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

// Where a stream is asked whether it may be written to. No tenant and no outcome has these names.
var probeSubjects = map[string]string{ // :: stream → subject
	StreamResults:     "connections.results._probe._none",
	StreamDeadLetters: "connections.deadletters._probe",
}

// probeStream is the name of no stream.
const probeStream = "_flow-worker-probe"

// ProbeStream asks the stream of results or of dead letters whether it would take a message, without storing
// one: the stream has to have room, and it has to refuse a message that expects to be stored elsewhere, by just
// that error. Whoever reads the stream sees nothing; who subscribes to the subjects of all tenants sees an empty
// message. That it returns nil is no proof: storing may still fail.
func (c *Consumer) ProbeStream(ctx context.Context, stream string) error {
	info, err := c.JS.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("stream %s: %w", stream, err)
	}
	if err := Room(info.CachedInfo()); err != nil {
		return err
	}
	_, err = c.JS.Publish(ctx, probeSubjects[stream], nil, jetstream.WithExpectStream(probeStream), jetstream.WithRetryAttempts(0))
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == streamNotMatch {
		return nil
	}
	return fmt.Errorf("stream %s: %w", stream, err)
}

// streamNotMatch is JetStream's error code (JSStreamNotMatchErr) for a message that expects another stream.
const streamNotMatch jetstream.ErrorCode = 10060

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
