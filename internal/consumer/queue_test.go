package consumer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	if _, err := consumer.OpenQueue(r.ctx, r.js, &event.Decoder{}); err == nil {
		t.Error("a queue without a stream")
	}
	r.ensure(consumer.ObjectsConfig{})
	q, err := consumer.OpenQueue(r.ctx, r.js, &event.Decoder{})
	if err != nil {
		t.Fatal(err)
	}
	if gone, err := q.Gone(r.ctx, old("a", provision.StateClaimed, 0)); err != nil || !gone {
		t.Errorf("in an empty queue: gone %v, %v", gone, err)
	}
	for _, m := range [][2]string{{"acme", "a"}, {"globex", "b"}, {"acme", "c"}, {"acme", "d"}} {
		r.submit(m[0], m[1])
	}
	if q, err = consumer.OpenQueue(r.ctx, r.js, &event.Decoder{}); err != nil {
		t.Fatal(err)
	}
	recent := old("a", provision.StateClaimed, 0)
	recent.RequestedAt, recent.UpdatedAt = time.Now(), time.Now()
	for name, tc := range map[string]struct {
		rec  provision.Record
		want bool
	}{
		"there": {old("a", provision.StateClaimed, 1), false}, "beyond": {old("a", provision.StateClaimed, 9), true},
		"another's": {old("b", provision.StateClaimed, 2), true}, "older than all": {old("a", provision.StateClaimed, 0), true}, "who knows": {recent, false},
	} {
		if gone, err := q.Gone(r.ctx, tc.rec); err != nil || gone != tc.want {
			t.Errorf("%s: gone %v, %v; want %v", name, gone, err, tc.want)
		}
	}
	b := &book{}
	stuck := old("x", provision.StateUnknown, 9)
	for name, tc := range map[string]struct {
		rec, now provision.Record
		want     bool
	}{
		"stuck": {stuck, stuck, true}, "there": {old("a", provision.StateWaiting, 1), stuck, false}, "not overdue": {recent, stuck, false},
		"gone on": {stuck, provision.Record{Key: stuck.Key, Nonce: "new"}, false}, "expired": {stuck, old("y", provision.StateUnknown, 9), false},
	} {
		b.all = nil
		b.write(tc.now)
		if got, err := q.Stuck(r.ctx, tc.rec, b.load); err != nil || got != tc.want {
			t.Errorf("%s: stuck %v, %v; want %v", name, got, err, tc.want)
		}
	}
	isA := func(d provision.Delivery) bool { return strings.Contains("ad", d.Request.Key.ID) }
	for _, tc := range []struct {
		tenant string
		most   int
		found  int
		all    bool
	}{{"acme", 9, 2, true}, {"", 9, 2, true}, {"globex", 9, 0, true}, {"acme", 2, 1, false}, {"nobody", 1, 0, true}} {
		found, all, err := q.Find(r.ctx, tc.tenant, tc.most, isA)
		if err != nil || len(found) != tc.found || all != tc.all {
			t.Errorf("%+v: found %d, all %v, %v", tc, len(found), all, err)
		}
	}
	if n, err := q.Orphans(r.ctx, time.Millisecond); err != nil || n != 0 {
		t.Errorf("%d orphans, %v; all wait for their first delivery", n, err)
	}
}
