package app

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/inquiry"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

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
