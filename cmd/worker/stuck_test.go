package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

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
