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
	// breaker. Where all of them failed for one tenant, such as one whose cluster hangs, the target
	// counts as down for that tenant only, until it fails for another one, too.
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
//
// A target that is down has one probe at a time, however long that takes: where it hangs, its caller's
// own time-out ends it (FLOW_TIMEOUT for a POST), and recovery is noticed that much later at most, plus a
// Cooldown. That is on purpose. A probe of the Flow Service is somebody's POST, and each one that is left
// hanging is one more whose outcome has to be looked up; a second probe beside it would learn no more. A
// probe that asked nothing, or whose caller panicked, gives its place away at once.
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
	blamed   string    // the only tenant that the target is down for; empty means all; guarded by mu
	line     line      // of the blamed tenant's requests; guarded by mu
	prober   string    // whose probe was the last; guarded by mu
	granted  time.Time // when the intake was last permitted to take a probe; guarded by mu
}

// What gobreaker is told of calls that were not served.
var (
	errFailed = errors.New("not served")
	errVoid   = errors.New("nothing is known of the target") // excluded from all counts
)

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
			return c.TotalSuccesses == 0 && c.TotalFailures >= cfg.Failures
		},
		IsExcluded:    func(err error) bool { return errors.Is(err, errVoid) },
		OnStateChange: func(_ string, from, to gobreaker.State) { b.changed(t, br, from, to) },
	})
	return br
}

// changed is called with gobreaker's lock held, so it must not ask the breaker anything.
func (b *Breakers) changed(t provision.Target, br *breaker, from, to gobreaker.State) {
	br.mu.Lock()
	br.probing = false
	if from == gobreaker.StateClosed {
		br.blamed = br.callers.culprit(time.Now())
	}
	if to == gobreaker.StateOpen {
		br.until = time.Now().Add(br.cooldown)
		time.AfterFunc(br.cooldown+time.Millisecond, b.broadcast)
	}
	blamed := br.blamed
	br.mu.Unlock()
	open := 1.0
	if to == gobreaker.StateClosed {
		open = 0
	}
	b.gauge.WithLabelValues(string(t)).Set(open)
	if from == gobreaker.StateClosed || to == gobreaker.StateClosed {
		b.log.Warn("circuit changed", "target", t, "state", to.String(), "only_for_tenant", blamed)
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
func (b *Breakers) Allow(t provision.Target, tenant string) (func(provision.CallEnd), time.Duration) {
	br := b.targets[t]
	if br == nil {
		return func(provision.CallEnd) {}, 0
	}
	state := br.State()
	if state != gobreaker.StateClosed && br.spares(tenant) {
		return func(end provision.CallEnd) { br.aside(tenant, end) }, 0
	}
	if state == gobreaker.StateHalfOpen && br.probedLast(tenant) {
		return nil, br.wait()
	}
	tell, err := br.TwoStepCircuitBreaker.Allow()
	if err != nil {
		return nil, br.wait()
	}
	if state == gobreaker.StateClosed {
		return func(end provision.CallEnd) {
			br.callers.ended(tenant, end, time.Now())
			tell(verdict(end, true))
		}, 0
	}
	before := br.probe(tenant)
	return func(end provision.CallEnd) {
		br.callers.ended(tenant, end, time.Now())
		err := verdict(end, false)
		if tell(err); errors.Is(err, errVoid) {
			br.noProbe(before)
			b.broadcast() // the next may probe at once
		}
	}, 0
}

// verdict is what gobreaker is told. What was done without the target counts for it as long as its
// circuit is closed, for that much work goes on; but it doesn't close one that is open.
func verdict(end provision.CallEnd, closed bool) error {
	switch {
	case end == provision.CallServed, end == provision.CallSpared && closed:
		return nil
	case end == provision.CallFailed:
		return errFailed
	}
	return errVoid
}

// probe notes that a probe of the tenant is under way, and returns who had the one before.
func (br *breaker) probe(tenant string) (before string) {
	br.mu.Lock()
	defer br.mu.Unlock()
	before = br.prober
	br.probing, br.prober = true, tenant
	return before
}

// noProbe takes a probe back that told nothing.
func (br *breaker) noProbe(before string) {
	br.mu.Lock()
	defer br.mu.Unlock()
	br.probing, br.prober = false, before
}

// spares reports whether the target counts as down for another tenant only.
func (br *breaker) spares(tenant string) bool {
	br.mu.Lock()
	defer br.mu.Unlock()
	return br.blamed != "" && br.blamed != tenant
}

// aside takes the outcome of a call of a tenant that the target does not count as down for. If it
// failed for this one, too, then it is down for all.
func (br *breaker) aside(tenant string, end provision.CallEnd) {
	now := time.Now()
	br.callers.ended(tenant, end, now)
	if end == provision.CallFailed && br.callers.culprit(now) == "" {
		br.mu.Lock()
		br.blamed = ""
		br.mu.Unlock()
	}
}

// probedLast reports whether the tenant had the last probe and somebody else might have this one: the
// trouble of one must not keep the circuit open for all.
func (br *breaker) probedLast(tenant string) bool {
	br.mu.Lock()
	defer br.mu.Unlock()
	return br.blamed == "" && br.prober == tenant && br.callers.count(time.Now()) > 1 && time.Since(br.until) < 2*br.cooldown
}

// wait returns how long to leave the target alone: past the next probe, and spread out, so that what
// was given back doesn't return all at once. Where it is down for one tenant only, the intake goes on
// and may meet all of that one's backlog: so each waits a little longer than the one before.
func (br *breaker) wait() time.Duration {
	br.mu.Lock()
	defer br.mu.Unlock()
	now := time.Now()
	wait := max(br.until.Sub(now), 0) + time.Duration((0.5+rand.Float64())*float64(br.cooldown))
	if br.blamed != "" {
		wait += br.line.join(now, time.Second/slowRate)
	}
	return wait
}

// Permits says how many of free messages the intake may take: all while the breakers of the Flow
// Service and of Vault are closed, none while one is open, one as a probe in between. A target that is
// down for one tenant only doesn't stop it, so that others' requests are found among that one's. The
// channel is closed when to ask again. IMS doesn't stop the intake: most tenants have a token for hours.
func (b *Breakers) Permits(free int) (int, <-chan struct{}) {
	b.mu.Lock()
	wake := b.wake
	b.mu.Unlock()
	for _, t := range []provision.Target{provision.TargetFlow, provision.TargetVault} {
		br := b.targets[t]
		state := br.State()
		if state != gobreaker.StateClosed && br.blames() {
			continue
		}
		switch state {
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

func (br *breaker) blames() bool {
	br.mu.Lock()
	defer br.mu.Unlock()
	return br.blamed != ""
}

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
