package requester

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/inquiry"
	"github.com/flow-worker/flow-worker/internal/jsread"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

// Progress are called for what happens to requests that are waited for, one at a time; nil functions are left out.
type Progress struct {
	Published func(m Message, seq uint64)
	News      func(m Message, line story.Line)
	Result    func(m Message, r provision.Result)
}

// inFlight is how many requests SubmitAndWait has under way at most; each has its record read twice a second.
const inFlight = 64

// grace is how long a result event is waited for after the ledger has the outcome. A repeated
// request gets none where the stream still has the first one.
const grace = time.Second

// SubmitAndWait publishes messages of one tenant and waits until each has its outcome or ctx ends.
// It listens to the results before the first is published. One that is missed all the same, because the
// connection was down, is in the ledger.
func (c *Client) SubmitAndWait(ctx context.Context, tenant string, messages []Message, p Progress) error {
	results, stop, err := c.listen(ctx, tenant)
	if err != nil {
		return err
	}
	defer stop()
	w := &waiters{byKey: map[provision.Key][]chan provision.Result{}, progress: p}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(inFlight + 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go w.dispatch(ctx, results)
	for _, m := range messages {
		group.Go(func() error { return c.submitOne(ctx, w, m) })
	}
	return group.Wait()
}

func resultSubjects(tenant string) string {
	return event.ResultSubject(provision.Result{Tenant: tenant, Outcome: "*"})
}

// waiters are the requests under way.
type waiters struct {
	mu       sync.Mutex // guards byKey and calls of progress
	byKey    map[provision.Key][]chan provision.Result
	progress Progress
}

func (w *waiters) dispatch(ctx context.Context, results <-chan provision.Result) {
	for {
		select {
		case r := <-results:
			w.mu.Lock()
			for _, ch := range w.byKey[provision.Key{Tenant: r.Tenant, Source: r.Request.Source, ID: r.Request.ID}] {
				select {
				case ch <- r:
				default: // it has more results than it can look at, and needs but one
				}
			}
			w.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

func (w *waiters) enter(key provision.Key) <-chan provision.Result {
	ch := make(chan provision.Result, 16)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.byKey[key] = append(w.byKey[key], ch)
	return ch
}

func (w *waiters) notify(f func(Progress)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w.progress)
}

// submitOne publishes m and waits for its outcome.
func (c *Client) submitOne(ctx context.Context, w *waiters, m Message) error {
	if c.ledger == nil {
		return c.submitBlind(ctx, w, m)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results, records, failed := w.enter(m.Key), make(chan provision.Record), make(chan error, 1)
	go func() {
		failed <- c.Follow(ctx, m.Key, func(rec provision.Record) bool {
			select {
			case records <- rec:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}()
	t := &wait{client: c, w: w, m: m}
	select {
	case t.rec = <-records: // as it was before
	case err := <-failed:
		return cmp.Or(context.Cause(ctx), err)
	case <-ctx.Done(): // the end of a watch may be long in coming
		return context.Cause(ctx)
	}
	if err := t.publish(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(grace)
	defer tick.Stop()
	settled := 0 // ticks since the ledger has the outcome
	for {
		select {
		case rec := <-records:
			t.news(rec)
		case r := <-results:
			if rec, ours := t.ours(ctx, r); ours {
				t.news(rec) // the event may have overtaken the watch
				return t.done(r)
			}
		case <-tick.C:
			r, ok := t.recorded(ctx)
			if !ok {
				continue
			}
			if settled++; settled > 1 {
				return t.done(r)
			}
		case err := <-failed:
			return cmp.Or(context.Cause(ctx), err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// wait is the wait for one message. It belongs to one goroutine.
type wait struct {
	client *Client
	w      *waiters
	m      Message
	seq    uint64
	rec    provision.Record // the latest
}

func (t *wait) publish(ctx context.Context) (err error) {
	if t.seq, err = t.client.Publish(ctx, t.m); err != nil {
		return err
	}
	t.w.notify(func(p Progress) {
		if p.Published != nil {
			p.Published(t.m, t.seq)
		}
	})
	return nil
}

func (t *wait) news(rec provision.Record) {
	old := t.rec
	t.rec = rec
	if rec.Fingerprint != t.m.Fingerprint {
		return // of another message with this identity
	}
	t.w.notify(func(p Progress) {
		for _, line := range story.News(old, rec) {
			if p.News != nil {
				p.News(t.m, line)
			}
		}
	})
}

func (t *wait) done(r provision.Result) error {
	t.w.notify(func(p Progress) {
		if p.Result != nil {
			p.Result(t.m, r)
		}
	})
	return nil
}

// ours distinguishes the result of this very message from that of another one with the same identity. It
// returns the latest record too.
func (t *wait) ours(ctx context.Context, r provision.Result) (provision.Record, bool) {
	rec, _, err := t.client.ledger.Load(ctx, t.m.Key)
	if err != nil && !errors.Is(err, provision.ErrNoRecord) {
		rec = t.rec
	}
	sameData := rec.Fingerprint == t.m.Fingerprint
	ofRecord := rec.Final != nil && rec.Final.EventID == r.EventID
	return rec, sameData == ofRecord
}

// recorded returns the outcome as far as the ledger has it.
func (t *wait) recorded(ctx context.Context) (provision.Result, bool) {
	switch {
	case t.rec.Final != nil && t.rec.Fingerprint == t.m.Fingerprint:
		return outcomeOf(t.rec.Final), true
	case t.rec.Fingerprint != "" && t.rec.Fingerprint != t.m.Fingerprint && t.gone(ctx):
		return provision.Result{
			Outcome: provision.OutcomeFailed, Tenant: t.m.Key.Tenant, Name: t.m.Name,
			Request: provision.RequestID{ID: t.m.Key.ID, Source: t.m.Key.Source},
			Error:   provision.Fail(provision.ReasonIDReused, "this id was used before with other data; send it under a new id"),
		}, true
	}
	return provision.Result{}, false
}

// outcomeOf returns a result as the ledger keeps it.
func outcomeOf(f *provision.FinalResult) provision.Result {
	r := f.Result
	r.Outcome, r.EventID = f.Outcome, f.EventID
	return r
}

// gone reports whether a worker has settled the message.
func (t *wait) gone(ctx context.Context) bool {
	stream, err := jsread.Open(ctx, t.client.js, RequestStream)
	if err != nil {
		return false
	}
	_, err = stream.GetMsg(ctx, t.seq)
	return errors.Is(err, jetstream.ErrMsgNotFound)
}

// SubmitOnly publishes messages and waits for nothing but the stream's word that it has them.
func (c *Client) SubmitOnly(ctx context.Context, messages []Message, p Progress) error {
	for i, m := range messages {
		seq, err := c.Publish(ctx, m)
		if err != nil {
			return fmt.Errorf("%d of %d requests are published; then: %w", i, len(messages), err)
		}
		if p.Published != nil {
			p.Published(m, seq)
		}
	}
	return nil
}

// NewSubmitter is New for who only submits. Where the user may not look at the ledger, as one of a
// tenant may not, the client can only publish and wait for results: all other methods are not to be
// called. The connection must be a new one.
func NewSubmitter(ctx context.Context, js jetstream.JetStream) (*Client, error) {
	may, err := MayRead(ctx, js)
	switch {
	case err != nil:
		return nil, err
	case may:
		return New(ctx, js)
	}
	return &Client{js: js}, nil
}

// refused reports whether the server refuses what do has just sent: it says so before it answers the
// next ping.
func refused(ctx context.Context, nc *nats.Conn, do func() error) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	before := nc.LastError()
	if err := do(); err != nil {
		return false, err
	}
	if err := nc.FlushWithContext(ctx); err != nil {
		return false, err
	}
	after := nc.LastError()
	return after != before && errors.Is(after, nats.ErrPermissionViolation), nil //nolint:errorlint // another one, or the same
}

// listen receives the tenant's results as they are published, which needs no right but to their subjects. What
// is published while the connection is down is missed.
func (c *Client) listen(ctx context.Context, tenant string) (<-chan provision.Result, func(), error) {
	nc, subject := c.js.Conn(), resultSubjects(tenant)
	results := make(chan provision.Result)
	var sub *nats.Subscription
	denied, err := refused(ctx, nc, func() (err error) {
		sub, err = nc.Subscribe(subject, func(msg *nats.Msg) {
			r, err := event.DecodeResult(msg.Data)
			if err != nil {
				return // what else is published there is not ours
			}
			select {
			case results <- r:
			case <-ctx.Done():
			}
		})
		return err
	})
	switch {
	case err != nil:
		return nil, nil, err
	case denied:
		return nil, nil, fmt.Errorf("this user may not read the results: grant it to subscribe to %s, or leave --wait out", subject)
	}
	return results, func() { _ = sub.Unsubscribe() }, nil
}

// submitBlind publishes m and waits for the next result of its identity. Where workers answer questions it
// asks, too, for news and for a result that was missed.
func (c *Client) submitBlind(ctx context.Context, w *waiters, m Message) error {
	results := w.enter(m.Key)
	waiting := &wait{client: c, w: w, m: m}
	if err := waiting.publish(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	ask := tick.C
	settled := 0 // ticks since a worker named the outcome
	for {
		select {
		case r := <-results:
			return waiting.done(r)
		case <-ask:
			r, over, err := waiting.asked(ctx)
			if errors.Is(err, inquiry.ErrRefused) || errors.Is(err, inquiry.ErrNobody) {
				ask = nil
			}
			if !over {
				continue
			}
			if settled++; settled > 1 {
				return waiting.done(r)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// askAgain is how often a tenant's own user asks after a request that it waits for.
const askAgain = 3 * time.Second

// asked asks the workers how the message's request stands, and returns its outcome if it has one.
func (t *wait) asked(ctx context.Context) (provision.Result, bool, error) {
	f := Filter{Filter: ledger.Filter{Tenant: t.m.Key.Tenant, Source: t.m.Key.Source, ID: t.m.Key.ID}}
	recs, err := NewAsker(t.client.js.Conn()).Find(ctx, f)
	if err != nil {
		return provision.Result{}, false, err
	}
	t.news(recs[0])
	if t.rec.Final == nil || t.rec.Fingerprint != t.m.Fingerprint {
		return provision.Result{}, false, nil
	}
	return outcomeOf(t.rec.Final), true, nil
}
