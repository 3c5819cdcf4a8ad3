package consumer

import (
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// How a message was settled: the values of the label "settled".
const (
	settledAck       = "ack"       // its outcome is published and it is gone
	settledNak       = "nak"       // it went back to the stream
	settledTerm      = "term"      // it was on no tenant's subject and is gone
	settledAbandoned = "abandoned" // the broker did not learn of it; it comes again after the ack wait

	settledDirect = "direct" // it was read, not delivered: for the log only
)

// What the sweeper mends, and how that ended: the values of the labels "repair" and "result".
const (
	repairQueue    = "queue"    // messages that the broker had lost sight of are delivered again
	repairConsumer = "consumer" // settings that somebody changed under the running worker are as they must be again

	repairDone   = "done"
	repairFailed = "failed" // the log says why; what is only put off is not counted
)

// The values of the label "outcome" beside "created" and "failed".
const (
	outcomeAdopted   = "adopted"
	outcomeDuplicate = "duplicate"
)

// Metrics are those of the contract that the consumer and the hub fill. They are one registerer's:
// make them once per process. It is a provision.Observer. All methods are safe for concurrent use.
type Metrics struct {
	requests        *prometheus.CounterVec
	failures        *prometheus.CounterVec
	duration        *prometheus.HistogramVec
	inFlight        prometheus.Gauge
	deliveries      *prometheus.CounterVec
	retries         *prometheus.CounterVec
	reconciliations *prometheus.CounterVec
	pending         prometheus.Gauge
	ackPending      prometheus.Gauge
	redelivered     prometheus.Gauge
	oldest          prometheus.Gauge
	paused          prometheus.Gauge
	orphans         prometheus.Gauge
	stuck           prometheus.Gauge
	deadLetters     prometheus.Gauge
	repairs         *prometheus.CounterVec

	connected atomic.Pointer[func() bool] // nil before a consumer runs
}

var _ provision.Observer = (*Metrics)(nil)

const prefix = "flow_worker_"

// durationBuckets reach from the fastest creation to the longest deadline that is the default, in
// seconds.
var durationBuckets = []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400}

// NewMetrics registers the metrics with reg, or nowhere if it is nil. Every label value is there from
// the start.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests:        counters("requests_total", "Messages concluded, by outcome: adopted (the connection was found, not made), duplicate (an outcome told again).", "outcome"),
		failures:        counters("request_failures_total", "Requests that failed, by the reason in their results.", "reason"),
		duration:        durations(),
		inFlight:        gauge("requests_in_flight", "Requests that this process is working on, those included that are made ready for a slot or wait before they are tried again."),
		deliveries:      counters("deliveries_total", "Deliveries, by what became of the message: ack (gone), nak (back to rest), term (on no tenant's subject), abandoned (the broker could not be told).", "settled"),
		retries:         counters("retries_total", "Calls that had to be repeated, by target and cause.", "target", "cause"),
		reconciliations: counters("reconciliations_total", "Look-ups of what a POST came to, by how they ended; several should never be.", "result"),
		pending:         gauge("queue_pending", "Messages that were never delivered yet; the same from every worker."),
		ackPending:      gauge("queue_ack_pending", "Messages that were delivered and not settled, in all workers' hands or resting; the same from every worker."),
		redelivered:     gauge("queue_redelivered", "Messages delivered more than once and not settled yet; the same from every worker."),
		oldest:          gauge("queue_oldest_seconds", "Age of the oldest message in the requests stream, 0 if it is empty; the same from every worker."),
		paused:          gauge("paused", "1 while the intake of all workers is paused."),
		orphans:         gauge("queue_orphans", "Messages in the requests stream that will never be delivered again; 0 is normal."),
		stuck:           gauge("ledger_stuck", "Requests that have not ended and that no message carries any more; 0 is normal."),
		deadLetters:     gauge("dead_letters", "Messages in the dead-letter stream, those of the last 30 days that were sent again included."),
		repairs:         counters("repairs_total", "What a worker mended after somebody had changed the NATS objects, and how that ended.", "repair", "result"),
	}
	m.prepare()
	if reg != nil {
		reg.MustRegister(m.requests, m.failures, m.duration, m.inFlight, m.deliveries, m.retries, m.reconciliations,
			m.pending, m.ackPending, m.redelivered, m.oldest, m.paused, m.orphans, m.stuck, m.deadLetters, m.repairs, m.connection())
	}
	return m
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: help})
}

func durations() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:                            prefix + "request_duration_seconds",
		Help:                            "Time from a message's entering the stream to the acknowledged result, by outcome.",
		Buckets:                         durationBuckets,
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  160,
		NativeHistogramMinResetDuration: time.Hour,
	}, []string{"outcome"})
}

func (m *Metrics) connection() prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: prefix + "nats_connected", Help: "1 while the connection to NATS is up.",
	}, func() float64 {
		if up := m.connected.Load(); up != nil && (*up)() {
			return 1
		}
		return 0
	})
}

func (m *Metrics) prepare() {
	for _, o := range []string{provision.OutcomeCreated, outcomeAdopted, provision.OutcomeFailed, outcomeDuplicate} {
		m.requests.WithLabelValues(o)
		m.duration.WithLabelValues(o)
	}
	for _, r := range provision.Reasons {
		m.failures.WithLabelValues(string(r))
	}
	for _, s := range []string{settledAck, settledNak, settledTerm, settledAbandoned} {
		m.deliveries.WithLabelValues(s)
	}
	for _, t := range []provision.Target{provision.TargetFlow, provision.TargetVault, provision.TargetIMS} {
		for _, c := range []provision.Cause{provision.CauseStatus, provision.CauseTimeout, provision.CauseNetwork, provision.CauseThrottled} {
			m.retries.WithLabelValues(string(t), string(c))
		}
	}
	for _, r := range []string{repairQueue, repairConsumer} {
		m.repairs.WithLabelValues(r, repairDone)
		m.repairs.WithLabelValues(r, repairFailed)
	}
	for _, r := range []provision.Reconciliation{
		provision.ReconciledAdopted, provision.ReconciledAbsent, provision.ReconciledSeveral, provision.ReconciledUnknown,
	} {
		m.reconciliations.WithLabelValues(string(r))
	}
}

// Retried implements provision.Observer.
func (m *Metrics) Retried(target provision.Target, cause provision.Cause) {
	m.retries.WithLabelValues(string(target), string(cause)).Inc()
}

// Reconciled implements provision.Observer.
func (m *Metrics) Reconciled(how provision.Reconciliation) {
	m.reconciliations.WithLabelValues(string(how)).Inc()
}

// repaired counts a repair of the sweeper's.
func (m *Metrics) repaired(what string, err error) {
	result := repairDone
	if err != nil {
		result = repairFailed
	}
	m.repairs.WithLabelValues(what, result).Inc()
}

// queue shows how the queue stands.
func (m *Metrics) queue(info *jetstream.ConsumerInfo, oldest time.Duration) {
	m.pending.Set(float64(info.NumPending))
	m.ackPending.Set(float64(info.NumAckPending))
	m.redelivered.Set(float64(info.NumRedelivered))
	m.oldest.Set(oldest.Seconds())
	m.paused.Set(0)
	if info.Paused {
		m.paused.Set(1)
	}
}

// concluded counts a message whose result is published and which is acknowledged.
func (m *Metrics) concluded(d provision.Delivery, out provision.Outcome, took time.Duration) {
	outcome, trace := outcomeOf(out), exemplar(d.Request.Trace)
	count(m.requests.WithLabelValues(outcome), trace)
	if outcome == provision.OutcomeFailed && out.Result.Error != nil {
		count(m.failures.WithLabelValues(string(out.Result.Error.Reason)), trace)
	}
	observe(m.duration.WithLabelValues(outcome), max(took, 0), trace)
}

// exemplar returns what leads from a metric to the trace of a request; nil where it has none.
func exemplar(t provision.Trace) prometheus.Labels {
	if id := t.SampledID(); id != "" {
		return prometheus.Labels{"trace_id": id}
	}
	return nil
}

// count adds one to c, with an exemplar if there is one.
func count(c prometheus.Counter, trace prometheus.Labels) {
	if with, ok := c.(prometheus.ExemplarAdder); ok && trace != nil {
		with.AddWithExemplar(1, trace)
		return
	}
	c.Inc()
}

// observe adds d to o, likewise.
func observe(o prometheus.Observer, d time.Duration, trace prometheus.Labels) {
	if with, ok := o.(prometheus.ExemplarObserver); ok && trace != nil {
		with.ObserveWithExemplar(d.Seconds(), trace)
		return
	}
	o.Observe(d.Seconds())
}

// outcomeOf returns the message's value of the label "outcome". A result that is published again for the
// very message that asked for it is no duplicate: the acknowledgement failed the last time.
func outcomeOf(out provision.Outcome) string {
	switch r := out.Result; {
	case out.Repeat && !out.Resumed:
		return outcomeDuplicate
	case r.Outcome == provision.OutcomeCreated && r.Adopted:
		return outcomeAdopted
	default:
		return r.Outcome
	}
}
