package inquiry

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// desk takes questions in and answers them.
type desk struct {
	cfg    Config
	now    func() time.Time
	pace   *pace
	line   *line
	seldom *seldom
}

func newDesk(cfg Config) *desk {
	return &desk{cfg: cfg, now: time.Now, pace: newPace(time.Now), line: newLine(), seldom: newSeldom(cfg.Log)}
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
func (d *desk) listen() (*nats.Subscription, error) {
	sub, err := d.cfg.Conn.QueueSubscribe(Subject("*"), group, d.take)
	if err != nil {
		return nil, err
	}
	return sub, sub.SetPendingLimits(nats.DefaultSubPendingMsgsLimit, maxUnsorted) // so many small ones are below as many bytes
}

// take puts a question into its tenant's line, or drops it. It never waits. What is no question, or has
// nowhere to answer to, is left alone.
func (d *desk) take(msg *nats.Msg) {
	tenant := strings.TrimPrefix(msg.Subject, subjects)
	if !isInbox(msg.Reply) || !provision.ValidTenant(tenant) {
		return
	}
	q := question{tenant: tenant, reply: msg.Reply, since: d.now(), session: d.cfg.Conn.Stats().Reconnects}
	n := d.pace.count(tenant)
	switch {
	case n > perSecond:
		q.refusal = fmt.Errorf("more than %d questions a second; ask less often", perSecond)
	case msg.Size() > maxQuestion:
		q.refusal = errNoQuestion
	default:
		q.body = msg.Data
	}
	if n > 2*perSecond || !d.line.join(q) {
		d.seldom.warn("tenants' questions are dropped: more of them come in than are answered", "tenant", tenant)
	}
}

// isInbox reports whether an answer can be sent there. The worker may publish what others may not, so that
// it must not be made to, by whoever chooses the place of the answer.
func isInbox(reply string) bool {
	return strings.HasPrefix(reply, "_INBOX.") || strings.HasPrefix(reply, "_R_.") // an account's own, and another's
}

// serve answers questions until ctx ends.
func (d *desk) serve(ctx context.Context) {
	for {
		select {
		case tenant := <-d.line.turns:
			d.answer(ctx, d.line.first(tenant))
			d.line.done(tenant)
		case <-ctx.Done():
			return
		}
	}
}

// answer answers one question, unless the server or the asker would not take the answer any more.
func (d *desk) answer(ctx context.Context, q question) {
	nc := d.cfg.Conn
	if d.now().Sub(q.since) > stale || nc.IsReconnecting() || nc.Stats().Reconnects != q.session {
		return
	}
	var a Answer
	if q.refusal == nil {
		a = d.find(ctx, q.tenant, q.body)
	} else {
		a.Error = q.refusal.Error()
	}
	body, err := json.Marshal(a)
	if err == nil {
		err = nc.Publish(q.reply, body)
	}
	if err != nil {
		d.seldom.warn("a tenant's question could not be answered", "tenant", q.tenant, "error", err)
	}
}
