// Package inquiry lets tenants ask what became of their own requests, with no right at NATS but to publish
// on one subject that is theirs, and to hear the answer.
//
// Whose requests are asked for is said by the subject alone, for which NATS's permissions are there: nothing
// in a question can widen it. An answer is the ledger's record, without what is the workers' own affair.
package inquiry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
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

// Limits.
const (
	maxQuestion = 4 << 10         // bytes
	maxPart     = 256             // bytes of an id or source
	maxRecords  = 5               // in one answer
	perSecond   = 20              // questions of one tenant that one worker answers
	patience    = 5 * time.Second // for one answer
	waiting     = 256             // questions that wait for their turn in one worker; the rest is not heard
)

const subjects = "connections.status."

// Subject returns where a tenant asks.
func Subject(tenant string) string { return subjects + tenant }

// group is the workers' queue group: one of them answers.
const group = "flow-worker"

// Config is what Answer needs. Log may be nil, the rest must be set.
type Config struct {
	Conn *nats.Conn
	// Find yields the records of a tenant's requests with an id, of any source where that is empty.
	Find func(ctx context.Context, tenant, source, id string) iter.Seq2[provision.Record, error]
	Log  *slog.Logger
}

// Run answers questions, one after the other, until ctx ends, and returns nil then. Its error is that it
// could not begin to listen; that the server forbids it comes to the connection's error handler only.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	questions := make(chan *nats.Msg, waiting)
	sub, err := cfg.Conn.ChanQueueSubscribe(Subject("*"), group, questions)
	if err != nil {
		return fmt.Errorf("inquiry: listen on %s: %w", Subject("*"), err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only on a connection that is closed
	pace := newPace(time.Now)
	for {
		select {
		case msg := <-questions:
			cfg.answer(ctx, msg, pace)
		case <-ctx.Done():
			return nil
		}
	}
}

// answer answers one question. What is no question, or has nowhere to answer to, is left alone.
func (c Config) answer(ctx context.Context, msg *nats.Msg, p *pace) {
	tenant := strings.TrimPrefix(msg.Subject, subjects)
	if !isInbox(msg.Reply) || !provision.ValidTenant(tenant) {
		return
	}
	var a Answer
	if p.take(tenant) {
		a = c.find(ctx, tenant, msg.Data)
	} else {
		a.Error = fmt.Sprintf("more than %d questions a second; ask less often", perSecond)
	}
	body, err := json.Marshal(a)
	if err == nil {
		err = msg.Respond(body)
	}
	if err != nil {
		c.Log.Warn("a tenant's question could not be answered", "tenant", tenant, "error", err)
	}
}

// isInbox reports whether an answer can be sent there. The worker may publish what others may not, so that
// it must not be made to, by whoever chooses the place of the answer.
func isInbox(reply string) bool {
	return strings.HasPrefix(reply, "_INBOX.") || strings.HasPrefix(reply, "_R_.") // an account's own, and another's
}

func (c Config) find(ctx context.Context, tenant string, body []byte) (a Answer) {
	q, err := parse(body)
	if err != nil {
		return Answer{Error: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for rec, err := range c.Find(ctx, tenant, q.Source, q.ID) {
		switch {
		case err != nil:
			c.Log.Warn("a tenant's question could not be answered", "tenant", tenant, "error", err)
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

func parse(body []byte) (q Question, err error) {
	if len(body) > maxQuestion || json.Unmarshal(body, &q) != nil {
		return q, errors.New(`want a question as {"id":"…","source":"…"}; source may be left out`)
	}
	if q.ID == "" || len(q.ID) > maxPart || len(q.Source) > maxPart {
		return q, fmt.Errorf("want an id of 1 to %d bytes, and a source of at most as many", maxPart)
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

// pace bounds how many questions of a tenant are answered in a second. It belongs to one goroutine.
type pace struct {
	now    func() time.Time
	second time.Time
	asked  map[string]int // :: tenant → questions in this second
}

func newPace(now func() time.Time) *pace { return &pace{now: now} }

// take reports whether one more question of the tenant is to be answered.
func (p *pace) take(tenant string) bool {
	if second := p.now().Truncate(time.Second); p.asked == nil || !second.Equal(p.second) {
		p.second, p.asked = second, map[string]int{}
	}
	p.asked[tenant]++
	return p.asked[tenant] <= perSecond
}
