package consumer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Status is how the consumer stands, for health checks and the status page.
type Status struct {
	Connected bool
	Bound     bool   // the streams and the consumer are there and were fit for use when last looked at
	Stopping  bool   // no more messages are taken
	Problem   string // what went wrong last, empty once it went right
	Pauses    Pauses
	Slots     int
	InFlight  int

	// Of the queue, as of AskedAt.
	AskedAt     time.Time // when the broker last answered; zero if it never did
	Pending     uint64
	AckPending  int
	Redelivered int
	Oldest      time.Duration // age of the oldest message in the stream, 0 if it is empty
}

// health is what the loops of a Consumer note of it.
type health struct {
	mu     sync.Mutex
	status Status // guarded by mu, but for what Consumer.Status fills in
}

func (h *health) update(f func(*Status)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(&h.status)
}

// Status returns how the consumer stands, without asking the broker.
func (c *Consumer) Status() Status {
	c.health.mu.Lock()
	s := c.health.status
	c.health.mu.Unlock()
	s.Connected = c.nc.IsConnected()
	s.Slots = c.Concurrency
	s.InFlight = c.inFlight.len()
	return s
}

// Ready returns nil while messages are taken as they come, or could be but for a pause; otherwise
// what prevents it.
func (c *Consumer) Ready() error {
	s := c.Status()
	silent := time.Since(s.AskedAt)
	switch {
	case s.Stopping:
		return errors.New("the worker is stopping")
	case !s.Connected:
		return fmt.Errorf("NATS: %w", nats.ErrDisconnected)
	case !s.Bound && s.Problem != "":
		return errors.New(s.Problem)
	case !s.Bound || s.AskedAt.IsZero():
		return fmt.Errorf("consumer %s on %s is not bound yet", ConsumerName, StreamRequests)
	case silent > 3*c.PollInterval+c.PublishTimeout:
		return fmt.Errorf("JetStream has not answered for %v", silent.Round(time.Second))
	}
	return nil
}

// poll looks at the queue every PollInterval, with jitter, so that many workers don't ask at once.
func (c *Consumer) poll(ctx context.Context) {
	for ctx.Err() == nil {
		c.look(ctx)
		sleep(ctx, jitter(c.PollInterval))
	}
}

// look asks for the queue's state and shows it. A failure is the intake's to report.
func (c *Consumer) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, c.PublishTimeout)
	defer cancel()
	consumer, err := c.JS.Consumer(ctx, StreamRequests, ConsumerName)
	if err != nil {
		c.Log.Debug("the queue's state is not known", "error", err)
		return
	}
	stream, err := c.JS.Stream(ctx, StreamRequests)
	if err != nil {
		c.Log.Debug("the queue's state is not known", "error", err)
		return
	}
	info, oldest := consumer.CachedInfo(), oldestIn(stream.CachedInfo())
	c.setAckWait(info.Config.AckWait)
	c.health.update(func(s *Status) {
		s.AskedAt = time.Now()
		s.Pauses = Pauses{Paused: info.Paused, Remaining: info.PauseRemaining}
		s.Pending, s.AckPending, s.Redelivered, s.Oldest = info.NumPending, info.NumAckPending, info.NumRedelivered, oldest
	})
	c.Metrics.queue(info, oldest)
}

// oldestIn returns the age of the oldest message by the server's own clock.
func oldestIn(info *jetstream.StreamInfo) time.Duration {
	if info.State.Msgs == 0 {
		return 0
	}
	now := info.TimeStamp
	if now.IsZero() { // servers before 2.10 don't say
		now = time.Now()
	}
	return max(now.Sub(info.State.FirstTime), 0)
}

// jitter spreads d over a quarter to either side.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2))
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
