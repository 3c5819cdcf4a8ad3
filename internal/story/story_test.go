package story_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

var start = time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

func attempts(list ...string) []provision.Attempt {
	var as []provision.Attempt
	for i, a := range list {
		step, result, _ := strings.Cut(a, " ")
		as = append(as, provision.Attempt{At: at(i), Step: step, Result: result})
	}
	return as
}

func texts(lines []story.Line) []string {
	var ts []string
	for _, l := range lines {
		ts = append(ts, l.Text)
	}
	return ts
}

func TestNews(t *testing.T) {
	t.Parallel()
	created := &provision.FinalResult{EventID: "e", Outcome: "created", Result: provision.Result{
		Adopted: true, Connection: &provision.Connection{ID: "c-1"}, CompletedAt: at(9)}}
	failed := &provision.FinalResult{EventID: "f", Outcome: "failed", Result: provision.Result{
		Error: provision.Fail(provision.ReasonFlowRejected, "no"), CompletedAt: at(9)}}
	for name, tc := range map[string]struct {
		old, now provision.Record
		want     []string
	}{
		"nothing": {want: nil},
		"the first": {
			now:  provision.Record{Attempts: attempts("claim claimed")},
			want: []string{"taken up by a worker"}},
		"only what is new": {
			old:  provision.Record{Attempts: attempts("claim claimed")},
			now:  provision.Record{Attempts: attempts("claim claimed", "post throttled")},
			want: []string{"throttled; waiting as long as the Flow Service asks"}},
		"alike in one line": {
			now:  provision.Record{Attempts: attempts("lookup not_yet", "lookup not_yet", "lookup adopted")},
			want: []string{"looked up: not there yet; looking on (2 times)", "looked up: it is there, with this request's mark; adopted"}},
		"old ones forgotten": {
			old:  provision.Record{Attempts: []provision.Attempt{{At: at(-9), Step: "claim", Result: "claimed"}}},
			now:  provision.Record{Attempts: attempts("post throttled")},
			want: []string{"throttled; waiting as long as the Flow Service asks"}},
		"a POST": {
			old:  provision.Record{State: provision.StateClaimed},
			now:  provision.Record{State: provision.StatePosting, PostedAt: at(1), Posts: 2},
			want: []string{"POST 2 is announced in the ledger and sent"}},
		"the same POST again": {
			old: provision.Record{State: provision.StatePosting, PostedAt: at(1), Posts: 2},
			now: provision.Record{State: provision.StatePosting, PostedAt: at(1), Posts: 2}},
		"made": {
			now:  provision.Record{State: provision.StateCreated, Attempts: attempts("post created", "final created"), Final: created},
			want: []string{"the POST made the connection", "adopted connection c-1"}},
		"failed": {
			now:  provision.Record{State: provision.StateFailed, Attempts: attempts("final failed"), Final: failed},
			want: []string{"failed: flow_rejected: no"}},
		"told once": {
			old: provision.Record{Final: created}, now: provision.Record{Final: created}},
		"a word of a later version": {
			now:  provision.Record{Attempts: attempts("verify ok")},
			want: []string{"verify: ok"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, texts(story.News(tc.old, tc.now))); diff != "" {
				t.Errorf("News (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDetailIsClipped(t *testing.T) {
	t.Parallel()
	rec := provision.Record{Attempts: []provision.Attempt{{Step: "post", Result: "rejected", Detail: strings.Repeat("ä", 500)}}}
	text := story.News(provision.Record{}, rec)[0].Text
	if len(text) > 250 || !strings.HasSuffix(text, "…)") || strings.ContainsRune(text, '\uFFFD') {
		t.Errorf("got %d bytes: %q", len(text), text)
	}
}

func TestHeadAndAttempts(t *testing.T) {
	t.Parallel()
	rec := provision.Record{
		Key: provision.Key{Tenant: "acme", Source: "/s", ID: "r-1"}, State: provision.StateWaiting, Posts: 3, Retry: 1,
		LastFail: provision.Fail(provision.ReasonFlowUnavailable, "HTTP 503"), Deadline: at(60),
		Attempts: []provision.Attempt{{At: at(1), Step: "post", Result: "throttled", Elapsed: 1.5, Owner: "w-1"}},
	}
	rows := story.Head(rec)
	got := map[string]string{}
	for _, r := range rows {
		got[r[0]] = r[1]
	}
	for name, want := range map[string]string{
		"request": "r-1", "tenant": "acme", "state": "waiting", "POSTs": "3 of this retry", "retry": "1",
		"in the way": "flow_unavailable: HTTP 503", "gives up": "2026-11-22 03:01:00.000Z", "sandbox": "-",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	if first := story.Head(provision.Record{Posts: 2}); !slices.ContainsFunc(first, func(r []string) bool { return slices.Equal(r, []string{"POSTs", "2"}) }) {
		t.Errorf("of no retry: %q", first)
	}
	want := []string{"2026-11-22 03:00:01.000Z", "0", "post", "throttled", "1.5s", "w-1", ""}
	if diff := cmp.Diff(want, story.Attempts(rec)[1]); diff != "" {
		t.Errorf("attempt (-want +got):\n%s", diff)
	}
}

func TestOutcome(t *testing.T) {
	t.Parallel()
	for want, rec := range map[string]provision.Record{
		"unknown": {State: provision.StateUnknown},
		"created": {State: provision.StateCreated, Final: &provision.FinalResult{}},
		"adopted": {State: provision.StateCreated, Final: &provision.FinalResult{Result: provision.Result{Adopted: true}}},
		"failed expired": {State: provision.StateFailed, Final: &provision.FinalResult{Result: provision.Result{
			Error: provision.Fail(provision.ReasonExpired, "late")}}},
	} {
		if got := story.Outcome(rec); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
