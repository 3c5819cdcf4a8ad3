package main

import (
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

// TestStoredOtherwise: the Flow Service accepts a connection spec's id in capitals, stores and lists it in small
// letters, and the answer to the POST is lost. There is one connection, found by its mark.
func TestStoredOtherwise(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.flow.SetFaults(
		flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectStore,
			Habits: []flowtest.Habit{flowtest.HabitLowerIDs, flowtest.HabitLowerNames, flowtest.HabitPlainDescriptions}},
		flowtest.Fault{Operation: flowtest.OpList, Effect: flowtest.EffectOmit, Fields: []string{"state", "auth"}},
		flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectReset, When: flowtest.StageAfter, Times: 1})
	w.start()
	body := strings.ReplaceAll(request("Orders of  ACME", goodToken), flowtest.DatabricksSpecID, strings.ToUpper(flowtest.DatabricksSpecID))
	r := w.worker(body, "submit", "--tenant", "acme", "--id", "r-1", "--wait", "-")
	if r.code != 0 || !strings.Contains(r.stdout, "adopted connection") {
		t.Errorf("submit: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if stored := w.flow.Connections(); len(stored) != 1 || stored[0].SpecID != flowtest.DatabricksSpecID {
		t.Errorf("stored: %+v", stored)
	}
}

// TestADraftIsNotAdopted: it is no connection to be used.
func TestADraftIsNotAdopted(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.flow.SetFaults(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectState, State: "draft", Times: 1})
	w.start()
	w.worker(request("orders", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "-")
	body := strings.Replace(request("orders", goodToken), `"name"`, `"ifExists":"adopt","name"`, 1)
	r := w.worker(body, "submit", "--tenant", "acme", "--id", "r-2", "--wait", "-")
	if r.code != exitFailed || !strings.Contains(r.stdout, "name_exists") || !strings.Contains(r.stdout, "draft") {
		t.Errorf("submit: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if n := len(w.flow.Connections()); n != 1 {
		t.Errorf("%d connections", n)
	}
}
