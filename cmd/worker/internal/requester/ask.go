package requester

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/inquiry"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// Reader finds and follows requests.
type Reader interface {
	// Find returns the one record that f matches, or all candidates with ErrAmbiguous, or ErrUnknown.
	Find(ctx context.Context, f Filter) ([]provision.Record, error)
	// Follow calls f with the record of key as it is and then with its changes, until f returns false or
	// ctx ends, which is no error. While there is no record f is called with an empty one.
	Follow(ctx context.Context, key provision.Key, f func(provision.Record) bool) error
}

// MayRead reports whether the user may look at the ledger. One of a tenant may not. The connection must be a
// new one.
func MayRead(ctx context.Context, js jetstream.JetStream) (bool, error) {
	nc := js.Conn()
	ask := nats.NewMsg(consumer.APISubject(js, "STREAM.INFO.KV_"+ledger.DefaultBucket))
	ask.Reply = nc.NewInbox()
	denied, err := refused(ctx, nc, func() error { return nc.PublishMsg(ask) })
	return !denied, err
}

// Asker is the Reader of a tenant's own user: it asks the workers. Tenant must be set in every Filter and
// Key, States and times mean nothing. It is safe for concurrent use.
type Asker struct{ nc *nats.Conn }

// NewAsker returns an Asker on a connection that stays the caller's.
func NewAsker(nc *nats.Conn) Asker { return Asker{nc} }

// askEvery is how often an Asker looks for changes.
const askEvery = time.Second

// Find implements Reader. Its errors are those of inquiry.Ask, too.
func (a Asker) Find(ctx context.Context, f Filter) ([]provision.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	recs, err := inquiry.Ask(ctx, a.nc, f.Tenant, inquiry.Question{ID: f.ID, Source: f.Source})
	switch {
	case err != nil:
		return nil, err
	case len(recs) == 0:
		return nil, ErrUnknown
	case len(recs) > 1:
		return recs, ErrAmbiguous
	}
	return recs, nil
}

// Follow implements Reader. Of changes that come faster than it asks it tells the last one.
func (a Asker) Follow(ctx context.Context, key provision.Key, f func(provision.Record) bool) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		var rec provision.Record
		recs, err := a.Find(ctx, Filter{Filter: ledger.Filter{Tenant: key.Tenant, Source: key.Source, ID: key.ID}})
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			rec = recs[0]
		case !errors.Is(err, ErrUnknown):
			return err
		}
		if !f(rec) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
