package flow

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// operation is the kind of a call, as metrics and logs name it.
type operation string

// The operations.
const (
	opCreate  operation = "create"
	opList    operation = "list"
	opGet     operation = "get"
	opUpdate  operation = "update"
	opDelete  operation = "delete"
	opExplore operation = "explore"
	opTest    operation = "test"
	opToken   operation = "token"
)

// operations and codes are all label values. The operations that no method makes yet have their
// series too, so that dashboards need no change when they come.
var (
	operations = []operation{opCreate, opList, opGet, opUpdate, opDelete, opExplore, opTest, opToken}
	codes      = []string{"1xx", "2xx", "3xx", "4xx", "5xx", codeError}
)

const codeError = "error" // no answer

// metrics counts and times the calls that were tried, each try by itself.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// newMetrics registers the metrics, every label value at zero. A nil reg registers nothing.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	labels := []string{"operation", "code"}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flow_worker_flow_requests_total",
			Help: "HTTP calls to the Flow Service and IMS, each try counted, by operation and class of the answer's status (error: no answer).",
		}, labels),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                            "flow_worker_flow_request_duration_seconds",
			Help:                            "Time from sending an HTTP call to the Flow Service or IMS to the head of its answer, by operation and class of its status.",
			Buckets:                         []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 75, 120},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  160,
			NativeHistogramMinResetDuration: time.Hour,
		}, labels),
	}
	for _, op := range operations {
		for _, code := range codes {
			m.requests.WithLabelValues(string(op), code)
			m.seconds.WithLabelValues(string(op), code)
		}
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("flow: register metrics: %w", err)
		}
	}
	return m, nil
}

// observe returns a RoundTripper that counts and times what passes through it to next.
func (m *metrics) observe(op operation, next http.RoundTripper) http.RoundTripper {
	return observed{op: op, next: next, metrics: m}
}

type observed struct {
	op      operation
	next    http.RoundTripper
	metrics *metrics
}

// RoundTrip implements http.RoundTripper.
func (o observed) RoundTrip(req *http.Request) (*http.Response, error) {
	began := time.Now()
	res, err := o.next.RoundTrip(req)
	code := codeError
	if err == nil {
		code = statusClass(res.StatusCode)
	}
	took := time.Since(began).Seconds()
	n, d := o.metrics.requests.WithLabelValues(string(o.op), code), o.metrics.seconds.WithLabelValues(string(o.op), code)
	adder, counts := n.(prometheus.ExemplarAdder)
	observer, times := d.(prometheus.ExemplarObserver)
	if id := (provision.Trace{Parent: req.Header.Get("Traceparent")}).SampledID(); id != "" && counts && times {
		exemplar := prometheus.Labels{"trace_id": id} // the trace that the call was part of
		adder.AddWithExemplar(1, exemplar)
		observer.ObserveWithExemplar(took, exemplar)
	} else {
		n.Inc()
		d.Observe(took)
	}
	return res, err
}

// statusClass returns "2xx" for 204, and codeError for what is no HTTP status.
func statusClass(status int) string {
	if status < 100 || status > 599 {
		return codeError
	}
	return strconv.Itoa(status/100) + "xx"
}
