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
	"strings"
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

// Limits. What is beyond those of a question's size and rate is answered with an error, perSecond times in a
// second, and beyond that, and where too many wait, a question is dropped.
const (
	maxQuestion = 4 << 10          // bytes of a question with its headers and subjects
	maxRecords  = 5                // in one answer
	perSecond   = 20               // questions of one tenant that one worker answers
	patience    = 5 * time.Second  // for one answer
	stale       = 10 * time.Second // nobody waits any more for the answer to a question that is older
	answerers   = 4                // questions that are answered at once, each of another tenant
	eachWaiting = 8                // questions of one tenant that wait in one worker
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
	s := newServer(cfg)
	sub, err := s.listen()
	if err != nil {
		return fmt.Errorf("inquiry: listen on %s: %w", Subject("*"), err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only on a connection that is closed
	var answering sync.WaitGroup
	for range answerers {
		answering.Go(func() { s.serve(ctx) })
	}
	answering.Wait()
	return nil
}

func (s *server) find(ctx context.Context, tenant string, body []byte) (a Answer) {
	q, err := parse(body)
	if err != nil {
		return Answer{Error: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for rec, err := range s.cfg.Find(ctx, tenant, q.Source, q.ID) {
		switch {
		case err != nil:
			s.log.warn("a tenant's question could not be answered", "tenant", tenant, "error", err)
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

// server takes questions in and answers them.
type server struct {
	cfg   Config
	now   func() time.Time
	rate  *rate
	queue *queue
	log   *rareLog
}

func newServer(cfg Config) *server {
	return &server{cfg: cfg, now: time.Now, rate: newRate(time.Now), queue: newQueue(), log: newRareLog(cfg.Log)}
}

// question is what is kept of a message until it is answered.
type question struct {
	tenant  string
	reply   string
	body    []byte // nil if refused
	refusal error  // nil means that it is to be answered
	since   time.Time
	session uint64 // the connection's, for an answer may be given in the one of its question only
}

// listen has questions come in. What is received is sorted by a goroutine of its own, so that the one that
// reads from the server never waits for it: a server cuts off who doesn't read.
func (s *server) listen() (*nats.Subscription, error) {
	sub, err := s.cfg.Conn.QueueSubscribe(Subject("*"), group, s.take)
	if err != nil {
		return nil, err
	}
	return sub, sub.SetPendingLimits(nats.DefaultSubPendingMsgsLimit, maxUnsorted) // so many small ones are below as many bytes
}

// take puts a question into its tenant's queue, or drops it. It never waits. What is no question, or has
// nowhere to answer to, is left alone.
func (s *server) take(msg *nats.Msg) {
	tenant := strings.TrimPrefix(msg.Subject, subjects)
	if !isInbox(msg.Reply) || !provision.ValidTenant(tenant) {
		return
	}
	q := question{tenant: tenant, reply: msg.Reply, since: s.now(), session: s.cfg.Conn.Stats().Reconnects}
	n := s.rate.count(tenant)
	switch {
	case n > perSecond:
		q.refusal = fmt.Errorf("more than %d questions a second; ask less often", perSecond)
	case msg.Size() > maxQuestion:
		q.refusal = errNoQuestion
	default:
		q.body = msg.Data
	}
	if n > 2*perSecond || !s.queue.push(q) {
		s.log.warn("tenants' questions are dropped: more of them come in than are answered", "tenant", tenant)
	}
}

// isInbox reports whether an answer can be sent there. The worker may publish what others may not, so that
// it must not be made to, by whoever chooses the place of the answer.
func isInbox(reply string) bool {
	return strings.HasPrefix(reply, "_INBOX.") || strings.HasPrefix(reply, "_R_.") // an account's own, and another's
}

// serve answers questions until ctx ends.
func (s *server) serve(ctx context.Context) {
	for {
		select {
		case tenant := <-s.queue.next:
			s.answer(ctx, s.queue.pop(tenant))
			s.queue.done(tenant)
		case <-ctx.Done():
			return
		}
	}
}

// answer answers one question, unless the server or the asker would not take the answer any more.
func (s *server) answer(ctx context.Context, q question) {
	nc := s.cfg.Conn
	if s.now().Sub(q.since) > stale || nc.IsReconnecting() || nc.Stats().Reconnects != q.session {
		return
	}
	var a Answer
	if q.refusal == nil {
		a = s.find(ctx, q.tenant, q.body)
	} else {
		a.Error = q.refusal.Error()
	}
	body, err := json.Marshal(a)
	if err == nil {
		err = nc.Publish(q.reply, body)
	}
	if err != nil {
		s.log.warn("a tenant's question could not be answered", "tenant", q.tenant, "error", err)
	}
}

// queue holds the questions that wait. Tenants are served in rotation, and have one question answered at a time, so that
// neither many questions of one nor slow ones hold up another's. It is safe for concurrent use.
type queue struct {
	next chan string // tenants with a question that waits and none that is being answered; it never fills

	mu      sync.Mutex
	waiting map[string][]question // :: tenant in next or being answered → its questions that wait; guarded by mu
	n       int                   // all of them; guarded by mu
}

func newQueue() *queue {
	return &queue{next: make(chan string, allWaiting), waiting: map[string][]question{}}
}

// push puts q at the end of its tenant's questions, and reports whether there was room for it.
func (l *queue) push(q question) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	own, known := l.waiting[q.tenant]
	if len(own) >= eachWaiting || l.n >= allWaiting {
		return false
	}
	l.waiting[q.tenant] = append(own, q)
	l.n++
	if !known {
		l.next <- q.tenant
	}
	return true
}

// pop takes the first question of a tenant that was received from next. Call done when it is answered.
func (l *queue) pop(tenant string) question {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.waiting[tenant]
	l.waiting[tenant] = own[1:]
	l.n--
	return own[0]
}

// done puts the tenant behind all others, if it has another question.
func (l *queue) done(tenant string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting[tenant]) > 0 {
		l.next <- tenant
	} else {
		delete(l.waiting, tenant)
	}
}

// rate counts the questions of each tenant. It belongs to one goroutine.
type rate struct {
	now    func() time.Time
	second time.Time
	asked  map[string]int // :: tenant → questions in this second
}

func newRate(now func() time.Time) *rate { return &rate{now: now} }

// count returns how many questions the tenant has asked in this second, with one more.
func (r *rate) count(tenant string) int {
	if second := r.now().Truncate(time.Second); r.asked == nil || !second.Equal(r.second) {
		r.second, r.asked = second, map[string]int{}
	}
	r.asked[tenant]++
	return r.asked[tenant]
}
