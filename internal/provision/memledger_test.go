package provision

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// memLedger is the in-memory Ledger of all tests here. ledgertest holds it true to the real one.
type memLedger struct {
	mu   sync.Mutex
	m    map[Key]memEntry // guarded by mu
	last uint64           // revision, over all keys as in a KV bucket; guarded by mu
}

type memEntry struct {
	rec Record
	rev uint64
}

func newMemLedger() *memLedger { return &memLedger{m: map[Key]memEntry{}} }

func (l *memLedger) Load(ctx context.Context, k Key) (rec Record, rev uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return rec, 0, err
	}
	e, ok := l.m[k]
	if !ok {
		return rec, 0, ErrNoRecord
	}
	return clone(e.rec), e.rev, nil
}

func (l *memLedger) Store(ctx context.Context, k Key, rec Record, rev uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if l.m[k].rev != rev {
		return 0, ErrConflict
	}
	l.last++
	l.m[k] = memEntry{clone(rec), l.last}
	return l.last, nil
}

// clone returns a copy that shares nothing with r.
func clone(r Record) Record {
	r.Attempts, r.Secrets = slices.Clone(r.Attempts), maps.Clone(r.Secrets)
	r.Refused, r.LastFail, r.Final = dup(r.Refused), dup(r.LastFail), dup(r.Final)
	r.Resolution = dup(r.Resolution)
	if f := r.Final; f != nil {
		f.Result.Error, f.Result.Connection, f.Result.ConnectionSpec = dup(f.Result.Error), dup(f.Result.Connection), dup(f.Result.ConnectionSpec)
	}
	return r
}

func dup[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// record returns the record of k, empty if there is none.
func (l *memLedger) record(k Key) Record {
	rec, _, _ := l.Load(context.Background(), k)
	return rec
}

// put stores rec whatever is there.
func (l *memLedger) put(rec Record) {
	_, rev, _ := l.Load(context.Background(), rec.Key)
	_, _ = l.Store(context.Background(), rec.Key, rec, rev)
}
