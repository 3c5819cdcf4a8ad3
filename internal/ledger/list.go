package ledger

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/jsread"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// Filter says which records List is to yield. The zero value means all of them.
type Filter struct {
	Tenant string            // empty means every tenant
	Source string            // empty means every source
	ID     string            // empty means every id
	States []provision.State // empty means every state
	From   uint64            // only what was written at this revision or later; 0 means whenever
}

// pattern returns the filter as a pattern of bucket keys. Its error says which part no record can have.
func (f Filter) pattern() (string, error) {
	whole := provision.Key{Tenant: cmp.Or(f.Tenant, "any"), Source: cmp.Or(f.Source, "any"), ID: cmp.Or(f.ID, "any")}
	if err := whole.Validate(); err != nil {
		return "", err
	}
	parts := strings.Split(provision.Key{Tenant: f.Tenant, Source: f.Source, ID: f.ID}.String(), ".")
	for i, p := range parts {
		if p == "" {
			parts[i] = "*"
		}
	}
	return strings.Join(parts, "."), nil
}

// Entry is one record as the bucket keeps it.
type Entry struct {
	Record   provision.Record
	Revision uint64
	StoredAt time.Time // by the server's clock
}

// List yields the records that the filter lets through, in the order of their last writes unless the ledger
// is read ByMessage: then one that is written meanwhile may come twice, the later one last. A record
// that can't be decoded is yielded as an error with only its key in Entry.Record, and the list goes
// on; after any other error it ends, such as that of a filter with a tenant, source or id that no
// request can have.
func (l *Ledger) List(ctx context.Context, f Filter) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		pattern, err := f.pattern()
		if err != nil {
			yield(Entry{}, fmt.Errorf("ledger: list: %w", err))
			return
		}
		for v, err := range l.values(ctx, pattern, f.From) {
			if err != nil {
				yield(Entry{}, fmt.Errorf("ledger: list: %w", err))
				return
			}
			e, err := v.entry()
			if err == nil && len(f.States) > 0 && !slices.Contains(f.States, e.Record.State) {
				continue
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// value is a record as it is stored.
type value struct {
	key      string
	data     []byte
	revision uint64
	at       time.Time
}

// values yields what is there whose key matches, without marks of deletion. After an error it ends.
func (l *Ledger) values(ctx context.Context, pattern string, from uint64) iter.Seq2[value, error] {
	if l.byMessage {
		return l.messages(ctx, pattern, from)
	}
	opts := []jetstream.WatchOpt{jetstream.IgnoreDeletes()}
	if from > 0 {
		opts = append(opts, jetstream.ResumeFromRevision(from))
	}
	return func(yield func(value, error) bool) {
		for kve, err := range l.follow(ctx, pattern, opts...) {
			if kve == nil && err == nil || !yield(valueOf(kve), err) {
				return
			}
		}
	}
}

// messages is values for those who may not make consumers.
func (l *Ledger) messages(ctx context.Context, pattern string, from uint64) iter.Seq2[value, error] {
	return func(yield func(value, error) bool) {
		stream, err := jsread.Open(ctx, l.js, streamPrefix+l.kv.Bucket())
		if err != nil {
			yield(value{}, explain(err))
			return
		}
		prefix := subjectPrefix + l.kv.Bucket() + "."
		for msg, err := range jsread.Messages(ctx, stream, prefix+pattern, from) {
			switch {
			case err != nil:
				yield(value{}, explain(err))
				return
			case deletes(msg):
			case !yield(value{strings.TrimPrefix(msg.Subject, prefix), msg.Data, msg.Sequence, msg.Time}, nil):
				return
			}
		}
	}
}

// Watch yields the record as it is and then after every change, until ctx ends, which is yielded as
// its error. While there is none, and when it is deleted, ErrNoRecord is yielded and the watch goes on.
// A key that no request can have is an error at once.
func (l *Ledger) Watch(ctx context.Context, key provision.Key) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := key.Validate(); err != nil {
			yield(Entry{}, fmt.Errorf("ledger: watch: %w", err))
			return
		}
		if l.byMessage {
			l.poll(ctx, key, yield)
			return
		}
		seen := false
		for kve, err := range l.follow(ctx, key.String()) {
			var e Entry
			switch {
			case err != nil:
				yield(Entry{}, fmt.Errorf("ledger: watch %s: %w", key, err))
				return
			case kve == nil && seen:
				continue // the end of what was there
			case kve == nil || kve.Operation() != jetstream.KeyValuePut:
				err = provision.ErrNoRecord
			default:
				e, err = valueOf(kve).entry()
			}
			seen = true
			if !yield(e, err) {
				return
			}
		}
	}
}

// pollEvery is the time between two looks at a record.
const pollEvery = 500 * time.Millisecond

// poll is Watch for those who may not make consumers. Of changes that come faster it yields the last one.
func (l *Ledger) poll(ctx context.Context, key provision.Key, yield func(Entry, error) bool) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for seen, revision := false, uint64(0); ; seen = true {
		msg, err := l.last(ctx, key.String())
		switch {
		case ctx.Err() != nil:
			yield(Entry{}, fmt.Errorf("ledger: watch %s: %w", key, ctx.Err()))
			return
		case err != nil:
			yield(Entry{}, err)
			return
		case msg == nil || deletes(msg):
			if (!seen || revision != 0) && !yield(Entry{}, provision.ErrNoRecord) {
				return
			}
			revision = 0
		case msg.Sequence != revision:
			revision = msg.Sequence
			if !yield(value{key.String(), msg.Data, msg.Sequence, msg.Time}.entry()) {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// follow yields every entry whose key matches, nil after the last that was there at the start, and at
// last the reason why it ended.
func (l *Ledger) follow(ctx context.Context, pattern string, opts ...jetstream.WatchOpt) iter.Seq2[jetstream.KeyValueEntry, error] {
	return func(yield func(jetstream.KeyValueEntry, error) bool) {
		watchCtx, cancel := context.WithCancel(ctx)
		defer cancel()
		w, err := l.kv.Watch(watchCtx, pattern, opts...)
		if err != nil {
			yield(nil, explain(err))
			return
		}
		defer discard(w)
		for {
			select {
			case kve, ok := <-w.Updates():
				if !ok {
					yield(nil, watchEnd(ctx))
					return
				}
				if !yield(kve, nil) {
					return
				}
			case <-ctx.Done():
				yield(nil, ctx.Err())
				return
			}
		}
	}
}

func watchEnd(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("the watch was closed by the connection")
}

// discardWithin bounds how long a watch that was stopped is listened to: one whose context ended while
// it was being set up is never closed by the client library.
const discardWithin = 5 * time.Second

// discard stops w and, beside the caller, reads what it still wants to say: it would wait for a reader.
func discard(w jetstream.KeyWatcher) {
	_ = w.Stop()
	go func() {
		timer := time.NewTimer(discardWithin)
		defer timer.Stop()
		for {
			select {
			case _, ok := <-w.Updates():
				if !ok {
					return
				}
			case <-timer.C:
				return
			}
		}
	}()
}

// valueOf returns what an entry holds, nothing for nil.
func valueOf(kve jetstream.KeyValueEntry) value {
	if kve == nil {
		return value{}
	}
	return value{kve.Key(), kve.Value(), kve.Revision(), kve.Created()}
}

func (v value) entry() (Entry, error) {
	e := Entry{Revision: v.revision, StoredAt: v.at}
	key, err := provision.ParseKey(v.key)
	if err != nil {
		return e, fmt.Errorf("%w: %w", ErrUndecodable, err)
	}
	if e.Record, err = decode(key, v.data, lenient); err != nil {
		e.Record.Key = key
	}
	return e, err
}
