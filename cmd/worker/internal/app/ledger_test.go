package app

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/inquiry"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// TestAYoungLedgerBesideAnOldStream: then an earlier ledger is lost, and a repeat of what it knew must
// be looked up before it is posted again.
func TestAYoungLedgerBesideAnOldStream(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		age  ledgerAge
		want time.Time
	}{
		"made before the stream":       {ledgerAge{created: now, stream: now.Add(time.Second)}, time.Time{}},
		"made by the same set-up":      {ledgerAge{created: now, stream: now.Add(-time.Minute)}, time.Time{}},
		"there is no stream yet":       {ledgerAge{created: now}, time.Time{}},
		"the stream is two months old": {ledgerAge{created: now, stream: now.AddDate(0, -2, 0)}, now.Add(ledger.DefaultTTL)},
	} {
		if got := c.age.lookFirstUntil(); !got.Equal(c.want) {
			t.Errorf("%s: look first until %v, want %v", name, got, c.want)
		}
	}
}

func TestTheSweepSeesTheLedgerThatIsOpen(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := &worker{}
	for _, err := range (records{w}).from(ctx, 0) {
		if !errors.Is(err, errNoLedger) {
			t.Errorf("no ledger: %v", err)
		}
	}
	if _, _, err := (records{w}).load(ctx, provision.Key{}); !errors.Is(err, errNoLedger) {
		t.Errorf("no ledger: %v", err)
	}
	js := openLedgerFor(ctx, t, w)
	var revs []uint64
	for _, id := range []string{"a", "b"} {
		rec := provision.Record{Key: provision.Key{Tenant: "acme", Source: "s", ID: id}, State: provision.StateClaimed}
		rev, err := w.ledger.Load().Store(ctx, rec.Key, rec, 0)
		if err != nil {
			t.Fatal(err)
		}
		revs = append(revs, rev)
	}
	kv, err := js.KeyValue(ctx, ledger.DefaultBucket)
	if err == nil {
		_, err = kv.PutString(ctx, "acme.s.newer", `{"of":"tomorrow"}`)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := ids(ctx, t, w, 0); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q", got)
	}
	if got := ids(ctx, t, w, revs[1]); !slices.Equal(got, []string{"b"}) {
		t.Errorf("from the second on: got %q", got)
	}
	if _, rev, err := (records{w}).load(ctx, provision.Key{Tenant: "acme", Source: "s", ID: "a"}); err != nil || rev != revs[0] {
		t.Errorf("record: revision %d, %v", rev, err)
	}
}

func openLedgerFor(ctx context.Context, t *testing.T, w *worker) jetstream.JetStream {
	t.Helper()
	js := natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL())
	book, err := ledger.Open(ctx, js, ledger.Config{Manage: true})
	if err != nil {
		t.Fatal(err)
	}
	w.ledger.Store(book)
	return js
}

func ids(ctx context.Context, t *testing.T, w *worker, from uint64) (got []string) {
	t.Helper()
	for e, err := range (records{w}).from(ctx, from) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Record.Key.ID)
	}
	return got
}

// Tenants' questions, however many and large, are nothing to the work: its connection stays, and the worker
// ready.
func TestFloodOfQuestionsIsNothingToTheWork(t *testing.T) {
	t.Parallel()
	w := newLossWorld(t)
	w.settings.AnswerTenants = true
	worker, _ := w.start(time.Hour)
	w.send()
	large := []byte(`{"id":"r"}` + strings.Repeat(" ", 510_000))
	var flooders sync.WaitGroup
	for range 2 {
		nc := natstest.Connect(t, w.broker.ClientURL()).Conn()
		flooders.Go(func() {
			for range 80 {
				if err := nc.PublishRequest(inquiry.Subject("globex"), nc.NewRespInbox(), large); err != nil {
					t.Error(err)
				}
			}
			if err := nc.FlushWithContext(w.ctx); err != nil {
				t.Error(err)
			}
		})
	}
	received := worker.nats.Stats().InBytes
	w.eventually("an answer amid the flood", func() bool {
		recs, err := inquiry.Ask(w.ctx, w.js.Conn(), "acme", inquiry.Question{ID: "r"})
		if err != nil && !errors.Is(err, inquiry.ErrNobody) {
			t.Fatal(err)
		}
		return len(recs) == 1 && recs[0].Final != nil
	})
	flooders.Wait()
	w.send() // and the work goes on
	stats := worker.nats.Stats()
	if stats.Reconnects != 0 || !worker.nats.IsConnected() || stats.InBytes-received > uint64(len(large)) {
		t.Errorf("the work's connection: %d reconnects, %d bytes received", stats.Reconnects, stats.InBytes-received)
	}
	if report := worker.health.Report(w.ctx); !report.Ready {
		t.Errorf("not ready: %+v", report)
	}
}

// Questions that can't even be connected for are told to the log, and end nothing.
func TestTroubleWithQuestionsIsTold(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	w := &worker{log: slog.New(slog.NewTextHandler(&log, nil))}
	w.settings.NATSCreds = "/does/not/exist"
	w.answerTenants(t.Context()) // returns
	if text := log.String(); !strings.Contains(text, "tenants' questions are not answered") || !strings.Contains(text, "/does/not/exist") {
		t.Errorf("log:\n%s", text)
	}
}
