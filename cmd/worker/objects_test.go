package main

import (
	"net/http"
	"testing"
)

// A ledger that is deleted under a running worker is made anew with the next request.
func TestLedgerDeleted(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.start()
	w.deleteLedger()
	r := w.worker(request("A", goodToken), "submit", "--tenant", "acme", "-") // which asks for the ledger
	if r.code == exitOK {
		t.Errorf("there is no ledger, and submit says nothing: %s", r.stderr)
	}
	w.publish("acme", request("A", goodToken))
	w.log.await(t, "an object is gone")
	w.awaitReady(http.StatusOK, `"ready": true`)
	r = w.worker(request("B", goodToken), "submit", "--tenant", "acme", "--wait", "--timeout", "1m", "-")
	if r.code != exitOK {
		t.Errorf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
}

// Where the worker may not make it, it stops and says what to do.
func TestLedgerDeletedUnderAWorkerThatManagesNothing(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	if r := w.worker("", "init"); r.code != exitOK {
		t.Fatal(r.stderr)
	}
	w.environ = append(w.environ, "WORKER_MANAGE_STREAMS=false")
	w.start()
	w.deleteLedger()
	w.publish("acme", request("A", goodToken))
	w.awaitReady(http.StatusServiceUnavailable, "worker init")
	if r := w.worker("", "init", "--worker-manage-streams=true"); r.code != exitOK {
		t.Fatal(r.stderr)
	}
	w.awaitReady(http.StatusOK, `"ready": true`)
	r := w.worker(request("B", goodToken), "submit", "--tenant", "acme", "--wait", "--timeout", "1m", "-")
	if r.code != exitOK {
		t.Errorf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
}

func (w *testWorld) deleteLedger() {
	w.t.Helper()
	if err := w.jetStream().DeleteKeyValue(w.t.Context(), "connection-ledger"); err != nil {
		w.t.Fatal(err)
	}
}

func (w *testWorld) publish(tenant, body string) {
	w.t.Helper()
	if _, err := w.jetStream().Publish(w.t.Context(), "connections.requests."+tenant, []byte(body)); err != nil {
		w.t.Fatal(err)
	}
}
