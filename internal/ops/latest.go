package ops

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Ledger is what the status page reads of the ledger. All methods are safe for concurrent use, and heed
// their context.
type Ledger interface {
	// Newest returns the highest revision there is, 0 where nothing was ever written. It must be cheap.
	Newest(ctx context.Context) (uint64, error)
	// Since yields the records that were written at a revision or later, in order. An error is the last.
	Since(ctx context.Context, revision uint64) iter.Seq2[Written, error]
	// ByID yields the records of every tenant and source with the id. An error is the last.
	ByID(ctx context.Context, id string) iter.Seq2[provision.Record, error]
	// Record returns one record, or provision.ErrNoRecord.
	Record(ctx context.Context, key provision.Key) (provision.Record, error)
}

// Written is a record and the revision it was written at.
type Written struct {
	Record   provision.Record
	Revision uint64
}

// Bounds of what the page reads of the ledger.
const (
	maxBehind   = 2000            // revisions that one look reads; what is older is passed over
	maxPerState = 100             // requests of each state that are remembered
	lookEvery   = time.Second     // between looks, while somebody looks at the page
	lookTimeout = 3 * time.Second // for one look, and for one search
	maxFound    = 50              // by a search
)

// latest remembers the requests whose records were written last. It reads the ledger only when it is
// asked for them, at most once in lookEvery, and then no more than maxBehind revisions. Callers at the
// same time share one look.
type latest struct {
	ledger Ledger
	flight singleflight.Group

	// Only the flight's function uses the rest.
	rows   map[provision.Key]Request
	next   uint64    // revision to go on from; 0 before the first look
	at     time.Time // of the last look
	err    error     // of the last look
	sorted []Request // after it
}

// Request is a request as it is listed.
type Request struct {
	Key        provision.Key    `json:"key"`
	Name       string           `json:"name,omitempty"`
	State      provision.State  `json:"state"`
	Adopted    bool             `json:"adopted,omitempty"`
	Reason     provision.Reason `json:"reason,omitempty"`     // why it failed
	Connection string           `json:"connection,omitempty"` // its id
	Hindrance  string           `json:"hindrance,omitempty"`  // what it failed of, or what is in its way; shortened
	Posts      int              `json:"posts"`
	Retry      int              `json:"retry,omitempty"`
	EnteredAt  time.Time        `json:"enteredAt"`
	UpdatedAt  time.Time        `json:"updatedAt"`

	revision uint64
}

func newLatest(ledger Ledger) *latest {
	return &latest{ledger: ledger, rows: map[provision.Key]Request{}}
}

// list returns the requests that are known, the last written first, and what is wrong with the ledger.
func (l *latest) list(ctx context.Context) ([]Request, string) {
	rows, err, _ := l.flight.Do("", func() (any, error) {
		if time.Since(l.at) >= lookEvery {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
			defer cancel()
			l.err = l.read(ctx)
			l.at = time.Now()
			l.sorted = slices.SortedFunc(maps.Values(l.rows), func(a, b Request) int {
				return cmp.Or(cmp.Compare(b.revision, a.revision), cmp.Compare(a.Key.String(), b.Key.String()))
			})
		}
		return l.sorted, l.err
	})
	list, _ := rows.([]Request)
	if err != nil {
		return list, shorten(err.Error(), maxReasonLen)
	}
	return list, ""
}

// read reads what was written since the last look.
func (l *latest) read(ctx context.Context) error {
	newest, err := l.ledger.Newest(ctx)
	if err != nil {
		return err
	}
	if l.next > newest+1 { // the ledger was deleted and created again
		l.next = 0
		clear(l.rows)
	}
	from := max(l.next, uint64(max(int64(newest)-maxBehind+1, 1))) //nolint:gosec // revisions don't reach 2^63
	if from > newest {
		return nil
	}
	for w, err := range l.ledger.Since(ctx, from) {
		if err != nil {
			return err
		}
		l.add(w)
	}
	l.next = max(l.next, newest+1)
	return nil
}

// add adds a record, and forgets the oldest of its state if there are too many.
func (l *latest) add(w Written) {
	row := requestOf(w)
	l.rows[row.Key] = row
	l.next = max(l.next, w.Revision+1)
	same, oldest := 0, row
	for _, r := range l.rows {
		if r.State != row.State {
			continue
		}
		if same++; r.revision < oldest.revision {
			oldest = r
		}
	}
	if same > maxPerState {
		delete(l.rows, oldest.Key)
	}
}

func requestOf(w Written) Request {
	rec := w.Record
	r := Request{Key: rec.Key, Name: rec.Name, State: rec.State, Posts: rec.Posts, Retry: rec.Retry,
		EnteredAt: rec.RequestedAt, UpdatedAt: rec.UpdatedAt, revision: w.Revision}
	if rec.LastFail != nil {
		r.Hindrance = shorten(rec.LastFail.Message, maxMessageLen)
	}
	if rec.Final == nil {
		return r
	}
	res := rec.Final.Result
	r.Adopted, r.Hindrance = res.Adopted, ""
	if res.Connection != nil {
		r.Connection = res.Connection.ID
	}
	if res.Error != nil {
		r.Reason, r.Hindrance = res.Error.Reason, shorten(res.Error.Message, maxMessageLen)
	}
	return r
}
