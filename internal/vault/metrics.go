package vault

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// operation is a label value: what a request was for.
type operation string

const (
	opLogin operation = "login" // with AuthToken: looking the token up
	opRenew operation = "renew"
	opRead  operation = "read" // of a secret, or of the mount's KV version
)

const resultOK = "ok" // the other results are provision's SecretProblems

type metrics struct{ requests *prometheus.CounterVec }

// newMetrics registers the metrics; ttl tells the seconds that the token has left.
func newMetrics(reg prometheus.Registerer, ttl func() float64) (metrics, error) {
	m := metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "flow_worker_vault_requests_total",
		Help: "HTTP requests to Vault, each try counted, by what for and how they ended (denied: Vault denies the worker).",
	}, []string{"operation", "result"})}
	for _, op := range []operation{opLogin, opRenew, opRead} {
		m.requests.WithLabelValues(string(op), resultOK)
		for _, p := range []provision.SecretProblem{provision.SecretMissing, provision.SecretDenied, provision.SecretUnavailable} {
			m.requests.WithLabelValues(string(op), string(p))
		}
	}
	if reg == nil {
		return m, nil
	}
	gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "flow_worker_vault_token_ttl_seconds",
		Help: "Seconds until the worker's Vault token ends; 0 without a token, +Inf for one that never ends, NaN where nobody says.",
	}, ttl)
	return m, errors.Join(reg.Register(m.requests), reg.Register(gauge))
}

func (m metrics) count(op operation, err *failure) {
	result := resultOK
	if err != nil {
		result = string(err.Problem)
	}
	m.requests.WithLabelValues(string(op), result).Inc()
}
