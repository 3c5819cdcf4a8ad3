package limit

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
	// breaker. Where all of them failed for one tenant, such as one whose cluster hangs, or the target
	// has just served others, it counts as down for those tenants only that it fails for.
	Failures uint32
	// Cooldown is how long a target that is down is left alone between two probes, give or take a
	// quarter, so that a fleet's probes are spread. 0 means 5 s.
	Cooldown time.Duration

	Writes     *Writes               // stops the intake, too; nil means nothing does
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
// own time-out ends it (FLOW_TIMEOUT for a POST, up to four times that for a look-up), and recovery is noticed that much later at most, plus a
// Cooldown. That is on purpose. A probe of the Flow Service is somebody's POST, and each one that is left
// hanging is one more whose outcome has to be looked up; a second probe beside it would learn no more. A
// probe that asked nothing, or whose caller panicked, gives its place away at once.
type Breakers struct {
	targets map[provision.Target]*breaker
	mu      sync.Mutex
	wake    chan struct{} // closed when a breaker changes; guarded by mu
	writes  *Writes
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
	failures int       // BreakerConfig.Failures
	blame    blame     // whom the target is down for; guarded by mu
	line     line      // of the blamed tenants' requests; guarded by mu
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
	b := &Breakers{targets: map[provision.Target]*breaker{}, wake: make(chan struct{}), writes: cfg.Writes, log: cfg.Log, gauge: newCircuitGauge(cfg.Registerer)}
	if b.writes != nil {
		b.writes.changed = b.broadcast
	}
	for _, t := range []provision.Target{provision.TargetFlow, provision.TargetVault, provision.TargetIMS} {
		b.gauge.WithLabelValues(string(t)).Set(0)
		b.targets[t] = b.newBreaker(t, cfg)
	}
	return b
}

func (b *Breakers) newBreaker(t provision.Target, cfg BreakerConfig) *breaker {
	br := &breaker{
		cooldown: time.Duration(float64(cfg.Cooldown) * (0.75 + rand.Float64()/2)), callers: callers{window: cfg.Window},
		failures: int(cfg.Failures), //nolint:gosec // a handful
	}
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
	switch sick, others := br.callers.health(time.Now()); {
	case from == gobreaker.StateClosed:
		br.blame.begin(sick, others)
	case to == gobreaker.StateOpen:
		br.blame.reconsider(others)
	}
	if to == gobreaker.StateOpen {
		br.until = time.Now().Add(br.cooldown)
		time.AfterFunc(br.cooldown+time.Millisecond, b.broadcast)
	}
	whose, down := br.blame.told(to), to != gobreaker.StateClosed && !br.blame.proved
	br.mu.Unlock()
	b.show(t, down)
	if from == gobreaker.StateClosed || to == gobreaker.StateClosed {
		b.log.Warn("circuit changed", append([]any{"target", t, "state", to.String()}, whose...)...)
	}
	b.broadcast()
}

// show sets the gauge.
func (b *Breakers) show(t provision.Target, down bool) {
	open := 0.0
	if down {
		open = 1
	}
	b.gauge.WithLabelValues(string(t)).Set(open)
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
		return func(end provision.CallEnd) { b.aside(t, br, tenant, end) }, 0
	}
	if state == gobreaker.StateHalfOpen && br.passedOver(tenant) {
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

// wait returns how long to leave the target alone: past the next probe, and spread out, so that what
// was given back doesn't return all at once. Where it is down for some tenants only, the intake goes on
// and may meet all of their backlogs: so each waits a little longer than the one before.
func (br *breaker) wait() time.Duration {
	br.mu.Lock()
	defer br.mu.Unlock()
	now := time.Now()
	wait := max(br.until.Sub(now), 0) + time.Duration((0.5+rand.Float64())*float64(br.cooldown))
	if br.blame.some() {
		wait += br.line.join(now, time.Second/returnRate)
	}
	return wait
}

// Permits says how many of free messages the intake may take: all while the breakers of the Flow
// Service and of Vault are closed and the broker takes writes, none while one is open or it takes none,
// one as a probe in between. A target that is
// down for some tenants only doesn't stop it, so that others' requests are found among theirs. The
// channel is closed when to ask again. IMS doesn't stop the intake: most tenants have a token for hours.
func (b *Breakers) Permits(free int) (int, <-chan struct{}) {
	b.mu.Lock()
	wake := b.wake
	b.mu.Unlock()
	if b.writes != nil {
		n, again := b.writes.permits(free)
		if n < 1 {
			return 0, either(wake, again)
		}
		free = n
	}
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
			if ok, again := br.grant(); free > 0 && !ok {
				return 0, either(wake, again)
			}
			free = min(free, 1)
		}
	}
	return free, wake
}

// Calm reports whether a tenant's requests may be taken without being a probe: the broker takes writes, and neither
// the Flow Service nor Vault counts as down for the tenant.
func (b *Breakers) Calm(tenant string) bool {
	if b.writes != nil && len(b.writes.Failing()) > 0 {
		return false
	}
	for _, t := range []provision.Target{provision.TargetFlow, provision.TargetVault} {
		if br := b.targets[t]; br.State() != gobreaker.StateClosed && !br.spares(tenant) {
			return false
		}
	}
	return true
}

// returnRate is how many of the blamed tenants' requests come back in a second.
const returnRate = 50

// How often the intake may take another message as a probe, where the one before it turned out not to
// need the target, or to be of a tenant that it fails for.
const (
	probeEvery = time.Second
	passEvery  = 20 * time.Millisecond // for as long as lookPast
)

// grant reports whether the intake may take one message as a probe, and if not, when to ask again; 0
// means when something changes.
func (br *breaker) grant() (ok bool, again time.Duration) {
	br.mu.Lock()
	defer br.mu.Unlock()
	every := probeEvery
	if br.lookingPast() {
		every = passEvery
	}
	switch since := time.Since(br.granted); {
	case br.probing:
		return false, 0
	case since < every:
		return false, every - since
	}
	br.granted = time.Now()
	return true, 0
}

// either returns a channel that is closed after d, or wake if that is 0.
func either(wake <-chan struct{}, d time.Duration) <-chan struct{} {
	if d == 0 {
		return wake
	}
	ch := make(chan struct{})
	time.AfterFunc(d, func() { close(ch) })
	return ch
}

// Open returns which targets count as down, for the status page. One that serves others than those it
// is down for does not.
func (b *Breakers) Open() map[string]bool {
	open := map[string]bool{}
	for t, br := range b.targets {
		open[string(t)] = br.State() != gobreaker.StateClosed && !br.proved()
	}
	return open
}
