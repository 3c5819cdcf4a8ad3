package flow_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/flow"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestEmulatorSpec(t *testing.T) {
	t.Parallel()
	em, c := start(t, flowtest.Config{})
	want := flow.Spec{ID: flowtest.DatabricksSpecID, Name: "databricks", Version: "1.0", AuthSpecs: []string{flowtest.DatabricksAuthSpec}}
	got, err := c.Spec(t.Context(), account(), flowtest.DatabricksSpecID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var ce *provision.CallError
	for _, id := range []string{"none", "../connections", "a b"} {
		if _, err := c.Spec(t.Context(), account(), id); !errors.As(err, &ce) || ce.Status != http.StatusNotFound {
			t.Errorf("%q: %v, want 404", id, err)
		}
	}
	for body, says := range map[flowtest.BodyKind]string{flowtest.BodyGarbage: "not the JSON", flowtest.BodyEmpty: "not the JSON"} {
		em.SetFaults(flowtest.Fault{Operation: flowtest.OpSpecs, Effect: flowtest.EffectStatus, Status: 200, Body: body})
		if _, err := c.Spec(t.Context(), account(), "x"); !errors.As(err, &ce) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", body, err)
		}
	}
	em.SetFaults(flowtest.Fault{Operation: flowtest.OpSpecs, Effect: flowtest.EffectReset})
	if _, err := c.Spec(t.Context(), account(), "x"); !errors.As(err, &ce) || ce.Cause != provision.CauseNetwork {
		t.Errorf("no answer: %v", err)
	}
	before := em.Count(flowtest.OpSpecs)
	as := account()
	as.Sandbox = ""
	if _, err := c.Spec(t.Context(), as, "x"); err == nil || em.Count(flowtest.OpSpecs) != before {
		t.Errorf("without a sandbox: %v, asked %d times", err, em.Count(flowtest.OpSpecs)-before)
	}
}
