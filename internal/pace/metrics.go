package pace

import "github.com/prometheus/client_golang/prometheus"

func newCircuitGauge(r prometheus.Registerer) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "flow_worker_circuit_open",
		Help: "1 while the worker stops its intake because the target fails, else 0.",
	}, []string{"target"})
	if r != nil {
		r.MustRegister(g)
	}
	return g
}
