package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// However many requests there are, a list has an end, and says what it leaves out.
func TestListIsBounded(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.worker("", "init")
	js := w.jetStream()
	for i := range 105 {
		w.store(js, fmt.Sprintf("r-%03d", i), provision.StateUnknown, uint64(i+1))
	}
	for args, want := range map[string]struct {
		lines         int
		first, stderr string
	}{
		"list":                            {101, "TENANT", "leaves out 5 requests"},
		"list --limit 10":                 {11, "TENANT", "leaves out 95 requests"},
		"list --limit 0":                  {106, "TENANT", ""},
		"list --json --limit 3":           {3, `{"key":`, "leaves out 102 requests"},
		"list --stuck --limit 2":          {3, "TENANT", "leaves out 103 requests"},
		"list --older-than 2h":            {0, "", "no request matches"},
		"list --tenant acme --source /no": {0, "", "no request matches"},
	} {
		r := w.worker("", strings.Fields(args)...)
		if r.code != exitOK || strings.Count(r.stdout, "\n") != want.lines || !strings.HasPrefix(r.stdout, want.first) || !strings.Contains(r.stderr, want.stderr) {
			t.Errorf("%s: exit %d, %d lines:\n%s", args, r.code, strings.Count(r.stdout, "\n"), r.stderr)
		}
	}
	r := w.worker("", "list", "--limit", "1")
	if !strings.Contains(r.stdout, "r-104") {
		t.Errorf("not the latest:\n%s", r.stdout)
	}
}

// What waits for a target rests in any state that is none of an end: "open" finds them all.
func TestListByStandsAndEnds(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.worker("", "init")
	js := w.jetStream()
	for i, state := range provision.States {
		w.store(js, "is-"+string(state), state, uint64(i+1))
	}
	adopted := provision.Record{
		Key: provision.Key{Tenant: "acme", Source: "/s", ID: "is-adopted"}, State: provision.StateCreated, Nonce: "n",
		Final: &provision.FinalResult{EventID: "e", Outcome: "created", Result: provision.Result{Adopted: true}},
	}
	w.write(js, adopted)
	for states, want := range map[string]string{
		"open":            "claimed posting unknown waiting",
		"waiting":         "waiting",
		"adopted":         "adopted",
		"created":         "adopted created",
		"adopted,failed":  "adopted failed",
		"adopted,created": "adopted created",
		"open,adopted":    "adopted claimed posting unknown waiting",
	} {
		r := w.worker("", "list", "--state", states)
		ids := regexp.MustCompile(`is-(\w+)`).FindAllStringSubmatch(r.stdout, -1)
		var got []string
		for _, id := range ids {
			got = append(got, id[1])
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("--state %s: exit %d, got %q, want %q:\n%s%s", states, r.code, got, want, r.stdout, r.stderr)
		}
	}
}

// A request may end long after it was sent: --ended-within goes by the end, and so do order and --limit.
func TestListByEnd(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.worker("", "init")
	js := w.jetStream()
	now := time.Now()
	for id, at := range map[string]struct{ sent, ended time.Duration }{ // ago
		"is-lately": {25 * time.Hour, time.Minute}, "is-later": {time.Hour, 30 * time.Minute}, "is-earlier": {2 * time.Hour, 90 * time.Minute},
	} {
		w.write(js, provision.Record{
			Key: provision.Key{Tenant: "acme", Source: "/s", ID: id}, State: provision.StateFailed, Nonce: "n", RequestedAt: now.Add(-at.sent),
			Final: &provision.FinalResult{EventID: "e", Outcome: provision.OutcomeFailed, Result: provision.Result{CompletedAt: now.Add(-at.ended)}},
		})
	}
	w.store(js, "is-open", provision.StateUnknown, 1)
	for args, want := range map[string]string{
		"list --ended-within 1h":                               "later lately",
		"list --ended-within 2h":                               "earlier later lately",
		"list --ended-within 2h --limit 1":                     "lately",
		"list --ended-within 2h --older-than 3h":               "lately",
		"list --ended-within 1h --state failed":                "later lately",
		"list --ended-within 1h --state created":               "",
		"list --newer-than 3h --state failed --json":           "earlier later",
		"list --ended-within 2h --limit 2 --state open,failed": "later lately",
	} {
		r := w.worker("", strings.Fields(args)...)
		var got []string
		for _, id := range regexp.MustCompile(`is-(\w+)`).FindAllStringSubmatch(r.stdout, -1) {
			got = append(got, id[1])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: exit %d, got %q, want %q:\n%s%s", args, r.code, got, want, r.stdout, r.stderr)
		}
	}
}

// A row without a last value leaves the columns of the others alone.
func TestColumnsStayAligned(t *testing.T) {
	t.Parallel()
	var out safeBuffer
	if err := printRows(&out, [][]string{{"A", "B", "C"}, {"1", "2", ""}, {"long", "longer", "x"}}); err != nil {
		t.Fatal(err)
	}
	if want := "A     B       C\n1     2\nlong  longer  x\n"; out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

// store writes a record that its worker left an hour ago.
func (w *testWorld) store(js jetstream.JetStream, id string, state provision.State, seq uint64) {
	w.t.Helper()
	at := time.Now().Add(-time.Hour)
	rec := provision.Record{
		Key: provision.Key{Tenant: "acme", Source: "/worker/submit", ID: id}, State: state, Nonce: id, Owner: "gone", Held: true,
		HeldSeq: seq, HeldUntil: at, UpdatedAt: at, RequestedAt: at, StartedAt: at, Deadline: at.Add(24 * time.Hour),
	}
	w.write(js, rec)
}

// write stores the first version of a record.
func (w *testWorld) write(js jetstream.JetStream, rec provision.Record) {
	w.t.Helper()
	book, err := ledger.Open(w.t.Context(), js, ledger.Config{})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := book.Store(w.t.Context(), rec.Key, rec, 0); err != nil {
		w.t.Fatal(err)
	}
}

func TestListStuck(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.worker("", "init")
	if r := w.worker("", "list", "--stuck"); r.code != exitOK || !strings.Contains(r.stderr, "no request is stuck") || r.stdout != "" {
		t.Errorf("nothing there: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "there", "-") // sequence 1
	js := w.jetStream()
	w.store(js, "there", provision.StateUnknown, 1)
	w.store(js, "stuck", provision.StateUnknown, 7)
	w.store(js, "ended", provision.StateFailed, 8)
	r := w.worker("", "list", "--stuck")
	if r.code != exitOK || strings.Count(r.stdout, "\n") != 2 || !strings.Contains(r.stdout, "stuck") || !strings.Contains(r.stderr, "send the very same request") {
		t.Errorf("one stuck: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	r = w.worker("", "list", "--stuck", "--json", "--tenant", "acme")
	var rec provision.Record
	if err := json.Unmarshal([]byte(r.stdout), &rec); err != nil || rec.Key.ID != "stuck" {
		t.Errorf("--json: exit %d, %v:\n%s%s", r.code, err, r.stdout, r.stderr)
	}
	if r := w.worker("", "list", "--stuck", "--state", "waiting"); r.code != exitOK || r.stdout != "" {
		t.Errorf("another state: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// awaitEmpty waits until no request is left in the stream.
func (w *testWorld) awaitEmpty(js jetstream.JetStream) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	ask := time.NewTicker(20 * time.Millisecond)
	defer ask.Stop()
	for {
		stream, err := js.Stream(ctx, consumer.StreamRequests)
		if err != nil {
			w.t.Fatal(err)
		}
		if stream.CachedInfo().State.Msgs == 0 {
			return
		}
		select {
		case <-ask.C:
		case <-ctx.Done():
			w.t.Fatal("the stream doesn't get empty")
		}
	}
}

// The remedy that is told works: what was left behind goes on, with a look-up first.
func TestAStuckRequestGoesOnWhenItIsSentAgain(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.start()
	w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "-")
	js := w.jetStream()
	w.awaitEmpty(js) // the result is told before the message is acknowledged
	book, err := ledger.Open(t.Context(), js, ledger.Config{})
	if err != nil {
		t.Fatal(err)
	}
	rec, rev, err := book.Load(t.Context(), provision.Key{Tenant: "acme", Source: "/worker/submit", ID: "r-1"})
	if err != nil {
		t.Fatal(err)
	}
	made := rec.Final.Result.Connection.ID
	old := time.Now().Add(-time.Hour)
	rec.State, rec.Final, rec.Nonce, rec.UpdatedAt, rec.HeldUntil, rec.PostedAt, rec.Doubt = provision.StateUnknown, nil, "left", old, old, old, true
	if _, err := book.Store(t.Context(), rec.Key, rec, rev); err != nil {
		t.Fatal(err)
	}
	if r := w.worker("", "list", "--stuck"); !strings.Contains(r.stdout, "r-1") {
		t.Errorf("exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	r := w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "--timeout", "1m", "-")
	if r.code != exitOK || !strings.Contains(r.stdout, "adopted connection "+made) {
		t.Errorf("exit %d, want %s adopted:\n%s%s", r.code, made, r.stdout, r.stderr)
	}
}

func TestStatusOfAQueuedRequest(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.worker("", "init")
	for _, args := range []string{"--id r-1", "--id r-2", "--id r-2 --source /else"} {
		w.worker(request("A", goodToken), append(strings.Fields("submit --tenant acme "+args), "-")...)
	}
	r := w.worker("", "status", "r-1")
	if r.code != exitOK || !strings.Contains(r.stdout, "queued: no worker has taken it up yet") || !strings.Contains(r.stdout, "is one running?") {
		t.Errorf("queued: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	w.worker("", "pause")
	r = w.worker("", "status", "r-2", "--source", "/else", "--json")
	var view queuedRequest
	if err := json.Unmarshal([]byte(r.stdout), &view); err != nil || view.Key.Source != "/else" || view.State != "queued" || view.Seq != 3 ||
		view.RequestedAt.IsZero() || !strings.Contains(view.Note, "paused") {
		t.Errorf("queued and paused: exit %d, %v, %+v:\n%s", r.code, err, view, r.stderr)
	}
	if r := w.worker("", "status", "r-2"); r.code != exitUsage || !strings.Contains(r.stderr, "--source") {
		t.Errorf("an ambiguous one: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	for _, args := range [][]string{{"r-3"}, {"r-1", "--tenant", "globex"}} {
		if r := w.worker("", append([]string{"status"}, args...)...); r.code != exitFailed || !strings.Contains(r.stderr, "nor is it in the queue") {
			t.Errorf("%q: exit %d:\n%s%s", args, r.code, r.stdout, r.stderr)
		}
	}
	w.worker("", "resume")
	w.watchQueued()
}

// watchQueued starts the worker under a status --watch.
func (w *testWorld) watchQueued() {
	watched := make(chan result, 1)
	go func() { watched <- worker(w.t, w.environ, "", "status", "--watch", "r-1") }()
	w.start()
	r := <-watched
	if r.code != exitOK || !strings.Contains(r.stdout, "created connection") {
		w.t.Errorf("--watch: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// What a request went through is told in plain words, and what can be done about it.
func TestStatusTellsTheStory(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.flow.SetFaults(
		flowtest.Fault{Operation: flowtest.OpCreate, Name: "throttled", Effect: flowtest.EffectStatus, Status: 429, Times: 2},
		flowtest.Fault{Operation: flowtest.OpCreate, Name: "lost", Effect: flowtest.EffectReset, When: flowtest.StageAfter, Times: 1},
		flowtest.Fault{Operation: flowtest.OpCreate, Name: "refused", Effect: flowtest.EffectClusterStopped},
	)
	w.environ = append(w.environ, "WORKER_REQUEST_DEADLINE=2s", "WORKER_RETRY_INITIAL=100ms")
	w.start()
	for name, wants := range map[string][]string{
		"throttled": {"POSTs +3", `throttled; waiting as long as the Flow Service asks \(flow: HTTP 429`, "the POST made the connection\n", "created connection "},
		"lost": {"POSTs +1\n", `no answer to the POST: it may have made a connection, so it is looked up, not repeated \(flow: `,
			"looked up: it is there, with this request's mark; adopted\n", "state +adopted\n"},
		"refused": {"state +failed flow_unavailable\n", "the Databricks cluster does not run yet",
			"worker retry --tenant acme --source /worker/submit refused +sends it again, once its cause is mended"},
	} {
		w.worker(request(name, goodToken), "submit", "--tenant", "acme", "--id", name, "--wait", "-")
		r := w.worker("", "status", name)
		for _, want := range wants {
			if !regexp.MustCompile(want).MatchString(r.stdout) {
				t.Errorf("%s: no %q in the story, exit %d:\n%s%s", name, want, r.code, r.stdout, r.stderr)
			}
		}
	}
	open := w.statusOfOpen()
	if !regexp.MustCompile(`next +.*looks? up whether the POST made a connection`).MatchString(open) || strings.Contains(open, "worker retry") {
		t.Errorf("of one that has not ended:\n%s", open)
	}
}

// statusOfOpen returns the status of a request whose POST is open.
func (w *testWorld) statusOfOpen() string {
	w.t.Helper()
	w.stopWorker()
	w.store(w.jetStream(), "open", "unknown", 7)
	return w.worker("", "status", "open").stdout
}
