package app

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/ops"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// shelf lets the status page, which knows no NATS, read the ledger that is open. What can't be decoded
// was written by a newer worker, whose page shows it.
type shelf struct{ *worker }

// Newest implements ops.Ledger.
func (s shelf) Newest(ctx context.Context) (uint64, error) {
	stream, err := s.js.Stream(ctx, "KV_"+ledger.DefaultBucket)
	if err != nil {
		return 0, fmt.Errorf("the ledger's bucket: %w", err)
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// Since implements ops.Ledger.
func (s shelf) Since(ctx context.Context, revision uint64) iter.Seq2[ops.Written, error] {
	return func(yield func(ops.Written, error) bool) {
		for w, err := range s.recordsFrom(ctx, revision) {
			if !yield(ops.Written(w), err) {
				return
			}
		}
	}
}

// ByID implements ops.Ledger.
func (s shelf) ByID(ctx context.Context, id string) iter.Seq2[provision.Record, error] {
	return s.list(ctx, ledger.Filter{ID: id})
}

// Record implements ops.Ledger. A record that has more in it than this version knows is shown without.
func (s shelf) Record(ctx context.Context, key provision.Key) (provision.Record, error) {
	rec, _, err := s.record(ctx, key)
	if !errors.Is(err, ledger.ErrUndecodable) {
		return rec, err
	}
	for rec, err := range s.list(ctx, ledger.Filter{Tenant: key.Tenant, Source: key.Source, ID: key.ID}) {
		return rec, err
	}
	return rec, err
}

func (s shelf) list(ctx context.Context, f ledger.Filter) iter.Seq2[provision.Record, error] {
	return func(yield func(provision.Record, error) bool) {
		book := s.book.Load()
		if book == nil {
			yield(provision.Record{}, errNoLedger)
			return
		}
		for e, err := range book.List(ctx, f) {
			if errors.Is(err, ledger.ErrUndecodable) {
				continue
			}
			if !yield(e.Record, err) {
				return
			}
		}
	}
}

// resumesIn returns how long a pause still lasts.
func (w *worker) resumesIn() time.Duration { return w.consumer.Status().Pauses.Remaining }

// timedGate tells the status page how long calls took. One of the Flow Service begins with the ledger's
// write that announces it.
type timedGate struct {
	provision.Gate
	status *ops.Status
}

// Allow implements provision.Gate.
func (g timedGate) Allow(t provision.Target, tenant string) (func(provision.CallEnd), time.Duration) {
	done, wait := g.Gate.Allow(t, tenant)
	if done == nil {
		return nil, wait
	}
	began := time.Now()
	return func(end provision.CallEnd) {
		if end == provision.CallServed || end == provision.CallFailed {
			g.status.Called(t, time.Since(began), end == provision.CallFailed)
		}
		done(end)
	}, wait
}

// watchedConnections tells the status page of errors that are Adobe's. A refusal of what a tenant asked
// for is none.
type watchedConnections struct {
	provision.Connections
	status *ops.Status
}

// Authorize implements provision.Connections.
func (c watchedConnections) Authorize(ctx context.Context, as provision.Account) error {
	err := c.Connections.Authorize(ctx, as)
	c.tell(as, err)
	return err
}

// Create implements provision.Connections.
func (c watchedConnections) Create(ctx context.Context, as provision.Account, conn provision.NewConnection, notAfter time.Time) (provision.Connection, error) {
	made, err := c.Connections.Create(ctx, as, conn, notAfter)
	c.tell(as, err)
	return made, err
}

// Find implements provision.Connections.
func (c watchedConnections) Find(ctx context.Context, as provision.Account, q provision.Query) ([]provision.Found, error) {
	found, err := c.Connections.Find(ctx, as, q)
	c.tell(as, err)
	return found, err
}

// Get implements provision.Connections.
func (c watchedConnections) Get(ctx context.Context, as provision.Account, id string) (provision.Found, error) {
	found, err := c.Connections.Get(ctx, as, id)
	c.tell(as, err)
	return found, err
}

func (c watchedConnections) tell(as provision.Account, err error) {
	var ce *provision.CallError
	if !errors.As(err, &ce) || errors.Is(err, provision.ErrCircuitOpen) || errors.Is(err, provision.ErrNotAsked) || errors.Is(err, context.Canceled) {
		return
	}
	switch ce.Verdict {
	case provision.VerdictUnknown, provision.VerdictNotSent, provision.VerdictThrottled:
		c.status.Erred(ce.Target, fmt.Errorf("for %s: %w", as.Tenant, err))
	}
}

// watchedSecrets tells the status page of errors that are Vault's. That a tenant has no such secret is
// none.
type watchedSecrets struct {
	provision.Secrets
	status *ops.Status
}

// Credentials implements provision.Secrets.
func (s watchedSecrets) Credentials(ctx context.Context, tenant string, fresh bool) (provision.Credentials, error) {
	creds, err := s.Secrets.Credentials(ctx, tenant, fresh)
	s.tell(tenant, err)
	return creds, err
}

// Resolve implements provision.Secrets.
func (s watchedSecrets) Resolve(ctx context.Context, tenant string, ref provision.SecretRef, fresh bool) (provision.Secret, error) {
	secret, err := s.Secrets.Resolve(ctx, tenant, ref, fresh)
	s.tell(tenant, err)
	return secret, err
}

func (s watchedSecrets) tell(tenant string, err error) {
	var se *provision.SecretError
	if errors.As(err, &se) && se.Problem != provision.SecretMissing && !se.Cached && !errors.Is(err, context.Canceled) {
		s.status.Erred(provision.TargetVault, fmt.Errorf("for %s: %w", tenant, err))
	}
}

// The status page's view of what it watches.
var (
	_ ops.Ledger            = shelf{}
	_ provision.Gate        = timedGate{}
	_ provision.Connections = watchedConnections{}
	_ provision.Secrets     = watchedSecrets{}
)
