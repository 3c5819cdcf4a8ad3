package provision

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"
)

// act does what decide wants done, and returns what came of it.
func (t *task) act(ctx context.Context, do action) event {
	switch do.do {
	case doLoad:
		return t.load(ctx)
	case doSuspect:
		select {
		case t.hub.suspect <- struct{}{}:
			return event{kind: evGranted, granted: true}
		default:
			return event{kind: evGranted}
		}
	case doLook:
		seen := new(sighting)
		return event{kind: evLooked, seen: seen, err: t.look(ctx, do.look, seen)}
	case doRead:
		found, there, err := t.readOne(ctx, do.id)
		return event{kind: evRead, found: &found, there: there, err: err}
	case doCredentials:
		return event{kind: evCredentials, err: t.readCredentials(ctx)}
	case doSecrets:
		return event{kind: evSecrets, err: t.readSecrets(ctx)}
	case doAuthorize:
		return event{kind: evAuthorized, err: t.hub.Connections.Authorize(t.call(ctx), t.account())}
	case doAcquire:
		return t.acquire(ctx)
	case doAllow:
		return event{kind: evAllowed, err: t.allow(TargetFlow)}
	case doConfirm:
		return event{kind: evConfirmed}
	case doPost:
		return t.post(ctx)
	case doWait:
		return event{kind: evWaited, err: t.sleep(ctx, do.wait)}
	}
	panic("provision: nobody can " + string(do.do))
}

// call returns the context of a call to a service, which carries what the call is made for.
func (t *task) call(ctx context.Context) context.Context {
	e := t.d.Purpose(t.rec.Posts)
	e.Trace = t.trace()
	return e.Into(ctx)
}

func (t *task) account() Account {
	return Account{Tenant: t.d.Request.Key.Tenant, Sandbox: t.rec.Sandbox, Credentials: t.creds, Trace: t.trace()}
}

// sleep waits for d, or until the worker is asked to stop.
func (t *task) sleep(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.hub.Stopping, cancel)()
	if err := t.hub.Stopping.Err(); err != nil {
		return err
	}
	return t.hub.Clock.Sleep(ctx, d)
}

// The ledger.

// ledgerTries bounds how often one ledger write is tried before the message is given back.
const ledgerTries = 6

// firstWriteWait is at most how long a message rests whose record couldn't be written for the first time.
const firstWriteWait = 5 * time.Second

// errLost means that another worker wrote the record: what this one wanted to write is void.
var errLost = errors.New("provision: another worker changed the record")

// load reads the record, trying a few times.
func (t *task) load(ctx context.Context) event {
	ev := event{kind: evLoaded, rec: new(Record)}
	ev.err = t.tryLedger(ctx, ledgerTries, func() (again bool, err error) {
		*ev.rec, ev.rev, err = t.hub.Ledger.Load(ctx, t.d.Request.Key)
		return !errors.Is(err, ErrNoRecord), err
	})
	return ev
}

// store writes the record by compare-and-set until it is known to be stored, known to be void (errLost), or
// ledgerTries are used up: then it is not known. A write that failed may have been stored all the same, so it is read
// back, and only the very nonce of this write counts as ours. The end of ctx doesn't cut it: what
// is written here was done already, or must not be left half announced. A record's first write isn't
// repeated: the ledger may be gone, and be made anew before the next try, so the request has to be
// looked up first, as the message's next delivery does.
func (t *task) store(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	key, now := t.d.Request.Key, t.hub.Clock.Now()
	t.rec.Owner, t.rec.Nonce, t.rec.UpdatedAt = t.hub.Instance, t.hub.nonce(), now
	t.rec.HeldUntil = now.Add(t.hub.holdTime())
	tries := ledgerTries
	if t.rev == 0 {
		tries = 1
	}
	return t.tryLedger(ctx, tries, func() (again bool, err error) {
		rev, err := t.hub.Ledger.Store(ctx, key, t.rec, t.rev)
		if err == nil {
			t.rev = rev
			return false, nil
		}
		cur, rev, readErr := t.hub.Ledger.Load(ctx, key)
		switch {
		case errors.Is(readErr, ErrNoRecord) && t.rev != 0:
			return false, errLost
		case readErr != nil || rev == t.rev:
			return true, err
		case cur.Nonce != t.rec.Nonce:
			return false, errLost
		}
		t.rev = rev
		return false, nil
	})
}

// tryLedger calls the ledger until it is answered, or at most so many times.
func (t *task) tryLedger(ctx context.Context, tries int, call func() (again bool, err error)) error {
	again, err := call()
	if !again || err == nil || tries == 1 {
		return err
	}
	waits := newBackoff(100*time.Millisecond, 2*time.Second) // short, for somebody waits for it
	for try := 2; ; try++ {
		if err := t.hub.Clock.Sleep(ctx, t.hub.jitter(waits.NextBackOff())); err != nil {
			return err
		}
		if again, err = call(); !again || err == nil || try == tries {
			return err
		}
	}
}

// holdTime is the longest time between two ledger writes of one delivery: all its waiting, a call
// that began at the end of it, and a look-up over many pages.
func (h *Hub) holdTime() time.Duration { return h.RetryElapsed + 2*h.FlowTimeout + ClockSkew }

// published records that the result is published. Should it fail, the message's delivery publishes it again, under
// the same id.
func (t *task) published(ctx context.Context) {
	rec := t.rec
	rec.Published, rec.Nonce, rec.UpdatedAt = true, t.hub.nonce(), t.hub.Clock.Now()
	if _, err := t.hub.Ledger.Store(ctx, rec.Key, rec, t.rev); err != nil {
		t.log(slog.LevelDebug, "it is not recorded that the result is published", slog.Any("error", err))
	}
}

// The Gate.

// allow asks the gate for leave to call a target. An error says that it is not to be called for now.
func (t *task) allow(target Target) error {
	done, wait := t.hub.Gate.Allow(target, t.d.Request.Key.Tenant)
	if done == nil {
		return closedError(target, wait)
	}
	t.done = done
	return nil
}

// ended tells the gate what the call that it allowed showed of its target.
func (t *task) ended(end CallEnd) {
	if done := t.done; done != nil {
		t.done = nil
		done(end)
	}
}

// Secrets.

// readSecrets reads the tenant's credentials and the request's secret.
func (t *task) readSecrets(ctx context.Context) error {
	if err := t.readCredentials(ctx); err != nil {
		return err
	}
	return t.fromVault(ctx, func() (cached bool, err error) {
		t.secret, err = t.hub.Secrets.Resolve(t.call(ctx), t.d.Request.Key.Tenant, t.d.Request.Data.Auth.Params.AccessToken, t.pastCache)
		return t.secret.Cached, err
	})
}

func (t *task) readCredentials(ctx context.Context) error {
	err := t.fromVault(ctx, func() (cached bool, err error) {
		t.creds, err = t.hub.Secrets.Credentials(t.call(ctx), t.d.Request.Key.Tenant, t.pastCache)
		return t.creds.Cached, err
	})
	var se *SecretError
	if errors.As(err, &se) && se.Problem == SecretMissing {
		return &tenantError{se}
	}
	return err
}

// fromVault calls read unless the gate keeps callers from Vault, and tells the gate how it went. What was
// missing before is read past the cache.
func (t *task) fromVault(ctx context.Context, read func() (cached bool, err error)) error {
	t.readAt, t.pastCache = t.hub.Clock.Now(), t.fresh || t.rec.Missing != nil
	if err := t.allow(TargetVault); err != nil {
		return err
	}
	defer t.ended(CallVoid)
	cached, err := read()
	t.ended(vaultEnd(ctx, cached, err))
	return err
}

// The Flow Service.

// acquire waits for a slot, but not longer than the request may be worked on in this delivery, nor past its
// deadline, nor when the worker is asked to stop.
func (t *task) acquire(ctx context.Context) event {
	began := t.hub.Clock.Now()
	until := t.started.Add(t.hub.RetryElapsed)
	if t.rec.Deadline.Before(until) {
		until = t.rec.Deadline
	}
	ctx, cancel := context.WithTimeout(ctx, until.Sub(began))
	defer cancel()
	defer context.AfterFunc(t.hub.Stopping, cancel)()
	slot, err := t.hub.Slots.Acquire(ctx, t.rec.Key.Tenant)
	if err == nil {
		t.slot = slot
	}
	return event{kind: evAcquired, waited: t.hub.Clock.Now().Sub(began), err: err}
}

// release gives back the slot, if the task has one, with whether the POST was throttled or failed.
func (t *task) release(strained bool) {
	t.ended(CallVoid)
	if slot := t.slot; slot != nil {
		t.slot = nil
		slot.Release(strained)
	}
}

// post sends the POST that the ledger announces. The slot ends with it.
func (t *task) post(ctx context.Context) event {
	conn, err := Connection{}, t.begin()
	if err == nil {
		conn, err = t.hub.Connections.Create(context.WithoutCancel(t.call(ctx)), t.account(), t.newConnection(), t.rec.leaseEnd())
	}
	t.ended(flowEnd(err))
	t.release(strains(err))
	return event{kind: evAnswered, conn: conn, err: err}
}

// begin waits for the moment to send the POST that was announced. Its lease runs meanwhile, so that may take an eighth
// of it at most.
func (t *task) begin() error {
	ctx, cancel := context.WithTimeout(context.Background(), t.rec.leaseEnd().Sub(t.hub.Clock.Now())-t.hub.FlowTimeout*7/8)
	defer cancel()
	if err := t.slot.Begin(ctx); err != nil {
		return &CallError{Verdict: VerdictNotSent, Target: TargetFlow, Cause: CauseTimeout, Err: fmt.Errorf("%w: no slot came free in time", ErrNotAsked)}
	}
	return nil
}

func (t *task) newConnection() NewConnection {
	d := t.d.Request.Data
	return NewConnection{
		Name: d.Name, Description: strings.TrimLeft(d.Description+" "+t.d.Request.Key.Mark(), " "),
		SpecName: d.Auth.SpecName, Params: d.Auth.Params, AccessToken: t.secret.Value, ConnectionSpec: d.ConnectionSpec,
	}
}

// look is what a look-up asks for.
type look struct {
	sought
	queries     []Query // one after another, until one shows what is ours
	lastDecides bool    // the last query alone can tell that nothing is ours
	named       bool    // connections of the same name matter
}

// look asks one query after another, until one shows what is ours, and reads by their ids what a list leaves
// out of those that may be. An error means that nothing is known. Where the Flow Service fails at a query with
// a filter, the filter may be why: then the last query alone decides, if it can, or all there is is looked at.
func (t *task) look(ctx context.Context, l *look, s *sighting) error {
	known := map[string]bool{}
	for _, q := range l.queries {
		found, err := t.find(ctx, q, s)
		if len(q.Names) > 0 && failedAt(err) {
			if l.lastDecides {
				continue
			}
			found, err = t.find(ctx, Query{Want: q.Want}, s)
		}
		if err != nil {
			return err
		}
		for _, f := range found {
			if !known[f.ID] {
				known[f.ID] = true
				s.all = append(s.all, f)
			}
		}
		if l.sort(s); len(s.ours) > 0 {
			return nil
		}
	}
	if err := t.complete(ctx, l.sought, s); err != nil {
		return err
	}
	if l.sort(s); !l.named || len(s.ours) > 0 {
		return nil
	}
	var err error
	s.named, err = t.sameNamed(ctx, l.sought, s.all)
	return err
}

// failedAt reports whether the Flow Service failed at a call, without asking to be left alone.
func failedAt(err error) bool {
	var ce *CallError
	return errors.As(err, &ce) && ce.Target == TargetFlow && ce.Status >= http.StatusInternalServerError && ce.RetryAfter == 0
}

// find lists connections with the tenant's credentials of the moment.
func (t *task) find(ctx context.Context, q Query, s *sighting) (found []Found, err error) {
	if err := t.readCredentials(ctx); err != nil {
		return nil, err
	}
	s.asked = true
	if err := t.hub.Connections.Authorize(t.call(ctx), t.account()); err != nil {
		return nil, err
	}
	err = t.askFlow(ctx, func() error {
		found, err = t.hub.Connections.Find(t.call(ctx), t.account(), q)
		return err
	})
	s.served = s.served || err == nil
	return found, err
}

// maxReads bounds how many connections one look-up reads by their ids.
const maxReads = 100

var errTooMany = errors.New("the list leaves out what would tell; the next look-up goes on with the rest")

// complete reads by their ids those connections that may be ours as far as the list shows them, those first
// that have the request's name. What was read stays known to the delivery, so that the next look-up goes on
// where this one had enough.
func (t *task) complete(ctx context.Context, who sought, s *sighting) error {
	if who.nothing {
		return nil
	}
	slices.SortStableFunc(s.all, func(a, b Found) int { return cmp.Compare(who.standing(b), who.standing(a)) })
	there, reads := s.all[:0], 0
	for _, f := range s.all {
		if who.mayBeOurs(f) {
			if _, known := t.found[f.ID]; !known {
				reads++
			}
			if reads > maxReads {
				return fmt.Errorf("more than %d connections may be this request's: %w", maxReads, errTooMany)
			}
			full, ok, err := t.readOne(ctx, f.ID)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			f = full
		}
		there = append(there, f)
	}
	s.all = there
	return nil
}

// sameNamed returns which connections have the request's name, and what else ifExists looks at: what the
// list left out is read by their ids.
func (t *task) sameNamed(ctx context.Context, who sought, all []Found) (named []Found, err error) {
	for _, f := range all {
		if deleted(f) || f.Name != "" && !sameText(f.Name, who.name) {
			continue
		}
		if f.Name == "" || f.State == "" || f.SpecID == "" || f.SpecVersion == "" || f.Domain == "" || f.ClusterID == "" || f.Database == "" {
			full, there, err := t.readOne(ctx, f.ID)
			if err != nil {
				return nil, err
			}
			if !there {
				continue
			}
			f = full
		}
		if sameText(f.Name, who.name) && !deleted(f) {
			named = append(named, f)
		}
	}
	oldestFirst(named)
	return named, nil
}

// readOne reads a connection by its id, once in a delivery. It is not there if the Flow Service itself says
// so, which may be true for a moment only.
func (t *task) readOne(ctx context.Context, id string) (f Found, there bool, err error) {
	if f, known := t.found[id]; known {
		return f, true, nil
	}
	err = t.askFlow(ctx, func() error {
		f, err = t.hub.Connections.Get(t.call(ctx), t.account(), id)
		return err
	})
	var ce *CallError
	switch {
	case errors.As(err, &ce) && ce.Verdict == VerdictRejected && ce.Status == http.StatusNotFound:
		return Found{}, false, nil
	case err != nil:
		return Found{}, false, err
	}
	if t.found == nil {
		t.found = map[string]Found{}
	}
	t.found[id] = f
	return f, true, nil
}

// askFlow makes a call that only reads, unless the gate keeps callers from the Flow Service.
func (t *task) askFlow(ctx context.Context, call func() error) error {
	if err := t.allow(TargetFlow); err != nil {
		return err
	}
	defer t.ended(CallVoid)
	err := call()
	if err != nil && ctx.Err() != nil {
		return err
	}
	t.ended(flowEnd(err))
	return err
}
