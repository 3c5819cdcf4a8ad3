package pace

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// BreakerConfig says when a target counts as down. The zero value is usable.
type BreakerConfig struct {
	// Window is how far back calls are looked at. 0 means 10 s.
	Window time.Duration
	// Failures is how many calls must have failed within Window, without a single one served, for
	// the target to count as down. 0 means 5: a service that fails some calls never opens the
	// breaker. Nor does one tenant whose cluster hangs: the calls must have failed for two tenants at
	// least, unless one alone has made any calls for a while.
	Failures uint32
	// Cooldown is how long a target that is down is left alone between two probes, give or take a
	// quarter, so that a fleet's probes are spread. 0 means 5 s.
	Cooldown time.Duration

	Registerer prometheus.Registerer // nil means no metrics
	Log        *slog.Logger          // nil means no log
}

func (c BreakerConfig) withDefaults() BreakerConfig {
	if c.Window <= 0 {
		c.Window = 10 * time.Second
	}
	if c.Failures == 0 {
		c.Failures = 5
	}
	if c.Cooldown <= 0 {
		c.Cooldown = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Breakers is a provision.Gate with one breaker per target. It is safe for concurrent use.
type Breakers struct {
	targets map[provision.Target]*breaker
	mu      sync.Mutex
	wake    chan struct{} // closed when a breaker changes; guarded by mu
	gauge   *prometheus.GaugeVec
	log     *slog.Logger
}

type breaker struct {
	*gobreaker.TwoStepCircuitBreaker[struct{}]
	cooldown time.Duration
	mu       sync.Mutex
	until    time.Time // open until then; guarded by mu
	probing  bool      // a probe is under way; guarded by mu
	callers  callers
	granted  time.Time // when the intake was last permitted to take a probe; guarded by mu
}

var errFailed = errors.New("not served")

// NewBreakers returns closed breakers for every target.
func NewBreakers(cfg BreakerConfig) *Breakers {
	cfg = cfg.withDefaults()
	b := &Breakers{targets: map[provision.Target]*breaker{}, wake: make(chan struct{}), log: cfg.Log, gauge: newCircuitGauge(cfg.Registerer)}
	for _, t := range []provision.Target{provision.TargetFlow, provision.TargetVault, provision.TargetIMS} {
		b.gauge.WithLabelValues(string(t)).Set(0)
		b.targets[t] = b.newBreaker(t, cfg)
	}
	return b
}

func (b *Breakers) newBreaker(t provision.Target, cfg BreakerConfig) *breaker {
	br := &breaker{cooldown: time.Duration(float64(cfg.Cooldown) * (0.75 + rand.Float64()/2)), callers: callers{window: cfg.Window}}
	br.TwoStepCircuitBreaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: string(t), MaxRequests: 1, Interval: cfg.Window, BucketPeriod: cfg.Window / 10, Timeout: br.cooldown,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.TotalSuccesses == 0 && c.TotalFailures >= cfg.Failures && br.callers.agree(time.Now())
		},
		OnStateChange: func(_ string, from, to gobreaker.State) { b.changed(t, br, from, to) },
	})
	return br
}

// changed is called with gobreaker's lock held, so it must not ask the breaker anything.
func (b *Breakers) changed(t provision.Target, br *breaker, from, to gobreaker.State) {
	br.mu.Lock()
	br.probing = false
	if to == gobreaker.StateOpen {
		br.until = time.Now().Add(br.cooldown)
		time.AfterFunc(br.cooldown+time.Millisecond, b.broadcast)
	}
	br.mu.Unlock()
	open := 1.0
	if to == gobreaker.StateClosed {
		open = 0
	}
	b.gauge.WithLabelValues(string(t)).Set(open)
	if from == gobreaker.StateClosed || to == gobreaker.StateClosed {
		b.log.Warn("circuit changed", "target", t, "state", to.String())
	}
	b.broadcast()
}

func (b *Breakers) broadcast() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.wake)
	b.wake = make(chan struct{})
}

// Allow implements provision.Gate. While a target is being probed, everybody else is told to wait.
func (b *Breakers) Allow(t provision.Target, tenant string) (func(served bool), time.Duration) {
	br := b.targets[t]
	if br == nil {
		return func(bool) {}, 0
	}
	done, err := br.TwoStepCircuitBreaker.Allow()
	if err != nil {
		return nil, br.wait()
	}
	if br.State() == gobreaker.StateHalfOpen {
		br.mu.Lock()
		br.probing = true
		br.mu.Unlock()
	}
	return func(served bool) {
		br.callers.called(tenant, served, time.Now())
		if served {
			done(nil)
		} else {
			done(errFailed)
		}
	}, 0
}

// wait returns how long to leave the target alone: past the next probe, and spread out, so that what
// was given back doesn't return all at once.
func (br *breaker) wait() time.Duration {
	br.mu.Lock()
	defer br.mu.Unlock()
	left := max(time.Until(br.until), 0)
	return left + time.Duration((0.5+rand.Float64())*float64(br.cooldown))
}

// Permits says how many of free messages the intake may take: all while the breakers of the Flow
// Service and of Vault are closed, none while one is open, one as a probe in between. The channel is
// closed when to ask again. IMS doesn't stop the intake: most tenants have a token for hours.
func (b *Breakers) Permits(free int) (int, <-chan struct{}) {
	b.mu.Lock()
	wake := b.wake
	b.mu.Unlock()
	for _, t := range []provision.Target{provision.TargetFlow, provision.TargetVault} {
		br := b.targets[t]
		switch br.State() {
		case gobreaker.StateOpen:
			return 0, wake
		case gobreaker.StateHalfOpen:
			if free > 0 && !br.grant() {
				return 0, wake
			}
			free = min(free, 1)
		}
	}
	return free, wake
}

// probeEvery is how often the intake may take another message as a probe, where the one before it
// turned out not to need the target.
const probeEvery = time.Second

// grant reports whether the intake may take one message as a probe.
func (br *breaker) grant() bool {
	br.mu.Lock()
	defer br.mu.Unlock()
	if br.probing || time.Since(br.granted) < probeEvery {
		return false
	}
	br.granted = time.Now()
	return true
}

// Open returns which targets count as down, for the status page.
func (b *Breakers) Open() map[string]bool {
	open := map[string]bool{}
	for t, br := range b.targets {
		open[string(t)] = br.State() != gobreaker.StateClosed
	}
	return open
}
