package requester

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/inquiry"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// Filter says which records List returns; empty fields match all.
type Filter struct {
	ledger.Filter
	OlderThan   time.Duration // since the request entered the stream
	NewerThan   time.Duration
	EndedWithin time.Duration // since it ended; what hasn't doesn't match
	AdoptedOnly bool          // of those created, only the ones whose connection was adopted
	Limit       int           // only so many, those that entered the stream last, or ended last where that is asked for; 0 means all
}

func (f Filter) match(rec provision.Record, now time.Time) bool {
	age := now.Sub(rec.RequestedAt)
	if f.AdoptedOnly && rec.State == provision.StateCreated && (rec.Final == nil || !rec.Final.Result.Adopted) {
		return false
	}
	if f.EndedWithin > 0 && (rec.Final == nil || now.Sub(rec.Final.Result.CompletedAt) > f.EndedWithin) {
		return false
	}
	return (f.OlderThan == 0 || age >= f.OlderThan) && (f.NewerThan == 0 || age <= f.NewerThan)
}

// at returns the time that orders the list.
func (f Filter) at(rec provision.Record) time.Time {
	if f.EndedWithin > 0 {
		return rec.Final.Result.CompletedAt
	}
	return rec.RequestedAt
}

// List returns the records that match f, oldest request first, or the one that ended first. Records that this version can't read
// are left out and named in the error, beside the others.
func (c *Client) List(ctx context.Context, f Filter) ([]provision.Record, error) {
	recs, _, err := c.ListSome(ctx, f)
	return recs, err
}

// ListSome is List that also returns how many records match beyond f.Limit. It holds no more than about
// twice as many at a time.
func (c *Client) ListSome(ctx context.Context, f Filter) (recs []provision.Record, more int, err error) {
	var entries []ledger.Entry
	var unreadable []error
	now := time.Now()
	for e, err := range c.ledger.List(ctx, f.Filter) {
		switch {
		case err != nil:
			unreadable = append(unreadable, err)
			continue
		case f.match(e.Record, now):
			entries = append(entries, e)
		}
		if f.Limit > 0 && len(entries) > 2*f.Limit {
			entries, more = f.latest(entries, more)
		}
	}
	entries, more = f.latest(newest(entries), more)
	for _, e := range entries {
		recs = append(recs, e.Record)
	}
	return recs, more, errors.Join(unreadable...)
}

// newest leaves out what was written again, and so read again, while the ledger was read.
func newest(entries []ledger.Entry) []ledger.Entry {
	last := map[provision.Key]uint64{} // :: key → revision
	for _, e := range entries {
		last[e.Record.Key] = max(last[e.Record.Key], e.Revision)
	}
	return slices.DeleteFunc(entries, func(e ledger.Entry) bool { return e.Revision < last[e.Record.Key] })
}

// latest sorts entries and leaves the last f.Limit of them, all for 0. It adds the others to more.
func (f Filter) latest(entries []ledger.Entry, more int) ([]ledger.Entry, int) {
	slices.SortStableFunc(entries, func(a, b ledger.Entry) int { return f.at(a.Record).Compare(f.at(b.Record)) })
	over := len(entries) - f.Limit
	if f.Limit == 0 || over <= 0 {
		return entries, more
	}
	copy(entries, entries[over:])
	clear(entries[f.Limit:])
	return entries[:f.Limit], more + over
}

// Load returns the record of key as it is now and its revision, or provision.ErrNoRecord.
func (c *Client) Load(ctx context.Context, key provision.Key) (provision.Record, uint64, error) {
	return c.ledger.Load(ctx, key)
}

// Errors of Find.
var (
	ErrUnknown   = errors.New("the ledger knows no such request")
	ErrAmbiguous = errors.New("several requests have this id")
)

// Find returns the one record that f matches, or all candidates with ErrAmbiguous, or ErrUnknown.
func (c *Client) Find(ctx context.Context, f Filter) ([]provision.Record, error) {
	recs, err := c.List(ctx, f)
	return theOne(recs, err)
}

func theOne(recs []provision.Record, err error) ([]provision.Record, error) {
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

// Follow calls f with the record of key as it is and then with every change of it, until f returns
// false or ctx ends, which is no error. While there is no record f is called with an empty one.
func (c *Client) Follow(ctx context.Context, key provision.Key, f func(provision.Record) bool) error {
	for e, err := range c.ledger.Watch(ctx, key) {
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !errors.Is(err, provision.ErrNoRecord):
			return err
		case !f(e.Record):
			return nil
		}
	}
	return nil
}

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
	return theOne(recs, err)
}

// Follow implements Reader. Of changes that come faster than it asks it reports the last one.
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
