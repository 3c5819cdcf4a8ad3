// Package limit bounds what the worker asks of others. A breaker per target stops the intake while the target is
// down (Breakers), so does a broker that takes no writes (Writes), and a limit per tenant follows what the Flow
// Service bears for that tenant (Slots). They only slow the worker down; none decides a request's outcome.
package limit

import (
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
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
	// Failures is how many calls must have failed, without a single one served within Window, for a circuit to
	// open: a service that fails some calls never opens one. 0 means 5.
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

// Breakers is a provision.Gate with a circuit per target, and one per target and tenant. It is safe for
// concurrent use.
//
// While some calls are served no circuit opens; a tenant in trouble is then held back by its limit (Slots). Where none
// is, and calls fail for a single tenant, such as one whose cluster hangs, that tenant's circuit opens: its calls are
// held back, the intake goes on. Where they fail for several, the target's circuit opens: all calls are held back,
// and the intake stops. What is tried for a tenant whose own circuit is open does not count against the target.
//
// An open circuit has one probe at a time, however long that takes: where the target hangs, its caller's own
// time-out ends it (FLOW_TIMEOUT for a POST, up to four times that for a look-up), and recovery is noticed that
// much later at most, plus a Cooldown. A probe of the Flow Service is somebody's POST, and each one that hangs
// is one more whose outcome has to be looked up; a second probe beside it would learn no more. A probe that
// asked nothing, or whose caller panicked, gives its place away at once.
type Breakers struct {
	targets map[provision.Target]*target
	mu      sync.Mutex
	wake    chan struct{} // closed when a circuit changes; guarded by mu
	writes  *Writes
	gauge   *prometheus.GaugeVec
	log     *slog.Logger
}

// target is what is known of one target.
type target struct {
	name provision.Target
	cfg  BreakerConfig
	all  *circuit // opens for everybody

	mu       sync.Mutex          // guards the rest; never held while a circuit is asked
	tenants  map[string]*circuit // :: tenant → its own circuit, of those that called of late
	forgetAt int                 // number of tenants at which those are dropped that did not
	troubled map[string]struct{} // :: tenant → present while its circuit is not closed
	served   bool                // somebody was, since a tenant's circuit last opened
	servedAt time.Time           // when somebody last was
	prober   string              // whose probe of the target was the last
	granted  time.Time           // when the intake was last permitted to take a probe
}

// circuit is one breaker. Its fields are guarded by target.mu.
type circuit struct {
	*gobreaker.TwoStepCircuitBreaker[struct{}]
	until   time.Time // open until then
	probing bool      // of the target's: a probe is under way

	// Of a tenant's:
	calls  int       // under way
	usedAt time.Time // when one last began or ended
	served time.Time // when one last was
	failed time.Time // when one last failed
	inRow  uint32    // calls that failed since one was served
}

// How gobreaker learns of calls that were not served.
var (
	errFailed = errors.New("not served")
	errVoid   = errors.New("nothing is known of the target") // excluded from all counts
)

// NewBreakers returns closed breakers for every target.
func NewBreakers(cfg BreakerConfig) *Breakers {
	cfg = cfg.withDefaults()
	b := &Breakers{targets: map[provision.Target]*target{}, wake: make(chan struct{}), writes: cfg.Writes, log: cfg.Log}
	b.gauge = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "flow_worker_circuit_open",
		Help: "1 while the target is taken for down: calls to it are held back, and for flow and vault the intake is stopped, too. Not while it fails for some tenants and serves others.",
	}, []string{"target"})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(b.gauge)
	}
	if b.writes != nil {
		b.writes.changed = b.broadcast
	}
	for _, name := range []provision.Target{provision.TargetFlow, provision.TargetVault, provision.TargetIMS} {
		b.gauge.WithLabelValues(string(name)).Set(0)
		t := &target{name: name, cfg: cfg, tenants: map[string]*circuit{}, forgetAt: forgetFrom, troubled: map[string]struct{}{}}
		t.all = b.newCircuit(t, t.failsForSeveral, func(from, to gobreaker.State) { b.changed(t, "", from, to) })
		b.targets[name] = t
	}
	return b
}

func (b *Breakers) newCircuit(t *target, trips func(gobreaker.Counts) bool, changed func(from, to gobreaker.State)) *circuit {
	cooldown := time.Duration(float64(t.cfg.Cooldown) * (0.75 + rand.Float64()/2))
	c := &circuit{}
	c.TwoStepCircuitBreaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1, Interval: t.cfg.Window, BucketPeriod: t.cfg.Window / 10, Timeout: cooldown,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.TotalSuccesses == 0 && trips(n) },
		IsExcluded:  func(err error) bool { return errors.Is(err, errVoid) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			t.mu.Lock()
			c.probing = false
			if to == gobreaker.StateOpen {
				c.until = time.Now().Add(cooldown)
				time.AfterFunc(cooldown+time.Millisecond, b.broadcast)
			}
			t.mu.Unlock()
			changed(from, to)
		},
	})
	return c
}

// lately is for how many windows it counts that a tenant was served.
const lately = 3

// failsForSeveral reports whether calls fail often enough for tenants whose own circuit is closed, and these are
// several, or there is one more in trouble and nobody who was served lately.
func (t *target) failsForSeveral(n gobreaker.Counts) bool {
	if n.TotalFailures < t.cfg.Failures {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now, failing, troubled, others, failures := time.Now(), 0, 0, false, uint32(0)
	for name, c := range t.tenants {
		_, open := t.troubled[name]
		switch {
		case open && !t.forgettable(c, now):
			troubled++
		case open:
		case c.inRow == 0:
			others = others || now.Sub(c.served) <= lately*t.cfg.Window
		case now.Sub(c.failed) <= t.cfg.Window:
			failing++
			failures += c.inRow
		}
	}
	return failures >= t.cfg.Failures && (failing > 1 || troubled > 0 && !others)
}

// changed follows a circuit's change: a tenant's, or the target's where the tenant is empty. It is called with
// gobreaker's lock held, so it must not ask the circuit anything.
func (b *Breakers) changed(t *target, tenant string, from, to gobreaker.State) {
	t.mu.Lock()
	attrs := []any{"target", t.name, "state", to.String()}
	switch {
	case tenant == "":
	case to == gobreaker.StateClosed:
		if t.served {
			attrs = append(attrs, "only_for_tenants", t.inTrouble())
		}
		delete(t.troubled, tenant)
		t.served = true
	case from == gobreaker.StateClosed:
		t.troubled[tenant], t.served = struct{}{}, false
		attrs = append(attrs, "up_for_others", false, "failed_for_tenants", t.inTrouble())
	}
	t.mu.Unlock()
	if from == gobreaker.StateClosed || to == gobreaker.StateClosed {
		b.log.Warn("circuit changed", attrs...)
	}
	if tenant == "" {
		b.show(t, to)
	} else if from == gobreaker.StateClosed || to == gobreaker.StateClosed {
		b.show(t, t.all.State())
	}
	b.broadcast()
}

// inTrouble returns whom the target fails for. The caller holds mu.
func (t *target) inTrouble() []string { return slices.Sorted(maps.Keys(t.troubled)) }

// down reports whether the target counts as down: for everybody, or for those who called of late. all is the state
// of its own circuit.
func (t *target) down(all gobreaker.State) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return all != gobreaker.StateClosed || len(t.troubled) > 0 && !t.served
}

func (b *Breakers) show(t *target, all gobreaker.State) {
	open := 0.0
	if t.down(all) {
		open = 1
	}
	b.gauge.WithLabelValues(string(t.name)).Set(open)
}

func (b *Breakers) broadcast() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.wake)
	b.wake = make(chan struct{})
}

// Allow implements provision.Gate. While a target is being probed, everybody else has to wait.
func (b *Breakers) Allow(name provision.Target, tenant string) (func(provision.CallEnd), time.Duration) {
	t := b.targets[name]
	if t == nil {
		return func(provision.CallEnd) {}, 0
	}
	own, all := b.circuitOf(t, tenant), t.all
	state, ownState := all.State(), own.State()
	if state == gobreaker.StateHalfOpen && t.passesOver(tenant, own) {
		return nil, t.wait(all)
	}
	endOwn, err := own.Allow()
	if err != nil {
		return nil, t.wait(own)
	}
	endAll, err := all.Allow()
	if err != nil {
		endOwn(errVoid)
		return nil, t.wait(all)
	}
	t.mu.Lock()
	own.calls++
	before := t.prober
	if state != gobreaker.StateClosed {
		all.probing, t.prober = true, tenant
	}
	t.mu.Unlock()
	return func(end provision.CallEnd) {
		b.ended(t, own, end, ownState != gobreaker.StateClosed)
		err := verdict(end, state)
		if ownState != gobreaker.StateClosed && state == gobreaker.StateClosed && end == provision.CallFailed {
			err = errVoid // it was known to fail for this tenant
		}
		endAll(err)
		endOwn(verdict(end, ownState))
		if state != gobreaker.StateClosed && errors.Is(err, errVoid) {
			t.mu.Lock()
			all.probing, t.prober = false, before
			t.mu.Unlock()
			b.broadcast() // the next may probe at once
		}
	}, 0
}

// verdict is what gobreaker learns of a call that began in a state. What was done without the target counts for
// it as long as its circuit is closed, for that much work goes on; but it doesn't close one that is open.
func verdict(end provision.CallEnd, state gobreaker.State) error {
	switch {
	case end == provision.CallServed, end == provision.CallSpared && state == gobreaker.StateClosed:
		return nil
	case end == provision.CallFailed:
		return errFailed
	}
	return errVoid
}

// remembered is for how many windows a tenant without calls is: longer than a call that hangs.
const remembered = 12

func (t *target) forgettable(c *circuit, now time.Time) bool {
	return c.calls == 0 && now.Sub(c.usedAt) > remembered*t.cfg.Window
}

// circuitOf returns the tenant's own circuit.
func (b *Breakers) circuitOf(t *target, tenant string) *circuit {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if c := t.tenants[tenant]; c != nil {
		c.usedAt = now
		return c
	}
	if len(t.tenants) >= t.forgetAt {
		for name, c := range t.tenants {
			if t.forgettable(c, now) {
				delete(t.tenants, name)
				delete(t.troubled, name)
			}
		}
		t.forgetAt = max(2*len(t.tenants), forgetFrom)
	}
	var c *circuit
	c = b.newCircuit(t, func(gobreaker.Counts) bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		return c.inRow >= t.cfg.Failures && time.Since(t.servedAt) > t.cfg.Window
	}, func(from, to gobreaker.State) { b.changed(t, tenant, from, to) })
	c.usedAt = now
	t.tenants[tenant] = c
	return c
}

// ended notes how a call of a tenant ended, which may have been a probe of its own circuit.
func (b *Breakers) ended(t *target, own *circuit, end provision.CallEnd, probe bool) {
	t.mu.Lock()
	own.calls--
	own.usedAt = time.Now()
	proves := false
	switch end {
	case provision.CallFailed:
		own.failed = own.usedAt
		own.inRow++
	case provision.CallSpared:
		t.servedAt = own.usedAt
	case provision.CallServed:
		own.inRow, own.served, t.servedAt = 0, own.usedAt, own.usedAt
		if !probe {
			proves, t.served = len(t.troubled) > 0 && !t.served, true
		}
	}
	var whom []string
	if proves {
		whom = t.inTrouble()
	}
	t.mu.Unlock()
	if state := t.all.State(); proves && state == gobreaker.StateClosed {
		b.show(t, state)
		b.log.Warn("circuit changed", "target", t.name, "up_for_others", true, "only_for_tenants", whom)
	}
}

// lookPast is how long, when a target may be probed again, only tenants may that it has not failed for: theirs may be
// the only requests that go well, behind the backlogs of others.
const lookPast = time.Second

// passesOver reports whether somebody else should have the probe of the target: one that it hasn't failed for,
// then one that didn't have the last. The trouble of some must not keep the circuit open for all.
func (t *target) passesOver(tenant string, own *circuit) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	since := time.Since(t.all.until)
	if since < lookPast {
		return own.inRow > 0
	}
	return t.prober == tenant && len(t.tenants) > 1 && since < 2*t.cfg.Cooldown
}

// wait returns how long to leave the target alone: past the circuit's next probe, and spread out, so that what waits
// doesn't return all at once.
func (t *target) wait(c *circuit) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(time.Until(c.until), 0) + time.Duration((0.5+rand.Float64())*float64(t.cfg.Cooldown))
}

// Permits says how many of free messages the intake may take: all while the circuits of the Flow Service and of
// Vault are closed and the broker takes writes, none while one is open or it takes none, one as a probe in
// between. The channel is closed when to ask again. IMS doesn't stop the intake: most tenants have a token for hours.
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
	for _, name := range []provision.Target{provision.TargetFlow, provision.TargetVault} {
		t := b.targets[name]
		switch t.all.State() {
		case gobreaker.StateOpen:
			return 0, wake
		case gobreaker.StateHalfOpen:
			if ok, again := t.grant(); free > 0 && !ok {
				return 0, either(wake, again)
			}
			free = min(free, 1)
		}
	}
	return free, wake
}

// Calm reports whether a tenant's requests may be taken without being a probe: the broker takes writes, and no circuit
// of the Flow Service or of Vault holds the tenant's calls back.
func (b *Breakers) Calm(tenant string) bool {
	if b.writes != nil && len(b.writes.Failing()) > 0 {
		return false
	}
	for _, name := range []provision.Target{provision.TargetFlow, provision.TargetVault} {
		t := b.targets[name]
		t.mu.Lock()
		_, troubled := t.troubled[tenant]
		t.mu.Unlock()
		if troubled || t.all.State() != gobreaker.StateClosed {
			return false
		}
	}
	return true
}

// How often the intake may take another message as a probe, where the one before it turned out not to
// need the target, or to be of a tenant that it fails for.
const (
	probeEvery = time.Second
	passEvery  = 20 * time.Millisecond // for as long as lookPast
)

// grant reports whether the intake may take one message as a probe, and if not, when to ask again; 0
// means when something changes.
func (t *target) grant() (ok bool, again time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	every := probeEvery
	if time.Since(t.all.until) < lookPast {
		every = passEvery
	}
	switch since := time.Since(t.granted); {
	case t.all.probing:
		return false, 0
	case since < every:
		return false, every - since
	}
	t.granted = time.Now()
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
// fails for does not.
func (b *Breakers) Open() map[string]bool {
	open := map[string]bool{}
	for name, t := range b.targets {
		open[string(name)] = t.down(t.all.State())
	}
	return open
}
