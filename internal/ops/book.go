package ops

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sync"
	"time"

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
// asked for them, at most once in lookEvery, and then no more than maxBehind revisions.
type latest struct {
	book Ledger
	look *check

	mu   sync.Mutex
	next uint64    // revision to go on from; 0 before the first look
	at   time.Time // of the last look
	err  error     // of the last look
	rows map[provision.Key]Request
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

func newLatest(book Ledger) *latest {
	l := &latest{book: book, rows: map[provision.Key]Request{}}
	l.look = &check{name: "ledger", call: l.read}
	return l
}

// list returns what is known after a look at the ledger: the requests written last first, and what is
// wrong with the ledger. Callers at the same time share one look.
func (l *latest) list(ctx context.Context) ([]Request, string) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	trouble := ""
	if !l.fresh() {
		trouble = l.look.run(ctx, lookTimeout).Reason
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if trouble == "" && l.err != nil {
		trouble = shorten(l.err.Error(), maxReasonLen)
	}
	rows := make([]Request, 0, len(l.rows))
	for _, r := range l.rows {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, newestFirst)
	return rows, trouble
}

func newestFirst(a, b Request) int {
	return cmp.Or(cmp.Compare(b.revision, a.revision), cmp.Compare(a.Key.String(), b.Key.String()))
}

func (l *latest) fresh() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.at) < lookEvery
}

// read reads what was written since the last look.
func (l *latest) read(ctx context.Context) error {
	err := l.readOn(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at, l.err = time.Now(), err
	return err
}

func (l *latest) readOn(ctx context.Context) error {
	newest, err := l.book.Newest(ctx)
	if err != nil {
		return err
	}
	from := l.from(newest)
	if from > newest {
		return nil
	}
	for w, err := range l.book.Since(ctx, from) {
		if err != nil {
			return err
		}
		l.add(w)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = max(l.next, newest+1)
	return nil
}

// from returns where to go on. A ledger that was made anew begins anew, and so does what is known of it.
func (l *latest) from(newest uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next > newest+1 {
		l.next = 0
		clear(l.rows)
	}
	return max(l.next, uint64(max(int64(newest)-maxBehind+1, 1))) //nolint:gosec // revisions don't reach 2^63
}

// add puts a record in its place, and forgets the one of its state that is written longest ago if there
// are too many.
func (l *latest) add(w Written) {
	row := requestOf(w)
	l.mu.Lock()
	defer l.mu.Unlock()
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
