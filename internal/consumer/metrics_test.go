package consumer

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// gathered returns a metric's families by name.
func gathered(t *testing.T, from prometheus.Gatherer) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*dto.MetricFamily{}
	for _, f := range families {
		byName[f.GetName()] = f
	}
	return byName
}

// A failure's counters and its duration lead to its trace; what came without one leads nowhere.
func TestExemplarsOfConclusions(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	for parent, want := range map[string]string{"00-" + id + "-b7ad6b7169203331-01": id, "": "", "00-\xff-\xff-01": ""} {
		reg := prometheus.NewRegistry()
		d := provision.Delivery{Request: provision.Request{Trace: provision.Trace{Parent: parent}}}
		failed := &provision.Result{Outcome: provision.OutcomeFailed, Error: provision.Fail(provision.ReasonInternal, "")}
		NewMetrics(reg).concluded(d, provision.Outcome{Result: failed}, time.Minute)
		all := gathered(t, reg)
		got := map[string]string{} // :: metric → trace id of its exemplar
		for _, name := range []string{"flow_worker_requests_total", "flow_worker_request_failures_total", "flow_worker_request_duration_seconds"} {
			got[name] = ""
			for _, m := range all[name].GetMetric() {
				for _, e := range exemplarsOf(m) {
					got[name] += e.GetLabel()[0].GetValue()
				}
			}
			if got[name] != want {
				t.Errorf("%s of a request with traceparent %q has the exemplar %q, want %q", name, parent, got[name], want)
			}
		}
	}
}

// exemplarsOf returns those of a counter or of a histogram's classic buckets.
func exemplarsOf(m *dto.Metric) (list []*dto.Exemplar) {
	if e := m.GetCounter().GetExemplar(); e != nil {
		list = append(list, e)
	}
	for _, b := range m.GetHistogram().GetBucket() {
		if e := b.GetExemplar(); e != nil {
			list = append(list, e)
		}
	}
	return list
}

// The duration is a classic histogram and a native one at the same time.
func TestDurationIsBothKindsOfHistogram(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	created := &provision.Result{Outcome: provision.OutcomeCreated}
	NewMetrics(reg).concluded(provision.Delivery{}, provision.Outcome{Result: created}, time.Second)
	for _, m := range gathered(t, reg)["flow_worker_request_duration_seconds"].GetMetric() {
		h := m.GetHistogram()
		if n := len(h.GetBucket()); n != len(durationBuckets) {
			t.Errorf("%d classic buckets, want %d", n, len(durationBuckets))
		}
		if h.Schema == nil || h.GetSampleCount() == 1 && len(h.GetPositiveSpan()) == 0 {
			t.Errorf("no native histogram: %v", h)
		}
	}
}
