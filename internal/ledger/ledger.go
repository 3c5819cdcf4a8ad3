// Package ledger keeps the hub's records in a JetStream key-value bucket.
//
// Every write is a compare-and-set on the record's own subject. Reads go to the leader of the bucket's
// stream, not to whichever replica is near, so that what was written is seen by the next read. The
// package never retries a call: any error of Store may hide a write that was stored all the same, and
// only the hub can find out, by the nonce in the record.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	jsonv1 "github.com/go-json-experiment/json/v1"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Defaults of Config.
const (
	DefaultBucket = "connection-ledger"
	DefaultTTL    = 30 * 24 * time.Hour
)

// MaxRecordSize is the largest encoded record in bytes that Store takes.
const MaxRecordSize = 256 << 10

// Errors of Load and Store beside those of provision.Ledger.
var (
	// ErrUndecodable means that a record is there but isn't understood. It is never overwritten.
	ErrUndecodable = errors.New("ledger: undecodable record")
	// ErrTooLarge means that the record was not sent, because it is larger than MaxRecordSize.
	ErrTooLarge = errors.New("ledger: record too large")
)

// Config says which bucket a Ledger uses. The zero value names the default bucket and only opens it.
type Config struct {
	Bucket   string        // empty means DefaultBucket
	Replicas int           // at least that many; 0 means 1
	TTL      time.Duration // records live at least that long after their last write; 0 means DefaultTTL
	MaxBytes int64         // of a bucket that is made, and the least of one that has a limit; 0 means none
	Manage   bool          // create the bucket, or upgrade it; otherwise it must be there and be good enough
	Guard    *Guard        // gets every record that is stored; nil means none

	// ByMessage has List and Watch read record by record, for users who may not make consumers. List then
	// yields in no order, and Watch looks twice a second.
	ByMessage bool
}

func (c Config) withDefaults() Config {
	if c.Bucket == "" {
		c.Bucket = DefaultBucket
	}
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	c.Replicas = max(c.Replicas, 1)
	return c
}

// Ledger is a provision.Ledger. It is safe for concurrent use.
type Ledger struct {
	kv      jetstream.KeyValue
	stream  jetstream.Stream
	setup   Setup
	guard   *Guard // nil means none
	js      jetstream.JetStream
	created atomic.Pointer[time.Time]

	byMessage bool
}

var _ provision.Ledger = (*Ledger)(nil)

// Open opens the bucket, after it created or upgraded it where cfg.Manage says so. What an existing
// bucket has beyond cfg is kept. Several processes may call it at the same time.
func Open(ctx context.Context, js jetstream.JetStream, cfg Config) (*Ledger, error) {
	cfg = cfg.withDefaults()
	setup, err := prepare(ctx, js, cfg)
	if err != nil {
		return nil, fmt.Errorf("ledger: bucket %s: %w", cfg.Bucket, err)
	}
	l := &Ledger{js: js, setup: setup, guard: cfg.Guard, byMessage: cfg.ByMessage}
	if l.kv, err = js.KeyValue(ctx, cfg.Bucket); err != nil {
		return nil, fmt.Errorf("ledger: open bucket %s: %w", cfg.Bucket, err)
	}
	if l.stream, err = js.Stream(ctx, streamPrefix+cfg.Bucket); err != nil {
		return nil, fmt.Errorf("ledger: open bucket %s: %w", cfg.Bucket, err)
	}
	l.saw(l.stream.CachedInfo())
	return l, nil
}

// Setup returns what Open did to the bucket.
func (l *Ledger) Setup() Setup { return l.setup }

// Created returns when the bucket came to be, by the server's clock, as Open or the last Refresh saw
// it.
func (l *Ledger) Created() time.Time { return *l.created.Load() }

// Refresh asks the server again when the bucket came to be: it may have been deleted and created again.
// Its error says that the bucket is not to be had.
func (l *Ledger) Refresh(ctx context.Context) error {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("ledger: bucket %s: %w", l.kv.Bucket(), explain(err))
	}
	l.saw(info)
	return nil
}

func (l *Ledger) saw(info *jetstream.StreamInfo) {
	created := info.Created
	l.created.Store(&created)
	if l.guard != nil {
		l.guard.reached(info.State.LastSeq)
	}
}

// Load implements provision.Ledger. Its error is ErrUndecodable where a record is there that this
// version doesn't understand in full: to write it back would lose what another version put in.
func (l *Ledger) Load(ctx context.Context, key provision.Key) (provision.Record, uint64, error) {
	if key.Validate() != nil { // it would not fit into a subject, so it was never stored
		return provision.Record{}, 0, provision.ErrNoRecord
	}
	entry, err := l.kv.Get(ctx, key.String())
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound): // ErrKeyDeleted is one of its kind
		return provision.Record{}, 0, provision.ErrNoRecord
	case err != nil:
		return provision.Record{}, 0, fmt.Errorf("ledger: load %s: %w", key, explain(err))
	}
	rec, err := decode(key, entry.Value(), strict)
	if err != nil {
		return provision.Record{}, 0, fmt.Errorf("%w (revision %d)", err, entry.Revision())
	}
	return rec, entry.Revision(), nil
}

// Store implements provision.Ledger. A key whose record was deleted or expired counts as one without
// a record. Its error is ErrTooLarge, or that of key.Validate, where nothing was sent.
func (l *Ledger) Store(ctx context.Context, key provision.Key, rec provision.Record, rev uint64) (uint64, error) {
	value, err := encode(key, rec)
	if err != nil {
		return 0, err
	}
	var got, before uint64
	if l.guard != nil {
		before = l.guard.reached(rev)
	}
	if rev == 0 {
		got, err = l.kv.Create(ctx, key.String(), value)
	} else {
		got, err = l.kv.Update(ctx, key.String(), value, rev)
	}
	switch {
	case isConflict(err):
		return 0, fmt.Errorf("%w: %s is not at revision %d", provision.ErrConflict, key, rev)
	case err != nil:
		return 0, fmt.Errorf("ledger: store %s at revision %d: %w", key, rev, explain(err))
	}
	if l.guard != nil {
		l.guard.stored(key, rec, before, got)
	}
	return got, nil
}

// isConflict recognizes a lost compare-and-set by its code: replicated streams report another one than
// single streams, and the client maps only some of them.
func isConflict(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
			api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant
	}
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch)
}

// explain adds the remedy where the server says that the bucket isn't there.
func explain(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) {
		return fmt.Errorf("the bucket is gone or JetStream has no leader for it; if it was deleted, run \"worker init\": %w", err)
	}
	return err
}

func encode(key provision.Key, rec provision.Record) ([]byte, error) {
	if err := key.Validate(); err != nil {
		return nil, fmt.Errorf("ledger: store: %w", err)
	}
	if rec.Key != key {
		return nil, fmt.Errorf("ledger: store %s: the record is that of %s", key, rec.Key)
	}
	value, err := json.Marshal(&rec, recordForm)
	if err != nil {
		return nil, fmt.Errorf("ledger: encode %s: %w", key, err)
	}
	if len(value) > MaxRecordSize {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d are allowed", ErrTooLarge, key, len(value), MaxRecordSize)
	}
	return value, nil
}

// recordForm is the form that encoding/json gives a record, and reads: workers of other versions share the bucket.
var recordForm = jsonv1.DefaultOptionsV1()

// mode says what decode makes of a field it doesn't know.
type mode bool

const (
	strict  mode = true  // refuse it: the record may be written back
	lenient mode = false // skip it: the record is only shown
)

func decode(key provision.Key, value []byte, m mode) (provision.Record, error) {
	var rec provision.Record
	if err := json.Unmarshal(value, &rec, recordForm, json.RejectUnknownMembers(bool(m))); err != nil {
		return provision.Record{}, fmt.Errorf("%w: %s: %w; was it written by a newer version?", ErrUndecodable, key, err)
	}
	if rec.Key != key {
		return provision.Record{}, fmt.Errorf("%w: %s holds the record of %s", ErrUndecodable, key, rec.Key)
	}
	if !slices.Contains(provision.States, rec.State) {
		return provision.Record{}, fmt.Errorf("%w: %s is in the unknown state %q", ErrUndecodable, key, rec.State)
	}
	return rec, nil
}
