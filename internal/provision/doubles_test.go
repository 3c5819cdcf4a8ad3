package provision

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"
)

// The in-memory doubles of the simulation, each bound to the process that calls it.

type simClock struct{ p *proc }

func (c simClock) Now() time.Time { return c.p.s.now.Add(c.p.skew) }

func (c simClock) Sleep(ctx context.Context, d time.Duration) error {
	c.p.wake = c.p.s.now.Add(d)
	switch c.p.park("sleep") {
	case crashBefore:
		runtime.Goexit()
	case stops:
		c.p.stop()
		if ctx.Done() != nil {
			select {
			case <-ctx.Done(): // the hub ends it in a goroutine of its own
			case <-time.After(2 * time.Minute): // of a machine that is busy with other things
				c.p.s.breach("%s sleeps on, though it was asked to stop", c.p.name)
			}
		}
		return ctx.Err()
	}
	return nil
}

// simGate tells its worker what the weather is like, and is to be told of every call it let through.
type simGate struct{ p *proc }

func (g simGate) Allow(t Target, _ string) (func(CallEnd), time.Duration) {
	if closed := g.p.s.gate; closed != nil {
		if wait := closed(t); wait > 0 {
			g.p.s.hit(viaGate(t))
			return nil, wait
		}
	}
	g.p.asking++
	return once[CallEnd](g.p, "call", &g.p.asking), 0
}

// simSlots hands out slots as the weather allows, and wants every one back.
type simSlots struct{ p *proc }

func (c simSlots) Acquire(ctx context.Context, _ string) (Slot, error) {
	s := c.p.s
	s.takes++
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.slot != nil {
		if wait := s.slot(s.takes - 1); wait > 0 {
			s.hit(viaSlotWait)
			if err := simClock(c).Sleep(ctx, min(wait, simPatience)); err != nil {
				return nil, err
			}
			if wait > simPatience {
				s.hit(viaNoSlot)
				return nil, context.DeadlineExceeded
			}
		}
	}
	c.p.slots++
	return simSlot{c.p, once[bool](c.p, "slot", &c.p.slots)}, nil
}

type simSlot struct {
	p       *proc
	release func(bool)
}

// Begin is a wait of its own where the weather has it, and at times in vain.
func (c simSlot) Begin(ctx context.Context) error {
	s := c.p.s
	s.begins++
	if s.begin == nil {
		return nil
	}
	wait := s.begin(s.begins - 1)
	if wait == 0 {
		return nil
	}
	s.hit(viaBegin)
	if err := (simClock{c.p}).Sleep(context.Background(), min(wait, simLease/8)); err != nil {
		return err
	}
	if wait > simLease/8 {
		s.hit(viaNotBegun)
		return context.DeadlineExceeded
	}
	return nil
}

func (c simSlot) Release(strained bool) { c.release(strained) }

// once returns a function that takes one from n, and may be called once.
func once[T any](p *proc, what string, n *int) func(T) {
	called := false
	return func(T) {
		if called {
			p.s.breach("%s: a %s was ended twice", p.name, what)
		}
		called = true
		*n--
	}
}

type simLedger struct{ p *proc }

func (l simLedger) Load(ctx context.Context, key Key) (rec Record, rev uint64, err error) {
	err = l.p.do("load", func() (err error) {
		if err := l.p.s.ledgerDown(); err != nil {
			return err
		}
		rec, rev, err = l.p.s.ledger.Load(ctx, key)
		return err
	})
	return rec, rev, err
}

func (l simLedger) Store(ctx context.Context, key Key, rec Record, rev uint64) (next uint64, err error) {
	rec.Attempts = slices.Clone(rec.Attempts) // a write that lands late is of what was written then
	err = l.p.do("store", func() (err error) {
		if err := l.p.s.ledgerDown(); err != nil {
			return err
		}
		next, err = l.p.s.ledger.Store(ctx, key, rec, rev)
		return err
	})
	return next, err
}

func (s *sim) ledgerDown() error {
	if s.book == nil {
		return nil
	}
	err := s.book()
	if err != nil {
		s.hit(viaNoLedger)
	}
	return err
}

// simSecrets is Vault behind a cache that forgets no secret by itself, and for 2 s not that one is missing.
type simSecrets struct{ p *proc }

func (s simSecrets) Credentials(_ context.Context, tenant string, fresh bool) (c Credentials, err error) {
	err = s.p.do("credentials", func() error {
		if err := s.look(secretAdobe, fresh, &s.p.cached.creds, s.p.s.secrets.creds); err != nil {
			return err
		}
		c = Credentials{OrgID: tenant + "@AdobeOrg", ClientID: "id", ClientSecret: NewSensitive("secret"), Version: s.p.cached.creds}
		return s.p.s.secrets.err
	})
	return c, secretErr(err)
}

func (s simSecrets) Resolve(_ context.Context, _ string, _ SecretRef, fresh bool) (sec Secret, err error) {
	err = s.p.do("resolve", func() error {
		if err := s.look(secretToken, fresh, &s.p.cached.token, s.p.s.secrets.token); err != nil {
			return err
		}
		sec = Secret{Value: NewSensitive("token"), Version: s.p.cached.token}
		return s.p.s.secrets.err
	})
	return sec, secretErr(err)
}

// look reads a secret's version into the cache unless that has it, or remembers that it is missing.
func (s simSecrets) look(secret string, fresh bool, cached *int, now int) error {
	world, missing := s.p.s, s.p.cached.gone
	switch {
	case !fresh && *cached != 0:
		return nil
	case !fresh && world.now.Before(missing[secret]):
		return &SecretError{Problem: SecretMissing, Err: errMissing, Cached: true}
	case world.gone != nil && world.gone(secret):
		world.hit(viaMissing)
		*cached, missing[secret] = 0, world.now.Add(2*time.Second)
		return &SecretError{Problem: SecretMissing, Err: errMissing}
	}
	*cached = now
	delete(missing, secret)
	return nil
}

var errMissing = errors.New("there is no such secret")

func secretErr(err error) error {
	if errors.Is(err, errInjected) {
		return &SecretError{Problem: SecretUnavailable, Cause: CauseNetwork, Err: err}
	}
	return err
}

// simFlow is the Flow Service: it makes what it is told to make, shows it in its list some time
// within Settle of the POST's end, and may die or lose the answer anywhere.
type simFlow struct{ p *proc }

func (f simFlow) Authorize(context.Context, Account) error {
	s := f.p.s
	err := f.p.do("authorize", func() error {
		s.tokens++
		if s.ims == nil {
			return nil
		}
		return s.ims(s.tokens - 1)
	})
	if err == nil {
		return nil
	}
	s.hit(viaIMS)
	if ce := asCallError(err); ce.Verdict != VerdictUnknown {
		return ce
	}
	return &CallError{Verdict: VerdictNotSent, Target: TargetIMS, Cause: CauseNetwork, Err: err}
}

func (f simFlow) Create(_ context.Context, as Account, c NewConnection, notAfter time.Time) (conn Connection, err error) {
	s, key := f.p.s, f.p.msg.d.Request.Key
	fate := f.p.park("create")
	if fate == stops {
		f.p.stop()
	}
	switch {
	case fate == crashBefore:
		runtime.Goexit()
	case fate == failsBefore || !f.p.hub.Clock.Now().Before(notAfter):
		return conn, &CallError{Verdict: VerdictNotSent, Target: TargetFlow, Cause: CauseNetwork, Err: errInjected}
	}
	ans := s.post(s.posts)
	s.posts++
	ended := s.endOf(fate == crashAfter, notAfter.Add(-f.p.skew))
	s.posted(f.p, key, notAfter, ended)
	if ans.made {
		conn = s.make(key, c, ended)
	}
	switch {
	case fate == crashAfter:
		runtime.Goexit()
	case ans.err != nil:
		s.answered(key, ans.err)
		return Connection{}, ans.err
	case fate == answerLost:
		return Connection{}, &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Cause: CauseTimeout, Err: errInjected}
	}
	return conn, nil
}

// endOf returns when the server is done with a POST of now. Where nobody waits for the answer it may
// take all of the lease.
func (s *sim) endOf(orphaned bool, leaseEnd time.Time) time.Time {
	if orphaned && leaseEnd.After(s.now) && s.rng.IntN(2) == 0 {
		return leaseEnd
	}
	return s.now
}

// habits are what the Flow Service makes of what it is sent, and what it tells of it. A nil function changes
// nothing.
type habits struct {
	store        func(*Found) // what it stores otherwise than it was sent
	list         func(*Found) // what its lists leave out
	still        bool         // its lists are in no order
	folds        bool         // its name filter minds no case
	failsFilters bool         // it fails at filters
}

// make adds a connection, which the list shows within Settle of the POST's end.
func (s *sim) make(by Key, c NewConnection, ended time.Time) Connection {
	id := fmt.Sprintf("c%d", len(s.conns)+1)
	p := c.Params
	if s.cut {
		c.Description = ""
	}
	f := Found{
		Connection: Connection{ID: id, Etag: `"1"`}, Name: c.Name, Description: c.Description, CreatedAt: ended, State: stateEnabled,
		SpecID: c.ConnectionSpec.ID, SpecVersion: c.ConnectionSpec.Version, Domain: p.Domain, ClusterID: p.ClusterID,
		Database: p.Database, Catalog: p.Catalog,
	}
	if s.habits.store != nil {
		s.habits.store(&f)
	}
	s.conns = append(s.conns, simConn{by: by, visible: ended.Add(time.Duration(s.rng.Int64N(int64(simSettle)))), Found: f})
	return f.Connection
}

func (f simFlow) Find(_ context.Context, _ Account, q Query) (found []Found, err error) {
	s, key := f.p.s, f.p.msg.d.Request.Key
	shows := false
	err = f.p.do("find", func() error {
		if s.list != nil {
			if err := s.list(); err != nil {
				s.hit(viaNoList)
				return err
			}
		}
		if len(q.Names) > 0 {
			s.asked++
		}
		if s.habits.failsFilters && len(q.Names) > 0 {
			return errOutage
		}
		for _, c := range s.conns {
			if !c.visible.After(s.now) && s.lists(c.Found, q) {
				shows = shows || c.by == key
				found = append(found, s.shown(c.Found))
			}
		}
		return nil
	})
	var ce *CallError
	switch {
	case errors.As(err, &ce):
		return nil, ce
	case err != nil:
		return nil, unserved(err)
	}
	s.lookedUp(key, q, shows)
	if q.Want != nil {
		found = slices.DeleteFunc(found, func(f Found) bool { return !q.Want(f) })
	}
	return found, nil
}

// unserved is the error of a call that only reads. Part of a list is worth nothing: whoever believes it is
// seen to.
func unserved(err error) error {
	return &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Cause: CauseStatus, Status: 503, Err: err}
}

// lists reports whether the service lists c when it is asked q.
func (s *sim) lists(c Found, q Query) bool {
	named := len(q.Names) == 0 || slices.ContainsFunc(q.Names, func(n string) bool {
		return n == c.Name || s.habits.folds && strings.EqualFold(n, c.Name)
	})
	inTime := len(q.Names) > 0 || q.SpecID != "" || s.habits.still || !c.CreatedAt.Before(q.Since)
	return named && (q.SpecID == "" || c.SpecID == q.SpecID) && inTime
}

// shown returns c as lists show it.
func (s *sim) shown(c Found) Found {
	if s.habits.list != nil {
		s.habits.list(&c)
	}
	return c
}

func (f simFlow) Get(_ context.Context, _ Account, id string) (got Found, err error) {
	err = f.p.do("get", func() error {
		f.p.s.hit(viaRead)
		i := slices.IndexFunc(f.p.s.conns, func(c simConn) bool { return c.ID == id })
		if i < 0 {
			return &CallError{Verdict: VerdictRejected, Target: TargetFlow, Status: 404}
		}
		got = f.p.s.conns[i].Found
		return nil
	})
	var ce *CallError
	if errors.As(err, &ce) {
		return Found{}, ce
	}
	if err != nil {
		return Found{}, unserved(err)
	}
	return got, nil
}
