// Package inquiry lets tenants ask what became of their own requests, with no right at NATS but to publish
// on one subject that is theirs, and to hear the answer.
//
// Whose requests are asked for is said by the subject alone, for which NATS's permissions are there: nothing
// in a question can widen it. An answer is the ledger's record, without what is the workers' own affair.
//
// A tenant can send more questions, and larger ones, than anybody can read. So what comes in is sorted before
// it is kept, nothing that a tenant sends makes another one wait, and the connection serves nothing else.
package inquiry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Question asks for the requests with an id.
type Question struct {
	ID     string `json:"id"`               // 1 to 256 bytes
	Source string `json:"source,omitempty"` // empty means any
}

// Answer is what a worker says to a Question. With an Error the rest means nothing.
type Answer struct {
	Records []provision.Record `json:"records,omitempty"` // none where no worker has taken such a request up
	More    bool               `json:"more,omitempty"`    // there are more than maxRecords of them
	Error   string             `json:"error,omitempty"`   // for people; it says what to do
}

// Limits. What is beyond those of a question's size and pace is told so to the asker, perSecond times in a
// second, and beyond that, and where too many wait, a question is dropped.
const (
	maxQuestion = 4 << 10          // bytes of a question with its headers and subjects
	maxRecords  = 5                // in one answer
	perSecond   = 20               // questions of one tenant that one worker answers
	patience    = 5 * time.Second  // for one answer
	stale       = 10 * time.Second // nobody waits any more for the answer to a question that is older
	clerks      = 4                // questions that are answered at once, each of another tenant
	eachWaiting = 8                // questions of one tenant that wait for their turn in one worker
	allWaiting  = 1024             // questions of all tenants that do
	maxUnsorted = 1 << 20          // bytes that were received and not looked at yet; a message more is dropped by the client
)

const subjects = "connections.status."

// Subject returns where a tenant asks.
func Subject(tenant string) string { return subjects + tenant }

// group is the workers' queue group: one of them answers.
const group = "flow-worker"

// Config is what Run needs. Log may be nil, the rest must be set.
type Config struct {
	// Conn should serve nothing else, for a flood of questions may have the server cut it off. The caller
	// has to close it. See Quiet.
	Conn *nats.Conn
	// Find yields the records of a tenant's requests with an id, of any source where that is empty. It is
	// called by several goroutines at once.
	Find func(ctx context.Context, tenant, source, id string) iter.Seq2[provision.Record, error]
	Log  *slog.Logger
}

// Run answers questions until ctx ends, and returns nil then. Each tenant's are answered one after the
// other, those of several tenants in turn. Its error is that it could not begin to listen; that the server
// forbids it comes to the connection's error handler only.
func Run(ctx context.Context, cfg Config) error {
	d := newDesk(cfg)
	sub, err := d.listen()
	if err != nil {
		return fmt.Errorf("inquiry: listen on %s: %w", Subject("*"), err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only on a connection that is closed
	var answering sync.WaitGroup
	for range clerks {
		answering.Go(func() { d.serve(ctx) })
	}
	answering.Wait()
	return nil
}

func (d *desk) find(ctx context.Context, tenant string, body []byte) (a Answer) {
	q, err := parse(body)
	if err != nil {
		return Answer{Error: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for rec, err := range d.cfg.Find(ctx, tenant, q.Source, q.ID) {
		switch {
		case err != nil:
			d.seldom.warn("a tenant's question could not be answered", "tenant", tenant, "error", err)
			return Answer{Error: "the ledger can't be read at the moment; ask again"}
		case rec.Key.Tenant != tenant: // never, by what Find promises
		case len(a.Records) == maxRecords:
			a.More = true
			return a
		default:
			a.Records = append(a.Records, published(rec))
		}
	}
	return a
}

var errNoQuestion = errors.New(`want a question as {"id":"…","source":"…"}, with all headers at most 4 KiB; source may be left out`)

func parse(body []byte) (q Question, err error) {
	if json.Unmarshal(body, &q) != nil {
		return q, errNoQuestion
	}
	if q.ID == "" || len(q.ID) > provision.MaxKeyPart || len(q.Source) > provision.MaxKeyPart {
		return q, fmt.Errorf("want an id of 1 to %d bytes, and a source of at most as many", provision.MaxKeyPart)
	}
	return q, nil
}

// published returns a record without what is the workers' own affair: which of them had it, and the versions
// of secrets.
func published(rec provision.Record) provision.Record {
	rec.Owner, rec.EndedBy, rec.Nonce, rec.Secrets = "", "", "", nil
	attempts := make([]provision.Attempt, len(rec.Attempts))
	for i, a := range rec.Attempts {
		a.Owner = ""
		attempts[i] = a
	}
	rec.Attempts = attempts
	return rec
}
