package ops

import (
	"html"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// pageOf returns the text of one request's page.
func pageOf(t *testing.T, rec provision.Record) string {
	t.Helper()
	h, _ := library(rec)
	w := ask(h, "GET", storyURL(rec.Key))
	if w.Code != 200 {
		t.Fatal(w.Code)
	}
	return html.UnescapeString(w.Body.String())
}

// Each way a request can stand is told: what it is, why, what comes next, and what to type.
func TestStoryPage(t *testing.T) {
	t.Parallel()
	now := time.Now()
	base := func(state provision.State) provision.Record {
		rec := record("r-1", state)
		rec.RequestedAt, rec.StartedAt, rec.Owner, rec.Sandbox, rec.Deadline = now.Add(-time.Minute), now.Add(-time.Minute), "w-1", "prod", now.Add(time.Hour)
		rec.Secrets = map[string]int{"adobe": 3, "token": 7}
		return rec
	}
	waiting := base(provision.StateWaiting)
	waiting.LastFail = provision.Fail(provision.ReasonFlowUnavailable, "HTTP 429")
	waiting.Attempts = []provision.Attempt{{At: now, Step: "handback", Result: "waiting", Detail: "for 5m0s"}}
	failed := base(provision.StateFailed)
	failed.Final = &provision.FinalResult{Result: provision.Result{RequestedAt: failed.RequestedAt, CompletedAt: failed.RequestedAt.Add(1500 * time.Millisecond),
		Error: &provision.Failure{Reason: provision.ReasonFlowRejected, Message: "bad cluster", HTTPStatus: 400, Code: "FLOW-1308-400", UpstreamRequestID: "up-1"}}}
	unknown := base(provision.StateFailed)
	unknown.Final = &provision.FinalResult{Result: provision.Result{Error: provision.Fail(provision.ReasonOutcomeUnknown, "look for it")}}
	adopted := base(provision.StateCreated)
	adopted.Retry = 2
	adopted.Final = &provision.FinalResult{Result: provision.Result{Adopted: true, Connection: &provision.Connection{ID: "c-1", Etag: `"e"`}}}
	for name, c := range map[string]struct {
		rec  provision.Record
		want []string
	}{
		"claimed": {base(provision.StateClaimed), []string{"nothing was posted yet", "worker status --tenant acme --source /portal --watch r-1", "Gives up"}},
		"posting": {base(provision.StatePosting), []string{"It is being posted", "Sandbox", "prod", "Version of secret “token”"}},
		"unknown": {base(provision.StateUnknown), []string{"Nobody knows yet", "looks up whether the POST made a connection"}},
		"waiting": {waiting, []string{"It waits:", "HTTP 429", "rests in the queue", "in 4 min 5", "Given back to the stream, to rest until"}},
		"failed":  {failed, []string{"It failed with flow_rejected, 1.5 s after", "bad cluster", "FLOW-1308-400", "up-1", "400", "worker retry --tenant acme", "Adobe refused"}},
		"outcome": {unknown, []string{"outcome_unknown", "worker resolve --tenant acme", "look for it"}},
		"adopted": {adopted, []string{">adopted<", "c-1", `"e"`, "Retry", "nothing: it is done"[1:]}},
		"other":   {base("verified"), []string{"It has not ended: verified."}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := pageOf(t, c.rec)
			for _, want := range c.want {
				if !strings.Contains(body, want) {
					t.Errorf("lacks %q:\n%s", want, body)
				}
			}
		})
	}
}

// What the entry before has said is not said again.
func TestEventRows(t *testing.T) {
	t.Parallel()
	rows := eventRows([]Event{
		{At: noon, Text: "entered"}, {At: noon.Add(time.Second), Text: "posted", Worker: "w", Detail: "HTTP 400", Seconds: 0.5},
		{At: noon.Add(2 * time.Second), Text: "failed", Worker: "w", Detail: "HTTP 400"}, {At: noon.Add(3 * time.Second), Text: "Again", Worker: "w", Retry: 1}})
	want := []eventRow{
		{At: "2026-11-22T12:00:00Z", Clock: "12:00:00.000", Since: "2026-11-22", Text: "Entered"},
		{At: "2026-11-22T12:00:01Z", Clock: "12:00:01.000", Since: "+1 s", Text: "Posted", Detail: "HTTP 400", Took: "500 ms", Worker: "by w"},
		{At: "2026-11-22T12:00:02Z", Clock: "12:00:02.000", Since: "+1 s", Text: "Failed"},
		{At: "2026-11-22T12:00:03Z", Clock: "12:00:03.000", Since: "+1 s", Text: "Again", Worker: "by w, retry 1"}}
	if !slices.Equal(rows, want) {
		t.Errorf("got  %+v\nwant %+v", rows, want)
	}
}

// Whatever others wrote is shown as what it is, in every part of the pages.
func TestPagesEscape(t *testing.T) {
	t.Parallel()
	const hostile = "</bdi></script><script>alert(1)</script>\" onx='y' {{.Version}} \u202edesrever\u200b\x1b[31m"
	const shown = `</bdi></script><script>alert(1)</script>" onx='y' {{.Version}} \u202edesrever\u200b\x1b[31m`
	rec := provision.Record{Key: provision.Key{Tenant: "acme", Source: hostile, ID: hostile}, State: provision.StateFailed, Name: hostile, Sandbox: hostile, Owner: hostile,
		ConnectionSpec: provision.ConnectionSpec{ID: hostile, Version: hostile}, Attempts: []provision.Attempt{{At: noon, Step: hostile, Result: hostile, Detail: hostile, Owner: hostile}},
		Final: &provision.FinalResult{Result: provision.Result{Error: &provision.Failure{Reason: provision.Reason(hostile), Message: hostile + "!", Code: hostile, UpstreamRequestID: hostile},
			Connection: &provision.Connection{ID: hostile, Etag: hostile}}}}
	twin := rec
	twin.Key.Tenant = "globex"
	h, _ := library(rec, twin)
	for target, least := range map[string]int{storyURL(rec.Key): 15, "/": 6, "/requests?id=" + escaped(hostile): 6, "/requests?id=desrever": 4} {
		raw := ask(h, "GET", target).Body.String()
		body := html.UnescapeString(raw)
		if n := strings.Count(body, shown); n < least {
			t.Errorf("%s shows it %d times, want %d", target, n, least)
		}
		if strings.Contains(raw, "<script>") || strings.ContainsAny(body, "\u202e\u200b\x1b") || strings.Contains(raw, "onx='") {
			t.Errorf("%s shows what is hostile:\n%s", target, raw)
		}
	}
}

func escaped(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteString("%" + string("0123456789ABCDEF"[c>>4]) + string("0123456789ABCDEF"[c&15]))
	}
	return b.String()
}
