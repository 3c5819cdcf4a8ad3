package provision

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

// The simulation runs whole workers (proc) against an in-memory world under one scheduler: exactly
// one goroutine runs at any moment, every external step parks its worker first, and the scheduler
// says who goes on and what befalls the step. Time is the scheduler's too. So a run is a function of
// its seed and its plan.

// fate is what befalls one external step.
type fate int

const (
	goesWell    fate = iota
	crashBefore      // the process dies before the step
	crashAfter       // the process dies after the step took effect
	answerLost       // the step took effect, the worker sees an error
	failsBefore      // the step had no effect, the worker sees an error
	landsLate        // the worker sees an error, the step takes effect later (ledger writes only)
	stops            // the worker is asked to stop, then the step goes well
)

func (f fate) String() string {
	return [...]string{"goes well", "crash before", "crash after", "answer lost", "fails before", "lands late", "asked to stop"}[f]
}

var errInjected = errors.New("injected")

const (
	simAckWait = 30 * time.Second
	simSettle  = 2 * time.Minute
	simLease   = 75 * time.Second
	simGrace   = 10 * time.Second

	simPatience = 2 * time.Minute // for a slot, in one delivery
)

// sim is the world and its scheduler.
type sim struct {
	t     testing.TB
	rng   *rand.Rand
	now   time.Time
	plan  func(n int, op string) fate // n counts the steps of the whole run from 0
	post  func(n int) postAnswer      // n counts the POSTs that reached the server from 0
	clash bool                        // interleave: random pick, random time, freezes
	stop  bool

	steps int
	trace []simStep
	yield chan *proc
	procs []*proc

	ledger  *memLedger
	late    []func()
	conns   []simConn
	posts   int
	asked   int // look-ups that were served
	tokens  int // calls of Authorize
	takes   int // calls of Slots.Acquire
	begins  int // calls of Slot.Begin
	direct  int // messages that were read without being delivered
	msgs    []*simMsg
	results []Result
	dead    []Result
	births  int
	tweak   func(*Config)
	wrap    func(decider) decider // what the workers decide by; nil means decide itself
	secrets simSecretStore
	weather
	rules
}

// weather is what else of the world may be in a worker's way. A nil function stands for fair weather.
type weather struct {
	ims      func(n int) error                  // of the n-th Authorize, from 0
	list     func() error                       // of a look-up
	book     func() error                       // of a call of the ledger
	gate     func(Target) time.Duration         // how long the gate keeps callers from the target, 0 if it doesn't
	slot     func(n int) time.Duration          // how long the n-th wait for a slot takes, 0 if there is one
	begin    func(n int) time.Duration          // how long the n-th POST that is announced waits to be sent
	ahead    func(n int) bool                   // whether a worker reads a message directly at the n-th chance
	retry    func(res Result, last int) (n int) // which retry a person sends after res, 0 for none; last is the latest there was
	word     func(n int) *Resolution            // what a person says with that retry, if it is of an unknown outcome; nil if nothing
	gone     func(secret string) bool           // whether Vault has no such secret just now
	believes func(Reason) bool                  // whether a missing secret may be told as the end of a request
	both     bool                               // and with the same number another one just retries it
	cut      bool                               // upstream cuts the descriptions
	habits
	cutting bool // they leave no whole mark: a person's wrong word isn't seen to be wrong
}

// simStep is one step of a run's story.
type simStep struct {
	at   time.Time
	proc string
	op   string
	fate fate
}

func (e simStep) String() string {
	return fmt.Sprintf("%s %s %s: %s", e.at.Format("15:04:05.000"), e.proc, e.op, e.fate)
}

type simConn struct {
	Found
	by      Key // whose POST made it, empty if none did
	visible time.Time
}

type simMsg struct {
	d       Delivery
	free    time.Time // when it can be delivered (again)
	holder  *proc
	acked   bool
	deliver uint64
}

type simSecretStore struct {
	creds, token int // versions
	err          error
	gone         map[string]time.Time // in a worker's cache: until when it remembers that a secret is missing
}

// postAnswer is how the server treats one POST.
type postAnswer struct {
	made bool // a connection comes to be
	err  *CallError
}

// proc is one worker process. It handles one message at a time.
type proc struct {
	s      *sim
	name   string
	skew   time.Duration
	hub    *Hub
	resume chan fate
	op     string
	wake   time.Time // not before
	idle   bool      // waits for a message
	gone   bool
	msg    *simMsg

	cached   simSecretStore // the versions in its cache
	stopping context.Context
	stop     context.CancelFunc
	asking   int // calls that the gate let through and has not heard of
	slots    int // slots that were not given back
}

func newSim(t testing.TB, seed uint64) *sim {
	return &sim{
		t: t, rng: rand.New(rand.NewPCG(seed, 7)), now: time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC),
		plan: func(int, string) fate { return goesWell }, post: func(int) postAnswer { return postAnswer{made: true} },
		yield: make(chan *proc), ledger: newMemLedger(), secrets: simSecretStore{creds: 1, token: 1},
		rules: newRules(),
	}
}

func testRequest() Request {
	return Request{
		Key: Key{Tenant: "acme", Source: "/portal", ID: "r-1"}, Fingerprint: "f1",
		Data: Data{
			Sandbox: "prod", Name: "orders", Description: "the orders",
			Auth: Auth{SpecName: "Access Token Authentication", Params: Params{
				Domain: "https://adb-1.7.azuredatabricks.net", ClusterID: "c1", Database: "db",
				AccessToken: SecretRef{Path: "databricks/acme", Field: "accessToken"},
			}},
			ConnectionSpec: ConnectionSpec{ID: "e9d7ec6b", Version: "1.0"},
		},
	}
}

// send puts a message into the stream.
func (s *sim) send(r Request) *simMsg {
	m := &simMsg{free: s.now, d: Delivery{Request: r, Seq: uint64(len(s.msgs) + 1), EnteredAt: s.now}}
	s.msgs = append(s.msgs, m)
	return m
}

// start begins a worker process.
func (s *sim) start(skew time.Duration) *proc {
	s.births++
	p := &proc{s: s, name: fmt.Sprintf("w%d", s.births), skew: skew, resume: make(chan fate)}
	p.cached.gone = map[string]time.Time{}
	p.stopping, p.stop = context.WithCancel(context.Background())
	cfg := Config{
		Ledger: simLedger{p}, Secrets: simSecrets{p}, Connections: simFlow{p}, Clock: simClock{p},
		Gate: simGate{p}, Slots: simSlots{p}, Stopping: p.stopping,
		Rand: rand.New(rand.NewPCG(s.rng.Uint64(), 1)), Instance: p.name,
		FlowTimeout: simLease, Settle: simSettle, RetryInitial: 500 * time.Millisecond, RetryDelayMax: 30 * time.Second,
		RetryElapsed: 2 * time.Minute, RedeliveryDelayMax: 15 * time.Minute, RequestDeadline: 24 * time.Hour,
		SecretGrace: simGrace,
	}
	if s.tweak != nil {
		s.tweak(&cfg)
	}
	hub, err := New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.wrap != nil {
		hub.decide = s.wrap(hub.decide)
	}
	p.hub = hub
	s.procs = append(s.procs, p)
	go p.live()
	<-s.yield
	return p
}

// live is the worker's main loop: what the consumer package is in production.
func (p *proc) live() {
	defer func() {
		p.stop()
		p.gone = true
		if m := p.msg; m != nil && m.holder == p {
			m.holder, m.free = nil, p.s.now.Add(simAckWait)
		}
		p.s.yield <- p
	}()
	for p.stopping.Err() == nil {
		p.idle = true
		switch p.park("pull") {
		case crashBefore:
			return
		case stops:
			p.stop()
			continue
		}
		p.idle = false
		m := p.s.nextMessage()
		d := m.d
		if d.Direct = p.s.readAhead(m); !d.Direct {
			m.deliver++
			m.holder = p
		}
		p.msg, d.Delivered = m, m.deliver
		out := p.hub.Handle(context.Background(), d)
		p.handled(out)
		p.settle(m, d, out)
		p.msg = nil
	}
	p.s.hit(viaStop)
}

// readAhead reports whether a message that was never delivered is read directly: it stays where it is, for
// others to read or to get it, too.
func (s *sim) readAhead(m *simMsg) bool {
	if s.ahead == nil || m.deliver > 0 || !s.ahead(s.direct) {
		return false
	}
	s.direct++
	s.hit(viaDirect)
	return true
}

// settle does what consumer's settle table does, in the same order.
func (p *proc) settle(m *simMsg, d Delivery, out Outcome) {
	switch {
	case out.Silent && d.Direct:
		return
	case out.Silent:
		p.s.hit(viaSilent)
		p.ack(m)
		return
	case out.Result == nil && d.Direct:
		return
	case out.Result == nil:
		p.nak(m, out.Delay)
		return
	}
	if out.Result.Error != nil {
		if p.do("dead letter", func() error { p.s.dead = append(p.s.dead, *out.Result); return nil }) != nil {
			p.untold(m, d)
			return
		}
	}
	if p.do("publish", func() error { p.s.told(*out.Result); return nil }) != nil {
		p.untold(m, d)
		return
	}
	if d.Direct {
		if out.Published != nil {
			out.Published(context.Background())
		}
		return
	}
	p.ack(m)
}

// untold gives a message back whose outcome could not be published.
func (p *proc) untold(m *simMsg, d Delivery) {
	if !d.Direct {
		p.nak(m, time.Second)
	}
}

func (p *proc) ack(m *simMsg) {
	if p.do("ack", func() error { m.acked = true; return nil }) != nil && m.holder == p {
		m.holder, m.free = nil, p.s.now.Add(simAckWait)
	}
}

func (p *proc) nak(m *simMsg, delay time.Duration) {
	_ = p.do("nak", func() error {
		if m.holder == p {
			m.holder, m.free = nil, p.s.now.Add(delay)
		}
		return nil
	})
	if m.holder == p {
		m.holder, m.free = nil, p.s.now.Add(simAckWait)
	}
}

// park hands control to the scheduler and returns what befalls the step.
func (p *proc) park(op string) fate {
	p.op = op
	p.s.yield <- p
	return <-p.resume
}

// do is one external step.
func (p *proc) do(op string, effect func() error) error {
	f := p.park(op)
	switch f {
	case crashBefore:
		runtime.Goexit()
	case failsBefore:
		return errInjected
	case stops:
		p.stop()
	case landsLate:
		p.s.late = append(p.s.late, func() { _ = effect() })
		return errInjected
	}
	err := effect()
	switch {
	case f == crashAfter:
		runtime.Goexit()
	case f == answerLost && err == nil:
		return errInjected
	}
	return err
}

func (s *sim) nextMessage() *simMsg {
	for _, m := range s.msgs {
		if m.ready(s.now) {
			return m
		}
	}
	return nil
}

func (m *simMsg) ready(now time.Time) bool { return !m.acked && m.holder == nil && !m.free.After(now) }

const maxSteps = 200_000

// run schedules until every message is acknowledged, then ends the workers.
func (s *sim) run() {
	for s.steps = 0; !s.drained(); {
		p := s.pick()
		if p == nil {
			if !s.advance() {
				s.fatal("nothing can happen any more, but messages are left")
			}
			continue
		}
		if s.steps++; s.steps > maxSteps {
			s.fatal("still not done after %d steps", maxSteps)
		}
		s.grant(p)
	}
	s.end()
}

// grant lets p take its step, with the fate that the plan has for it. A crash starts a new process.
func (s *sim) grant(p *proc) {
	f := s.plan(s.steps-1, p.op)
	if f != stops && (p.op == "pull" || p.op == "sleep") {
		f = goesWell
	}
	if f == landsLate && p.op != "store" {
		f = answerLost
	}
	s.trace = append(s.trace, simStep{s.now, p.name, p.op, f})
	p.resume <- f
	<-s.yield
	if p.gone {
		s.procs = remove(s.procs, p)
		if !s.stop {
			s.start(p.skew)
		}
	}
}

func remove(ps []*proc, p *proc) []*proc {
	var out []*proc
	for _, q := range ps {
		if q != p {
			out = append(out, q)
		}
	}
	return out
}

func (s *sim) pick() *proc {
	if s.clash {
		s.disturb()
	}
	var can []*proc
	for _, p := range s.procs {
		if !p.wake.After(s.now) && (!p.idle || s.nextMessage() != nil) {
			can = append(can, p)
		}
	}
	if len(can) == 0 {
		return nil
	}
	if !s.clash {
		return can[0]
	}
	return can[s.rng.IntN(len(can))]
}

// disturb lets time pass, a late write land, or a process freeze past its lease.
func (s *sim) disturb() {
	s.now = s.now.Add(time.Duration(s.rng.Int64N(int64(50 * time.Millisecond))))
	if len(s.late) > 0 && s.rng.IntN(4) == 0 {
		s.late[0]()
		s.late = s.late[1:]
	}
	if s.rng.IntN(60) != 0 {
		return
	}
	p := s.procs[s.rng.IntN(len(s.procs))]
	d := time.Duration(s.rng.Int64N(int64(2*simLease + simSettle)))
	p.wake = s.now.Add(d)
	if m := p.msg; m != nil && m.holder == p && d > simAckWait {
		m.holder, m.free = nil, s.now.Add(simAckWait) // no heartbeat: the broker takes it away
	}
}

// advance moves time to the next moment at which something can happen.
func (s *sim) advance() bool {
	for _, f := range s.late {
		f()
	}
	s.late = nil
	var next time.Time
	consider := func(t time.Time) {
		if t.After(s.now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, p := range s.procs {
		consider(p.wake)
	}
	for _, m := range s.msgs {
		if !m.acked && m.holder == nil {
			consider(m.free)
		}
	}
	if next.IsZero() {
		return false
	}
	s.now = next
	return true
}

func (s *sim) drained() bool {
	for _, m := range s.msgs {
		if !m.acked {
			return false
		}
	}
	return true
}

// end kills what still runs, so that no goroutine outlives the test.
func (s *sim) end() {
	s.stop = true
	for len(s.procs) > 0 {
		p := s.procs[0]
		for !p.gone {
			p.resume <- crashBefore
			<-s.yield
		}
		s.procs = remove(s.procs, p)
	}
}

func (s *sim) fatal(format string, args ...any) {
	s.t.Helper()
	for _, l := range s.trace[max(0, len(s.trace)-40):] {
		s.t.Log(l.String())
	}
	for k := range s.ledger.m {
		rec := s.ledger.record(k)
		rec.Attempts = nil
		s.t.Logf("ledger %s: %+v", k, rec)
	}
	s.t.Fatalf(format, args...)
}
