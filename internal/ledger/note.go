package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// noteKey is where the bucket says of itself how complete it is. It is no request's key, for no tenant
// begins with "_", and List passes over it, for it has two parts only.
const noteKey = "_flow-worker.complete"

// How long things about the note may take.
const (
	noteRefresh = 24 * time.Hour  // it is written anew that often, for the bucket forgets what is old
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
// anew yet.
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
