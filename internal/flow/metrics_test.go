package flow

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// A call leads to the trace of the request that it was made for, and a call without one to none.
func TestExemplarsOfCalls(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	for parent, want := range map[string]string{"00-" + id + "-b7ad6b7169203331-01": id, "": "", "00-\xff-\xff-01": ""} {
		a := new(adobe)
		addr, _ := serve(t, a.ServeHTTP)
		r := newRig(t, addr)
		as := imsAccount()
		as.Trace = provision.Trace{Parent: parent}
		if _, err := r.Create(t.Context(), as, newConnection(), time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		m := callsOf(t, r.registry, "flow_worker_flow_requests_total", opCreate)
		if got := labelOf(m.GetCounter().GetExemplar()); got != want {
			t.Errorf("traceparent %q: the call's count has the exemplar %q, want %q", parent, got, want)
		}
		h := callsOf(t, r.registry, "flow_worker_flow_request_duration_seconds", opCreate).GetHistogram()
		got := ""
		for _, b := range h.GetBucket() {
			got += labelOf(b.GetExemplar())
		}
		if got != want {
			t.Errorf("traceparent %q: the call's duration has the exemplar %q, want %q", parent, got, want)
		}
		if len(h.GetBucket()) == 0 || len(h.GetPositiveSpan()) == 0 {
			t.Errorf("the duration is no histogram of both kinds: %v", h)
		}
		token := callsOf(t, r.registry, "flow_worker_flow_requests_total", opToken)
		if got := labelOf(token.GetCounter().GetExemplar()); got != "" {
			t.Errorf("the token, which several share, has the exemplar %q", got)
		}
	}
}

func labelOf(e *dto.Exemplar) string {
	if e == nil {
		return ""
	}
	return e.GetLabel()[0].GetValue()
}

// callsOf returns the series of answered calls.
func callsOf(t *testing.T, from prometheus.Gatherer, name string, op operation) *dto.Metric {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == "2xx" && m.GetLabel()[1].GetValue() == string(op) {
				return m
			}
		}
	}
	t.Fatalf("no series %s of %s", name, op)
	return nil
}
