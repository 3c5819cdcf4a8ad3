package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// ErrNotNoted means that the bucket could be read, but what was found out about it could not be written
// there, so that other processes have to find it out themselves.
var ErrNotNoted = errors.New("ledger: the note on what was lost can't be written")

// Guard notices that a bucket that is there has lost records: that it was purged, or created again, or that
// its last writes went with the power. It keeps a note in the bucket, which goes with the records and
// tells later processes, and it looks whether the last write of this process is still there. It notices
// neither the loss of single records nor a purge of some subjects, unless they are that note or that
// write.
//
// A process has one Guard, which outlives every Ledger it is given to. The zero value has seen nothing
// yet. Its methods are safe for concurrent use.
type Guard struct {
	checking  sync.Mutex // held during a Check
	seen      uint64     // revision of the note that was seen last; guarded by checking
	noteAfter time.Time  // no write of the note is tried before; guarded by checking

	clock func() time.Time // nil means time.Now; set by tests only

	mu      sync.Mutex
	lostAt  time.Time // guarded by mu
	witness written   // guarded by mu
	newest  uint64    // the highest revision that the bucket is known to have had; guarded by mu
}

// written is a record that this process wrote.
type written struct {
	key      provision.Key
	revision uint64
	nonce    string
	at       time.Time
}

// Limits of a Check.
const (
	noteTries   = 4           // writes of the note that others may be quicker with
	noteBackoff = time.Minute // between tries where it can't be written
	witnessLife = DefaultTTL / 2
)

// LostAt returns when records were last found to be missing, as of the last Check: what was written
// before may not be there. Zero means never.
func (g *Guard) LostAt() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lostAt
}

func (g *Guard) now() time.Time {
	if g.clock != nil {
		return g.clock()
	}
	return time.Now()
}

// reached remembers that the bucket has had this revision, and returns the highest that it is known to
// have had.
func (g *Guard) reached(rev uint64) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.newest = max(g.newest, rev)
	return g.newest
}

// stored remembers the latest record that was written, in a bucket that had reached the revision before
// when the write began. Revisions only grow, so one that isn't higher is of a bucket that was created again,
// or has lost its last writes.
func (g *Guard) stored(key provision.Key, rec provision.Record, before, rev uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if rev <= before {
		g.lostAt, g.witness, g.newest = later(g.lostAt, g.now()), written{}, rev
	}
	g.newest = max(g.newest, rev)
	if rev > g.witness.revision {
		g.witness = written{key, rev, rec.Nonce, g.now()}
	}
}

// Check looks at the bucket that l has open, and keeps the note in it: a bucket that has none gets one,
// an old one is written again. It takes two short reads where all is well. LostAt is right where its
// error is nil or ErrNotNoted; any other means that nothing was found out, as a rule because the bucket
// can't be read.
func (g *Guard) Check(ctx context.Context, l *Ledger) error {
	g.checking.Lock()
	defer g.checking.Unlock()
	sure := false // that the bucket's leader, which may be new, shows all that it has
	for range noteTries {
		f, err := g.look(ctx, l)
		if err != nil {
			return err
		}
		if f.gone && sure {
			f.lostAt = g.now()
		}
		if !f.gone && f.note.says(f.lostAt, g.now()) {
			g.remember(f.note.revision, f.lostAt)
			return nil
		}
		err = g.write(ctx, l, f)
		switch {
		case isConflict(err): // another process was quicker, and may know more
		case err == nil && f.gone && !sure:
			sure = true // it wrote, so it has dealt with all that came before
		default:
			return err
		}
	}
	return fmt.Errorf("ledger: %s was written by others %d times while it was looked at", noteKey, noteTries)
}

// Prove writes the note again, whatever it says, and returns nil when the bucket has confirmed that: it takes writes.
// A bucket that is full may still take this one, because it replaces another.
func (g *Guard) Prove(ctx context.Context, l *Ledger) error {
	g.checking.Lock()
	defer g.checking.Unlock()
	f, err := g.look(ctx, l)
	if err != nil {
		return err
	}
	rev, err := l.writeNote(ctx, f.note, noteValue{LostAt: f.lostAt})
	switch {
	case isConflict(err): // it has just taken another process's
		return nil
	case err != nil:
		return fmt.Errorf("ledger: write %s: %w", noteKey, explain(err))
	}
	g.remember(rev, f.lostAt)
	return nil
}

// findings are what a look came to.
type findings struct {
	note   note
	lostAt time.Time // when records were last lost, but for gone
	gone   bool      // the last write of this process isn't there
}

func (g *Guard) look(ctx context.Context, l *Ledger) (f findings, err error) {
	if f.note, err = l.readNote(ctx); err != nil {
		return f, err
	}
	if f.lostAt, err = g.lastLoss(ctx, l, f.note); err != nil {
		return f, err
	}
	f.gone, err = g.witnessGone(ctx, l)
	return f, err
}

// write notes and remembers what was found, unless there is a conflict. Where it can't be noted, it can't
// be made sure of either that a witness is gone: that it is, is the careful side.
func (g *Guard) write(ctx context.Context, l *Ledger, f findings) error {
	err := fmt.Errorf("the last try was less than %v ago", noteBackoff)
	if g.now().After(g.noteAfter) {
		var rev uint64
		if rev, err = l.writeNote(ctx, f.note, noteValue{LostAt: f.lostAt}); isConflict(err) {
			return err
		} else if err == nil {
			g.remember(rev, f.lostAt)
			return nil
		}
		g.noteAfter = g.now().Add(noteBackoff)
	}
	if f.gone {
		f.lostAt = g.now()
	}
	g.remember(f.note.revision, f.lostAt)
	return fmt.Errorf("%w: %w; the worker needs the right to publish to %s%s.>", ErrNotNoted, explain(err), subjectPrefix, l.kv.Bucket())
}

// remember keeps what a look came to. What was lost once stays lost, whatever the note says, and what
// was written before proves nothing any more.
func (g *Guard) remember(rev uint64, lostAt time.Time) {
	g.seen = rev
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lostAt = later(g.lostAt, lostAt)
	if !g.witness.at.After(g.lostAt) {
		g.witness = written{}
	}
}

// lastLoss returns when records were last lost, as far as the note, the bucket and the memory of this
// process show.
func (g *Guard) lastLoss(ctx context.Context, l *Ledger, n note) (time.Time, error) {
	now, lostAt := g.now(), later(g.LostAt(), n.LostAt)
	switch {
	case n.state == noteOdd, n.state == noteDeleted, n.revision < g.seen:
		return now, nil
	case n.state == noteThere:
		return lostAt, nil
	}
	info, err := l.stream.Info(ctx)
	if err != nil {
		return lostAt, fmt.Errorf("ledger: bucket %s: %w", l.kv.Bucket(), explain(err))
	}
	return later(lostAt, lostBefore(info, now)), nil
}

// witnessGone reports whether the last record that this process wrote is not there any more. Where
// another one wrote it since, or somebody deleted it by its key, it counts as there.
func (g *Guard) witnessGone(ctx context.Context, l *Ledger) (bool, error) {
	g.mu.Lock()
	w := g.witness
	g.mu.Unlock()
	if w.revision == 0 || g.now().Sub(w.at) > witnessLife || l.stream.CachedInfo().Config.AllowDirect {
		return false, nil // direct reads may come from a replica that is behind
	}
	msg, err := l.last(ctx, w.key.String())
	switch {
	case err != nil:
		return false, err
	case msg == nil:
		return true, nil
	case deletes(msg):
		return false, nil
	}
	rec, err := decode(w.key, msg.Data, lenient)
	other := err != nil || rec.Nonce != w.nonce
	return msg.Sequence < w.revision || msg.Sequence == w.revision && other, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// noteKey is where the bucket says of itself how complete it is. It is no request's key, for no tenant
// begins with "_", and List passes over it, for it has two parts only.
const noteKey = "_flow-worker.complete"

// How long things about the note may take.
const (
	noteRefresh = 24 * time.Hour  // it is written again that often, for the bucket forgets what is old
	newborn     = 2 * time.Minute // a bucket this young that was never written to has lost nothing
)

// note is the note as it was read.
type note struct {
	noteValue
	state    noteState
	revision uint64    // 0 where there is none, nor a mark of its deletion
	storedAt time.Time // by the server's clock
}

type noteState int

const (
	noteAbsent  noteState = iota
	noteDeleted           // somebody deleted it by its key
	noteOdd               // it isn't understood
	noteThere
)

// noteValue is what the note says.
type noteValue struct {
	// LostAt is when records were last found to be missing: what was written before may not be
	// there. Zero means that no record was ever lost.
	LostAt time.Time `json:"lostAt,omitzero"`
}

// says reports whether the note is there, says that records were lost at lostAt, and need not be written
// again yet.
func (n note) says(lostAt, now time.Time) bool {
	return n.state == noteThere && n.LostAt.Equal(lostAt) && now.Sub(n.storedAt) < noteRefresh
}

// readNote reads the note. That there is none is no error.
func (l *Ledger) readNote(ctx context.Context) (note, error) {
	msg, err := l.last(ctx, noteKey)
	switch {
	case err != nil:
		return note{}, err
	case msg == nil:
		return note{}, nil
	case deletes(msg):
		return note{state: noteDeleted}, nil
	}
	n := note{state: noteThere, revision: msg.Sequence, storedAt: msg.Time}
	if err := json.Unmarshal(msg.Data, &n.noteValue); err != nil {
		n.state, n.noteValue = noteOdd, noteValue{}
	}
	return n, nil
}

// last returns the last message of a key, which may be a mark of its deletion; nil where there is none.
// KeyValue.Get makes no difference between the two.
func (l *Ledger) last(ctx context.Context, key string) (*jetstream.RawStreamMsg, error) {
	msg, err := l.stream.GetLastMsgForSubject(ctx, subjectPrefix+l.kv.Bucket()+"."+key)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("ledger: read %s: %w", key, explain(err))
	}
	return msg, nil
}

// deletes reports whether msg marks the deletion of its key.
func deletes(msg *jetstream.RawStreamMsg) bool { return msg.Header.Get("KV-Operation") != "" }

// writeNote puts v in the place of n and returns the new revision, or a conflict where n is not what is
// there.
func (l *Ledger) writeNote(ctx context.Context, n note, v noteValue) (uint64, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("ledger: encode %s: %w", noteKey, err)
	}
	if n.revision == 0 {
		return l.kv.Create(ctx, noteKey, value)
	}
	return l.kv.Update(ctx, noteKey, value, n.revision)
}

// lostBefore returns the latest time at which a bucket without a note may have lost records; zero means
// that it can't have. What a purge leaves is younger than what it takes, and nothing that is lost was
// written after the last write.
func lostBefore(info *jetstream.StreamInfo, now time.Time) time.Time {
	s := info.State
	switch {
	case s.LastSeq == 0 && now.Sub(info.Created) < newborn:
		return time.Time{}
	case s.Msgs > 0:
		return s.FirstTime
	case s.LastSeq > 0 && s.LastTime.Unix() > 0:
		return s.LastTime
	}
	return now
}
