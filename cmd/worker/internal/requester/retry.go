package requester

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/jsread"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// Selection says which failed requests are meant. Either IDs or Reasons must be given.
type Selection struct {
	Tenant  string             // empty means every tenant
	Source  string             // empty means every source
	IDs     []string           // each must name one request
	Reasons []provision.Reason // of the failure
	Since   time.Time          // failed then or later; zero means whenever
	Limit   int                // at most so many that can be sent, those that failed first; 0 means all
}

// Retry is one request that was selected, and what can be done about it.
type Retry struct {
	DeadLetter
	Number   int    // the retry number to send it with, 0 if there is an obstacle
	Note     string // what is odd about it; empty if nothing
	Obstacle string // why it can't be sent again, and what to do instead; empty if it can
	Over     bool   // there is an obstacle, and it is that the request has not failed, or not any more
}

// Retries is what Client.Retries finds.
type Retries struct {
	List    []Retry // those that failed first come first
	Unnamed int     // dead letters whose message named no request of any tenant, so that nobody can retry them
	More    int     // how many more could be sent, but for Selection.Limit
}

// Retries finds the requests that s selects and assesses each by its ledger record. Only the dead letter
// of a request's latest failure counts. Its error is ErrAmbiguous, beside the candidates, where an id
// names several requests. It sends nothing.
func (c *Client) Retries(ctx context.Context, s Selection) (Retries, error) {
	found, unnamed, err := c.collect(ctx, s)
	if err != nil {
		return Retries{}, err
	}
	out := Retries{Unnamed: unnamed}
	if twice := ambiguous(found, s.IDs); len(twice) > 0 {
		out.List = twice
		return out, ErrAmbiguous
	}
	for key, letters := range found {
		rec, _, err := c.ledger.Load(ctx, key)
		if r, ok := s.assess(rec, err, letters); ok {
			out.List = append(out.List, r)
		}
	}
	for _, id := range s.IDs {
		if !slices.ContainsFunc(out.List, func(r Retry) bool { return r.Key.ID == id }) {
			out.List = append(out.List, c.withoutLetter(ctx, s, id)...)
		}
	}
	slices.SortFunc(out.List, func(a, b Retry) int {
		return cmp.Or(a.FailedAt.Compare(b.FailedAt), cmp.Compare(a.Key.String(), b.Key.String()))
	})
	out.limit(s.Limit)
	return out, nil
}

// limit leaves out what could be sent beyond the first n.
func (r *Retries) limit(n int) {
	sendable := 0
	r.List = slices.DeleteFunc(r.List, func(one Retry) bool {
		if one.Obstacle == "" {
			sendable++
		}
		over := n > 0 && sendable > n && one.Obstacle == ""
		if over {
			r.More++
		}
		return over
	})
}

// letters are a request's dead letters, oldest first.
type letters []DeadLetter

// collect finds the dead letters that may be meant, by request.
func (c *Client) collect(ctx context.Context, s Selection) (found map[provision.Key]letters, unnamed int, err error) {
	found = map[provision.Key]letters{}
	for l, err := range c.deadLetters(ctx, s.Tenant, s.Since) {
		switch {
		case err != nil:
			return nil, 0, err
		case l.Key == provision.Key{}:
			if s.mayName(l) {
				unnamed++
			}
		case s.Source != "" && l.Key.Source != s.Source, len(s.IDs) > 0 && !slices.Contains(s.IDs, l.Key.ID), l.FailedAt.Before(s.Since):
		default:
			found[l.Key] = append(found[l.Key], l)
		}
	}
	for _, ls := range found {
		slices.SortFunc(ls, func(a, b DeadLetter) int { return cmp.Compare(a.seq, b.seq) })
	}
	return found, unnamed, nil
}

// mayName reports whether a dead letter that names no request is among those that s asks for.
func (s Selection) mayName(l DeadLetter) bool {
	return s.Tenant == "" && s.Source == "" && len(s.IDs) == 0 && s.wants(l.Reason) && !l.FailedAt.Before(s.Since)
}

// ambiguous returns all requests whose id, among those asked for, is also another's.
func ambiguous(found map[provision.Key]letters, ids []string) (twice []Retry) {
	byID := map[string][]Retry{}
	for key, ls := range found {
		byID[key.ID] = append(byID[key.ID], Retry{DeadLetter: ls[len(ls)-1]})
	}
	for _, id := range ids {
		if len(byID[id]) > 1 {
			twice = append(twice, byID[id]...)
			delete(byID, id) // should it be asked for twice
		}
	}
	slices.SortFunc(twice, func(a, b Retry) int { return cmp.Compare(a.Key.String(), b.Key.String()) })
	return twice
}

// assess says what can be done about one request, or that it isn't meant after all.
func (s Selection) assess(rec provision.Record, err error, of letters) (r Retry, meant bool) {
	own := of.own(rec)
	r = Retry{DeadLetter: of[len(of)-1]}
	switch {
	case errors.Is(err, provision.ErrNoRecord):
		r = of.withoutRecord()
	case err != nil:
		r.Obstacle = "its ledger record can't be read: " + err.Error()
	case s.wants(provision.ReasonIDReused) && of.last(isReuse) != nil:
		r = Retry{DeadLetter: *of.last(isReuse), Obstacle: reused}
	case rec.State != provision.StateFailed:
		if l := of.last(isOwnKind); l != nil {
			r.DeadLetter = *l
		}
		r.Obstacle, r.Over = notFailed(rec), true
	case own == nil:
		r.Reason, r.FailedAt = failureOf(rec)
		r.Obstacle = noLetter(rec)
	default:
		r = Retry{DeadLetter: *own, Number: rec.Retry + 1}
	}
	if r.Obstacle == "" && r.Redacted {
		r.Number, r.Obstacle = 0, "its dead letter is redacted: it held what no stream may keep; send it corrected, under a new id"
	}
	return r, len(s.Reasons) == 0 || slices.Contains(s.Reasons, r.Reason)
}

// wants reports whether s asks for a reason by name.
func (s Selection) wants(reason provision.Reason) bool { return slices.Contains(s.Reasons, reason) }

const reused = "it was other data under an id that was used before; send it under an id of its own"

func isReuse(l DeadLetter) bool   { return l.Reason == provision.ReasonIDReused }
func isOwnKind(l DeadLetter) bool { return !isReuse(l) }

// last returns the newest letter that ok approves of, or nil.
func (of letters) last(ok func(DeadLetter) bool) *DeadLetter {
	for i := len(of) - 1; i >= 0; i-- {
		if ok(of[i]) {
			return &of[i]
		}
	}
	return nil
}

// own returns the letter of the failure that the record names, nil if there is none. Others are of
// earlier tries, or of messages that only used the request's name.
func (of letters) own(rec provision.Record) *DeadLetter {
	reason, at := failureOf(rec)
	return of.last(func(l DeadLetter) bool { return reason != "" && l.Reason == reason && l.FailedAt.Equal(at) })
}

// failureOf returns how and when a request failed, nothing for one that has not.
func failureOf(rec provision.Record) (provision.Reason, time.Time) {
	if rec.State != provision.StateFailed || rec.Final == nil || rec.Final.Result.Error == nil {
		return "", time.Time{}
	}
	return rec.Final.Result.Error.Reason, rec.Final.Result.CompletedAt
}

// withoutRecord assesses a request whose ledger record is gone: a worker accepts any number then, and
// looks for the request's mark before its first POST.
func (of letters) withoutRecord() Retry {
	l := of.last(isOwnKind)
	if l == nil {
		return Retry{DeadLetter: of[len(of)-1], Obstacle: reused}
	}
	if l.Retry < 0 {
		return Retry{DeadLetter: *l, Obstacle: "its " + event.HeaderRetry + " header was malformed and its ledger record is gone; send the request again"}
	}
	return Retry{DeadLetter: *l, Number: l.Retry + 1, Note: "its ledger record is gone; it is looked up first"}
}

func notFailed(rec provision.Record) string {
	if rec.State == provision.StateCreated {
		return "it has its connection by now"
	}
	return fmt.Sprintf("it has not ended yet (%s)", rec.State)
}

func noLetter(rec provision.Record) string {
	return fmt.Sprintf("the dead letter of its latest failure is not in the stream (any more, or for --since); send the very same request with the header %s: %d",
		event.HeaderRetry, rec.Retry+1)
}

// withoutLetter assesses the requests with this id that have no dead letter.
func (c *Client) withoutLetter(ctx context.Context, s Selection, id string) []Retry {
	recs, err := c.List(ctx, Filter{Filter: ledger.Filter{ID: id, Tenant: s.Tenant, Source: s.Source}})
	if err != nil || len(recs) == 0 {
		obstacle := "no request with this id has failed; check the id, --tenant and --source"
		if err != nil {
			obstacle = "the ledger can't be read: " + err.Error()
		}
		return []Retry{{DeadLetter: DeadLetter{Key: provision.Key{Tenant: s.Tenant, Source: s.Source, ID: id}}, Obstacle: obstacle}}
	}
	var out []Retry
	for _, rec := range recs {
		r := Retry{DeadLetter: DeadLetter{Key: rec.Key}, Obstacle: notFailed(rec), Over: true}
		if reason, at := failureOf(rec); reason != "" {
			r.Reason, r.FailedAt, r.Obstacle, r.Over = reason, at, noLetter(rec), false
		}
		out = append(out, r)
	}
	return out
}

// DeadLetterStream is the name of the stream of dead letters.
const DeadLetterStream = "CONNECTION_DEADLETTERS"

// DeadLetter is a message that failed, as the stream of dead letters keeps it, without its body.
type DeadLetter struct {
	Key      provision.Key // zero where the message named no request
	Reason   provision.Reason
	FailedAt time.Time
	Retry    int    // the number of the try that failed, -1 where the message gave none that can be read
	Redacted bool   // something was removed
	seq      uint64 // in the stream of dead letters
}

// deadLetters yields the dead letters that entered their stream at since or later, in no order. Zero means all; an
// empty tenant means every tenant. After an error it ends.
func (c *Client) deadLetters(ctx context.Context, tenant string, since time.Time) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		const what = "the stream of dead letters (" + DeadLetterStream + ")"
		stream, err := jsread.Open(ctx, c.js, DeadLetterStream)
		subject, from := "connections.deadletters."+cmp.Or(tenant, "*"), uint64(0)
		if err == nil && !since.IsZero() {
			from, err = jsread.Since(ctx, stream, subject, since)
		}
		if err != nil {
			yield(DeadLetter{}, explain(err, what))
			return
		}
		for msg, err := range jsread.Messages(ctx, stream, subject, from) {
			if err != nil {
				yield(DeadLetter{}, explain(err, what))
				return
			}
			if !yield(deadLetterOf(msg.Header, msg.Sequence), nil) {
				return
			}
		}
	}
}

func deadLetterOf(h nats.Header, seq uint64) DeadLetter {
	l := DeadLetter{Reason: provision.Reason(h.Get(event.HeaderReason)), Redacted: h.Get(event.HeaderRedacted) == "true", seq: seq}
	if key, err := provision.ParseKey(h.Get(event.HeaderRequestKey)); err == nil {
		l.Key = key
	}
	if at, err := time.Parse(time.RFC3339Nano, h.Get(event.HeaderFailedAt)); err == nil {
		l.FailedAt = at
	}
	if given := h.Values(event.HeaderRetry); len(given) > 0 {
		n, err := strconv.Atoi(given[0])
		if err != nil || n < 0 || len(given) > 1 {
			n = -1
		}
		l.Retry = n
	}
	return l
}

// Requeue sends a request that has no obstacle again, as its dead letter keeps it, and returns its
// sequence in the stream of requests. After an error it may be there or not; sending it again is safe.
func (c *Client) Requeue(ctx context.Context, r Retry) (uint64, error) {
	return c.requeue(ctx, r, nil)
}

func (c *Client) requeue(ctx context.Context, r Retry, more map[string][]string) (uint64, error) {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	stream, err := jsread.Open(asking, c.js, DeadLetterStream)
	if err != nil {
		return 0, explain(err, "the stream of dead letters ("+DeadLetterStream+")")
	}
	kept, err := stream.GetMsg(asking, r.seq)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, errors.New("its dead letter has just expired")
	case err != nil:
		return 0, explain(err, "dead letter "+strconv.FormatUint(r.seq, 10))
	}
	headers := retryHeaders(kept.Header, r.Key, r.Number)
	maps.Copy(headers, more)
	return c.Publish(ctx, Message{Key: r.Key, wire: event.Message{Headers: headers, Body: kept.Data}})
}

// retryHeaders returns what to send a dead letter with: the headers that it kept, without those that
// made it a dead letter, and with the identity under which it failed, whatever its body says.
func retryHeaders(kept nats.Header, key provision.Key, number int) map[string][]string {
	out := map[string][]string{}
	for name, values := range kept {
		lower := strings.ToLower(name)
		if !strings.HasPrefix(lower, "nats-") && !strings.HasPrefix(lower, "flow-worker-") && lower != headerID && lower != headerSource {
			out[name] = values
		}
	}
	out[event.HeaderRetry] = []string{strconv.Itoa(number)}
	out[headerID], out[headerSource] = []string{event.EncodeHeader(key.ID)}, []string{event.EncodeHeader(key.Source)}
	return out
}

// The headers that name a request.
const (
	headerID     = "ce-id"
	headerSource = "ce-source"
)

// Unsettled finds the one request that ended as outcome_unknown which the tenant (empty means any), the
// source (likewise) and the id name, with its record. Its error is ErrAmbiguous, beside the candidates,
// where they name several. What can't be settled has an Obstacle.
func (c *Client) Unsettled(ctx context.Context, tenant, source, id string) ([]Retry, provision.Record, error) {
	found, err := c.Retries(ctx, Selection{Tenant: tenant, Source: source, IDs: []string{id}})
	if err != nil {
		return found.List, provision.Record{}, err
	}
	one := found.List[0]
	if one.Obstacle != "" {
		return found.List, provision.Record{}, nil
	}
	rec, _, err := c.Load(ctx, one.Key)
	switch {
	case errors.Is(err, provision.ErrNoRecord):
		one.Number, one.Obstacle = 0, "its ledger record is gone, so there is nothing to settle; \"worker retry\" looks it up first"
	case err != nil:
		return nil, provision.Record{}, err
	case one.Reason != provision.ReasonOutcomeUnknown:
		one.Number, one.Obstacle = 0, fmt.Sprintf("it failed with %s, and only outcome_unknown can be settled; mend the cause and use \"worker retry\"", one.Reason)
	}
	return []Retry{one}, rec, nil
}

// Resolve sends a request that has no obstacle again, as its dead letter keeps it, with what a person says
// became of its POST. It returns the message's sequence in the stream of requests. A worker checks what was
// said and ends the retry by it; it sends no POST. After an error the message may be there or not; sending
// it again is safe.
func (c *Client) Resolve(ctx context.Context, r Retry, said provision.Resolution) (uint64, error) {
	header, err := event.ResolveHeader(said)
	if err != nil {
		return 0, err
	}
	return c.requeue(ctx, r, map[string][]string{event.HeaderResolve: {header}})
}

// Settled follows a request until its retry with the given number has ended, or a later one, and returns its
// record. It returns an unfinished one where ctx ends before.
func (c *Client) Settled(ctx context.Context, key provision.Key, number int) (rec provision.Record, err error) {
	err = c.Follow(ctx, key, func(now provision.Record) bool {
		rec = now
		return now.Retry < number || now.Final == nil
	})
	return rec, err
}
