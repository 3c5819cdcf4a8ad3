package flow

import (
	"slices"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// calls is what the metrics say of the answered calls of one operation.
type calls struct {
	exemplars []string // the values of their labels
	classic   int      // buckets
	native    int      // spans of them
}

func (r *rig) calls(t *testing.T, name string, op operation) (c calls) {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != name || m.GetLabel()[0].GetValue() != "2xx" || m.GetLabel()[1].GetValue() != string(op) {
				continue
			}
			for _, l := range m.GetCounter().GetExemplar().GetLabel() {
				c.exemplars = append(c.exemplars, l.GetValue())
			}
			for _, b := range m.GetHistogram().GetBucket() {
				c.classic++
				for _, l := range b.GetExemplar().GetLabel() {
					c.exemplars = append(c.exemplars, l.GetValue())
				}
			}
			c.native += len(m.GetHistogram().GetPositiveSpan())
		}
	}
	return c
}

// A call leads to the trace of the request that it was made for, and a call without one to none.
func TestExemplarsOfCalls(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	for parent, want := range map[string][]string{"00-" + id + "-b7ad6b7169203331-01": {id}, "00-" + id + "-b7ad6b7169203331-00": nil, "": nil, "00-\xff-\xff-01": nil} {
		a := new(adobe)
		addr, _ := serve(t, a.ServeHTTP)
		r := newRig(t, addr)
		as := imsAccount()
		as.Trace = provision.Trace{Parent: parent}
		if _, err := r.Create(t.Context(), as, newConnection(), time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"flow_worker_flow_requests_total", "flow_worker_flow_request_duration_seconds"} {
			if got := r.calls(t, name, opCreate).exemplars; !slices.Equal(got, want) {
				t.Errorf("traceparent %q: %s has the exemplars %q, want %q", parent, name, got, want)
			}
		}
		if c := r.calls(t, "flow_worker_flow_request_duration_seconds", opCreate); c.classic == 0 || c.native == 0 {
			t.Errorf("the duration is no histogram of both kinds: %+v", c)
		}
		if got := r.calls(t, "flow_worker_flow_requests_total", opToken).exemplars; got != nil {
			t.Errorf("the token, which several share, has the exemplars %q", got)
		}
	}
}
