package provision

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// How a look-up recognizes what a POST of the request made. The mark alone makes a connection ours. What
// carries no whole mark, but may be ours, is neither ours nor absent.

// sighting is what a look-up saw: all of it, and of that, each oldest first, what is ours and what may be.
type sighting struct {
	all   []Found
	ours  []Found // with the request's mark
	alike []Found // without any whole mark, but else as ours would be, and new enough to be it
}

// look asks one query after another, until one shows what is ours, and reads by their ids what a list leaves
// out of those that may be. An error means that nothing is known. Where the Flow Service fails at a query with
// a filter, the filter may be why: then the last query alone decides, if it can, or all there is is looked at.
func (t *task) look(ctx context.Context, lastDecides bool, queries ...Query) (s sighting, err error) {
	seen := map[string]bool{}
	for _, q := range queries {
		found, err := t.find(ctx, q)
		if len(q.Names) > 0 && failedAt(err) {
			if lastDecides {
				continue
			}
			found, err = t.find(ctx, Query{Want: q.Want})
		}
		if err != nil {
			return s, err
		}
		for _, f := range found {
			if !seen[f.ID] {
				seen[f.ID] = true
				s.all = append(s.all, f)
			}
		}
		if t.sort(&s); len(s.ours) > 0 {
			return s, nil
		}
	}
	if err := t.complete(ctx, &s); err != nil {
		return s, err
	}
	t.sort(&s)
	return s, nil
}

// failedAt reports whether the Flow Service failed at a call, without asking to be left alone.
func failedAt(err error) bool {
	var ce *CallError
	return errors.As(err, &ce) && ce.Target == TargetFlow && ce.Status >= http.StatusInternalServerError && ce.RetryAfter == 0
}

// standing says what a connection is to the request.
type standing int

const (
	others standing = iota
	perhaps
	ours
)

func (t *task) sort(s *sighting) {
	s.ours, s.alike = nil, nil
	for _, f := range s.all {
		switch t.standing(f) {
		case ours:
			s.ours = append(s.ours, f)
		case perhaps:
			s.alike = append(s.alike, f)
		case others:
		}
	}
	oldestFirst(s.ours)
	oldestFirst(s.alike)
}

// distinctDigits is how many digits of a mark that was cut tell it from others', whatever the name: a part of
// the mark without them may be any request's.
const distinctDigits = 4

func (t *task) standing(f Found) standing {
	digits, marked := markIn(f.Description)
	mine := t.d.Request.Key.markHex()
	switch {
	case deleted(f):
		return others
	case digits == mine:
		return ours
	case marked && !strings.HasPrefix(mine, digits) || len(digits) == markDigits || !t.newEnough(f):
		return others
	case len(digits) >= distinctDigits || t.couldBeOurs(f):
		return perhaps
	}
	return others
}

// mayBeOurs reports whether a connection as a list shows it is ours, may be, or must be read by its id to
// tell: without its description nothing tells that it is another's.
func (t *task) mayBeOurs(f Found) bool {
	return t.standing(f) != others || f.Undescribed && t.newEnough(f) && !deleted(f)
}

// couldBeOurs reports whether f may be what our POST made, if somebody changed its description or
// upstream cut it. What upstream doesn't tell counts as equal.
func (t *task) couldBeOurs(f Found) bool {
	p := t.d.Request.Data.Auth.Params
	return (f.Name == "" || sameText(f.Name, t.rec.Name) || cutText(f.Name, t.rec.Name)) &&
		(f.SpecID == "" || strings.EqualFold(f.SpecID, t.rec.ConnectionSpec.ID)) &&
		(f.Domain == "" || sameHost(f.Domain, p.Domain)) &&
		(f.ClusterID == "" || sameText(f.ClusterID, p.ClusterID))
}

// since returns the time before which none of the request's POSTs was sent, by the Flow Service's clock. A
// message whose record was lost had none before it entered the stream.
func (t *task) since() time.Time {
	first := t.rec.FirstPostAt
	if first.IsZero() {
		first = t.rec.RequestedAt
	}
	return first.Add(-upstreamSkew)
}

func (t *task) newEnough(f Found) bool { return f.CreatedAt.IsZero() || f.CreatedAt.After(t.since()) }

// upstreamSkew is how far behind ours the Flow Service's clock is assumed to be at most. Too long
// only means that a person is asked once more.
const upstreamSkew = 5 * time.Minute

// maxReads bounds how many connections one look-up reads by their ids.
const maxReads = 100

// complete reads by their ids those connections that may be ours as far as the list shows them, those first
// that have the request's name. What was read stays known to the delivery, so that the next look-up goes on
// where this one had enough.
func (t *task) complete(ctx context.Context, s *sighting) error {
	if t.rec.FirstPostAt.IsZero() && !t.rec.LookFirst {
		return nil // nothing can be ours
	}
	slices.SortStableFunc(s.all, func(a, b Found) int { return cmp.Compare(t.standing(b), t.standing(a)) })
	there, reads := s.all[:0], 0
	for _, f := range s.all {
		if t.mayBeOurs(f) {
			if _, known := t.read[f.ID]; !known {
				reads++
			}
			if reads > maxReads {
				return fmt.Errorf("more than %d connections may be this request's: %w", maxReads, errTooMany)
			}
			full, ok, err := t.readOne(ctx, f.ID)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			f = full
		}
		there = append(there, f)
	}
	s.all = there
	return nil
}

var errTooMany = errors.New("the list leaves out what would tell; the next look-up goes on with the rest")

// readOne reads a connection by its id, once in a delivery. It is not there if the Flow Service itself says
// so, which may be true for a moment only.
func (t *task) readOne(ctx context.Context, id string) (f Found, there bool, err error) {
	if f, known := t.read[id]; known {
		return f, true, nil
	}
	err = t.askFlow(ctx, func() error {
		f, err = t.hub.Connections.Get(t.call(ctx), t.account(), id)
		return err
	})
	var ce *CallError
	switch {
	case errors.As(err, &ce) && ce.Verdict == VerdictRejected && ce.Status == http.StatusNotFound:
		return Found{}, false, nil
	case err != nil:
		return Found{}, false, err
	}
	if t.read == nil {
		t.read = map[string]Found{}
	}
	t.read[id] = f
	return f, true, nil
}

// find lists connections with the tenant's credentials of the moment.
func (t *task) find(ctx context.Context, q Query) (found []Found, err error) {
	if err := t.readCredentials(ctx); err != nil {
		return nil, err
	}
	if err := t.hub.Connections.Authorize(t.call(ctx), t.account()); err != nil {
		return nil, err
	}
	err = t.askFlow(ctx, func() error {
		found, err = t.hub.Connections.Find(t.call(ctx), t.account(), q)
		return err
	})
	if err == nil {
		t.rec.RefusedSince = time.Time{}
	}
	return found, err
}

// askFlow makes a call that only reads, unless the gate keeps callers from the Flow Service.
func (t *task) askFlow(ctx context.Context, call func() error) (err error) {
	closed := t.through(TargetFlow, func() CallEnd {
		if err = call(); err != nil && ctx.Err() != nil {
			return CallVoid
		}
		return flowEnd(err)
	})
	if closed != nil {
		return closed
	}
	return err
}

func oldestFirst(fs []Found) {
	slices.SortStableFunc(fs, func(a, b Found) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
}
