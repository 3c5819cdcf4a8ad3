// Package consumer is JetStream in and out: it takes requests from their stream, hands them to the
// hub, and alone decides what becomes of each message from the hub's Outcome.
//
// The hub never sees an acknowledgement and the broker never decides that a request has failed: the
// consumer's MaxDeliver and MaxAckPending are unlimited. A message is pulled only when there is a
// slot for it, is kept ours by heartbeats from the moment it arrives until it is settled, and is
// acknowledged only after its dead letter and its result are confirmed as stored. Acknowledgements do
// not fence: a message can come again at any time, and telling its outcome again must be harmless.
package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// Codec reads messages and writes dead letters. *event.Decoder is one.
type Codec interface {
	Decode(tenant string, headers map[string][]string, body []byte, meta event.Meta) provision.Delivery
	DeadLetter(event.Letter) event.Message
}

// Config is what a Consumer needs. JS, Handle and Codec must be set.
type Config struct {
	JS jetstream.JetStream
	// Handle works on one delivery, in a goroutine of its own. Its context ends when the shutdown
	// has lasted too long; it then has to return soon. provision.Hub.Handle is one.
	Handle func(context.Context, provision.Delivery) provision.Outcome
	Codec  Codec

	Objects         ObjectsConfig // what Run makes sure of before it takes the first message
	Sweep           SweepConfig   // how it looks for requests that nobody would ever work on again
	Concurrency     int           // delivered messages in flight at a time, and as many read directly; 0 means 64
	ShutdownTimeout time.Duration // how long work goes on after Run's context ended; 0 means 90 s
	DelayMax        time.Duration // longest rest of a message that goes back; 0 means 15 min

	// Gate is asked before every pull how many of free messages to take. wake, if not nil, ends when the answer
	// may have changed. Nil means no gate.
	Gate func(free int) (n int, wake <-chan struct{})

	// Room says how many more requests of a tenant could be worked on at once, for direct reads: while more
	// messages wait than there is room for, those of tenants with fewer than their share in flight are read
	// from the stream. Nil means that messages are worked on in the order of the stream alone.
	Room func(tenant string) int

	// OnWrite is called with how each try ended to publish to a stream, or, under the name of the consumer, to
	// acknowledge a message. What says nothing of the stream is left out: a message that is too large,
	// one that it had already, and the end of the work. Nil means nobody asks.
	OnWrite   func(object string, err error)
	OnStart   func(provision.Delivery)                    // nil means nobody asks
	OnSettled func(provision.Delivery, provision.Outcome) // likewise; not called for what OnStart wasn't called for
	Metrics   *Metrics                                    // nil means nobody asks
	Tracer    provision.Tracer                            // nil means nobody looks at traces
	Log       *slog.Logger                                // nil means no log

	PullExpires    time.Duration // how long the broker keeps one pull; 0 means 1 s
	PollInterval   time.Duration // between looks at the queue's state; 0 means 5 s
	PublishTimeout time.Duration // for one confirmation by the broker; 0 means 5 s
	PublishElapsed time.Duration // for all tries of one confirmation; 0 means 30 s
}

func (c Config) withDefaults() Config {
	c.Objects = c.Objects.withDefaults()
	c.Sweep = c.Sweep.withDefaults()
	c.Concurrency = cmp.Or(c.Concurrency, 64)
	c.ShutdownTimeout = cmp.Or(c.ShutdownTimeout, 90*time.Second)
	c.DelayMax = cmp.Or(c.DelayMax, 15*time.Minute)
	c.PullExpires = cmp.Or(c.PullExpires, time.Second)
	c.PollInterval = cmp.Or(c.PollInterval, 5*time.Second)
	c.PublishTimeout = cmp.Or(c.PublishTimeout, 5*time.Second)
	c.PublishElapsed = cmp.Or(c.PublishElapsed, 30*time.Second)
	if c.Gate == nil {
		c.Gate = func(free int) (int, <-chan struct{}) { return free, nil }
	}
	if c.OnWrite == nil {
		c.OnWrite = func(string, error) {}
	}
	if c.OnStart == nil {
		c.OnStart = func(provision.Delivery) {}
	}
	if c.OnSettled == nil {
		c.OnSettled = func(provision.Delivery, provision.Outcome) {}
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	if c.Tracer == nil {
		c.Tracer = provision.Untraced{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) check() error {
	var errs []error
	for name, missing := range map[string]bool{"JS": c.JS == nil, "Handle": c.Handle == nil, "Codec": c.Codec == nil} {
		if missing {
			errs = append(errs, fmt.Errorf("consumer: Config.%s is not set", name))
		}
	}
	if c.Sweep.Records != nil && c.Sweep.Load == nil {
		errs = append(errs, errors.New("consumer: Config.Sweep.Load is not set, but Records is"))
	}
	if c.Concurrency < 0 {
		errs = append(errs, fmt.Errorf("consumer: Config.Concurrency is %d; it must be positive", c.Concurrency))
	}
	for name, d := range map[string]time.Duration{
		"ShutdownTimeout": c.ShutdownTimeout, "DelayMax": c.DelayMax, "PollInterval": c.PollInterval,
		"PublishTimeout": c.PublishTimeout, "PublishElapsed": c.PublishElapsed,
	} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("consumer: Config.%s is %v; it must be positive", name, d))
		}
	}
	if c.PullExpires < 0 || c.PullExpires > 0 && c.PullExpires < time.Second {
		errs = append(errs, fmt.Errorf("consumer: Config.PullExpires is %v; it must be at least 1s", c.PullExpires))
	}
	return errors.Join(errs...)
}

// Consumer takes messages and settles them. Its methods are safe for concurrent use.
type Consumer struct {
	Config
	nc       *nats.Conn
	inFlight inFlight
	direct   direct
	health   health
	handlers sync.WaitGroup // of messages in flight
	next     chan *job      // takes a message where a goroutine waits for one
	idle     atomic.Int32   // goroutines that wait for one
	ended    chan struct{}  // closed when the intake has ended
	loops    sync.WaitGroup // heartbeats, polls and watchers

	ackWait        atomic.Int64  // the consumer's actual one
	ackWaitChanged chan struct{} // holds a value when it did
	backlog        atomic.Bool   // the last pull was filled, so that more may wait
	bound          bool          // the objects were there at some time; of the intake alone
	recheck        chan error    // why the objects are to be looked at again, at most one
	abort          chan struct{} // closed by Abort
	once           sync.Once     // closes abort
}

// New returns a Consumer that Run starts, or an error that names every field that is wrong. It does
// not speak to the broker.
func New(cfg Config) (*Consumer, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	c := &Consumer{
		Config: cfg, nc: cfg.JS.Conn(), inFlight: newInFlight(), direct: newDirect(),
		ackWaitChanged: make(chan struct{}, 1), recheck: make(chan error, 1), abort: make(chan struct{}),
		next: make(chan *job), ended: make(chan struct{}),
	}
	c.ackWait.Store(int64(cfg.Objects.AckWait))
	up := c.nc.IsConnected
	cfg.Metrics.connected.Store(&up)
	return c, nil
}

// Causes of the end of a Handle's context, and errors of Run.
var (
	// ErrShutdownTimeout means that work went on longer after the stop than it may.
	ErrShutdownTimeout = errors.New("consumer: the shutdown took longer than allowed")
	// ErrAborted means that Abort was called.
	ErrAborted = errors.New("consumer: aborted")
	// ErrConnectionClosed means that the connection was closed under the consumer for good.
	ErrConnectionClosed = errors.New("consumer: the NATS connection was closed")
)

// settleGrace is how long after the ShutdownTimeout the outcomes of what was then cut short may take.
const settleGrace = 10 * time.Second

// Run takes messages until ctx ends. Then it takes no more, gives back what it had received but not
// begun, lets the work in flight go on for ShutdownTimeout, and returns nil when everything is settled.
// No failure of the broker ends it. Its error is ErrShutdownTimeout where something is still not
// settled after that, ErrAborted, or ErrConnectionClosed. Run must be called once.
func (c *Consumer) Run(ctx context.Context) error {
	work, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	settle, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.loops.Go(func() { c.heartbeat(background) })
	c.loops.Go(func() { c.poll(background) })
	c.sweep(background)
	defer c.loops.Wait()
	defer stop()

	intake, stopIntake := context.WithCancel(ctx)
	defer stopIntake()
	defer context.AfterFunc(intake, func() { c.health.update(func(s *Status) { s.Stopping = true }) })()
	c.loops.Go(func() {
		select {
		case <-c.abort:
			stopIntake()
			cut(ErrAborted)
			giveUp(ErrAborted)
		case <-background.Done():
		}
	})
	err := c.intake(intake, contexts{work: work, settle: settle})
	return errors.Join(err, c.drain(cut, giveUp))
}

// Abort makes Run return soon, whatever is in flight: it comes again after the ack wait.
func (c *Consumer) Abort() { c.once.Do(func() { close(c.abort) }) }

// contexts are those of a message: one bounds the work on it, one its settlement.
type contexts struct{ work, settle context.Context }

// drain waits for what is in flight.
func (c *Consumer) drain(cut, giveUp context.CancelCauseFunc) error {
	close(c.ended)
	idle := make(chan struct{})
	go func() {
		c.handlers.Wait()
		close(idle)
	}()
	c.Log.Info("intake stopped", "in_flight", c.inFlight.len())
	err := c.await(idle, c.ShutdownTimeout)
	if errors.Is(err, ErrShutdownTimeout) {
		c.Log.Warn("the work in hand is cut short", "in_flight", c.inFlight.len())
		cut(ErrShutdownTimeout)
		err = c.await(idle, settleGrace)
		giveUp(ErrShutdownTimeout)
	}
	if err != nil {
		return fmt.Errorf("%w with %d messages unsettled", err, c.inFlight.len())
	}
	c.flush()
	return nil
}

func (c *Consumer) await(idle <-chan struct{}, within time.Duration) error {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-idle:
		return nil
	case <-c.abort:
		return ErrAborted
	case <-timer.C:
		return ErrShutdownTimeout
	}
}

// flush makes sure that the last acknowledgements have left. Those that have not come again, so a
// broker that is away is no error.
func (c *Consumer) flush() {
	if !c.nc.IsConnected() {
		c.Log.Warn("NATS is not connected: what was given back last comes again after the ack wait")
		return
	}
	if err := c.nc.FlushTimeout(c.PublishTimeout); err != nil {
		c.Log.Warn("the last acknowledgements may not have arrived", "error", err)
	}
}
