package consumer

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// exemplars returns the values of the labels of a metric's exemplars: a counter's, or those of a
// histogram's classic buckets.
func exemplars(t *testing.T, from prometheus.Gatherer, name string) (values []string) {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != prefix+name {
				continue
			}
			for _, l := range m.GetCounter().GetExemplar().GetLabel() {
				values = append(values, l.GetValue())
			}
			for _, b := range m.GetHistogram().GetBucket() {
				for _, l := range b.GetExemplar().GetLabel() {
					values = append(values, l.GetValue())
				}
			}
		}
	}
	return values
}

// A failure's counters and its duration lead to its trace; what came without one leads nowhere.
func TestExemplarsOfConclusions(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	for parent, want := range map[string][]string{"00-" + id + "-b7ad6b7169203331-01": {id}, "00-" + id + "-b7ad6b7169203331-00": nil, "": nil, "00-\xff-\xff-01": nil} {
		reg := prometheus.NewRegistry()
		d := provision.Delivery{Request: provision.Request{Trace: provision.Trace{Parent: parent}}}
		failed := &provision.Result{Outcome: provision.OutcomeFailed, Error: provision.Fail(provision.ReasonInternal, "")}
		NewMetrics(reg).concluded(d, provision.Outcome{Result: failed}, time.Minute)
		for _, name := range []string{"requests_total", "request_failures_total", "request_duration_seconds"} {
			if got := exemplars(t, reg, name); !slices.Equal(got, want) {
				t.Errorf("%s of a request with traceparent %q has the exemplars %q, want %q", name, parent, got, want)
			}
		}
	}
}

// The duration is a classic histogram and a native one at the same time.
func TestDurationIsBothKindsOfHistogram(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	created := &provision.Result{Outcome: provision.OutcomeCreated}
	NewMetrics(reg).concluded(provision.Delivery{}, provision.Outcome{Result: created}, time.Second)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	observed := 0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			h := m.GetHistogram()
			if h == nil {
				continue
			}
			if n := len(h.GetBucket()); n != len(durationBuckets) || h.Schema == nil {
				t.Errorf("%d classic buckets, want %d; native with schema %v", n, len(durationBuckets), h.Schema)
			}
			observed += len(h.GetPositiveSpan()) * int(h.GetSampleCount())
		}
	}
	if observed != 1 {
		t.Errorf("%d observations in native buckets, want 1", observed)
	}
}
