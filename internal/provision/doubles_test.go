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

func containsMark(description string, k Key) bool { return strings.Contains(description, k.Mark()) }

type simClock struct{ p *proc }

func (c simClock) Now() time.Time { return c.p.s.now.Add(c.p.skew) }

func (c simClock) Sleep(_ context.Context, d time.Duration) error {
	c.p.wake = c.p.s.now.Add(d)
	if c.p.park("sleep") == crashBefore {
		runtime.Goexit()
	}
	return nil
}

type simLedger struct{ p *proc }

func (l simLedger) Load(ctx context.Context, key Key) (rec Record, rev uint64, err error) {
	err = l.p.do("load", func() (err error) {
		rec, rev, err = l.p.s.ledger.Load(ctx, key)
		return err
	})
	return rec, rev, err
}

func (l simLedger) Store(ctx context.Context, key Key, rec Record, rev uint64) (next uint64, err error) {
	rec.Attempts = slices.Clone(rec.Attempts) // a write that lands late is of what was written then
	err = l.p.do("store", func() (err error) {
		next, err = l.p.s.ledger.Store(ctx, key, rec, rev)
		return err
	})
	return next, err
}

type simSecrets struct{ p *proc }

func (s simSecrets) Credentials(_ context.Context, tenant string, _ bool) (c Credentials, err error) {
	err = s.p.do("credentials", func() error {
		c = Credentials{OrgID: tenant + "@AdobeOrg", ClientID: "id", ClientSecret: "secret", Version: s.p.s.secrets.creds}
		return s.p.s.secrets.err
	})
	return c, secretErr(err)
}

func (s simSecrets) Resolve(context.Context, string, SecretRef, bool) (sec Secret, err error) {
	err = s.p.do("resolve", func() error {
		sec = Secret{Value: "token", Version: s.p.s.secrets.token}
		return s.p.s.secrets.err
	})
	return sec, secretErr(err)
}

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
	if err := f.p.do("authorize", func() error { return f.p.s.ims }); err != nil {
		if ce := asCallError(err); ce.Verdict != VerdictUnknown {
			return ce
		}
		return &CallError{Verdict: VerdictNotSent, Target: TargetIMS, Cause: CauseNetwork, Err: err}
	}
	return nil
}

func (f simFlow) Create(_ context.Context, as Account, c NewConnection, notAfter time.Time) (conn Connection, err error) {
	s := f.p.s
	fate := f.p.park("create")
	switch {
	case fate == crashBefore:
		runtime.Goexit()
	case fate == failsBefore || !f.p.hub.Clock.Now().Before(notAfter):
		return conn, &CallError{Verdict: VerdictNotSent, Target: TargetFlow, Cause: CauseNetwork, Err: errInjected}
	}
	ans := s.post(s.posts)
	s.posts++
	if ans.made {
		conn = s.make(as, c, fate == crashAfter, notAfter.Add(-f.p.skew))
	}
	switch {
	case fate == crashAfter:
		runtime.Goexit()
	case ans.err != nil:
		return Connection{}, ans.err
	case fate == answerLost:
		return Connection{}, &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Cause: CauseTimeout, Err: errInjected}
	}
	return conn, nil
}

// make adds a connection. Where nobody waits for the answer, the server may take all of the lease.
func (s *sim) make(as Account, c NewConnection, orphaned bool, leaseEnd time.Time) Connection {
	from := s.now
	if orphaned && leaseEnd.After(from) && s.rng.IntN(2) == 0 {
		from = leaseEnd
	}
	id := fmt.Sprintf("c%d", len(s.conns)+1)
	p := c.Params
	s.conns = append(s.conns, simConn{visible: from.Add(time.Duration(s.rng.Int64N(int64(simSettle)))), Found: Found{
		Connection: Connection{ID: id, Etag: `"1"`}, Name: c.Name, Description: c.Description, CreatedAt: from,
		SpecID: c.ConnectionSpec.ID, SpecVersion: c.ConnectionSpec.Version, Domain: p.Domain, ClusterID: p.ClusterID,
		Database: p.Database, Catalog: p.Catalog,
	}})
	return Connection{ID: id, Etag: `"1"`}
}

func (f simFlow) Find(_ context.Context, _ Account, q Query) (found []Found, err error) {
	err = f.p.do("find", func() error {
		f.p.s.asked++
		for _, c := range f.p.s.conns {
			if !c.visible.After(f.p.s.now) && c.Name == q.Name && (q.SpecID == "" || c.SpecID == q.SpecID) {
				found = append(found, c.Found)
			}
		}
		return nil
	})
	if err != nil {
		return nil, &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Cause: CauseStatus, Status: 503, Err: err}
	}
	return found, nil
}
