package limit

import "github.com/prometheus/client_golang/prometheus"

func newCircuitGauge(r prometheus.Registerer) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "flow_worker_circuit_open",
		Help: "1 while the target is taken for down: calls to it are held back, and for flow and vault the intake is stopped, too. Not while it fails for some tenants and serves others.",
	}, []string{"target"})
	if r != nil {
		r.MustRegister(g)
	}
	return g
}

func newWritesGauge(r prometheus.Registerer) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "flow_worker_writes_failing",
		Help: "1 while the object takes no writes: the ledger, the stream of results or of dead letters, or the consumer (acks). The intake is stopped then.",
	}, []string{"object"})
	if r != nil {
		r.MustRegister(g)
	}
	return g
}
