package requester

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flow-worker/flow-worker/internal/event"
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

// Retries finds the requests that s selects and judges each by its ledger record. Only the dead letter
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
		if r, ok := s.judge(rec, err, letters); ok {
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

// judge says what can be done about one request, or that it isn't meant after all.
func (s Selection) judge(rec provision.Record, err error, of letters) (r Retry, meant bool) {
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

// own returns the letter of the failure that the record tells of, nil if there is none. Others are of
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

// withoutRecord judges a request whose ledger record is gone: a worker accepts any number then, and
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

// withoutLetter judges the requests with this id that have no dead letter.
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
