// Package observability asks a real Prometheus every query of the dashboard and of the rules, while it
// scrapes real workers under a mixed load, and wants an answer to each.
//
// That needs Prometheus' program, so these tests are behind the build tag prometheus; .ci/run gets it out
// of Debian's package. By hand:
//
//	go test -tags prometheus ./test/observability -v
//
// FLOW_WORKER_PROMETHEUS names the program if it is not on the PATH, FLOW_WORKER_BINARY a worker that was
// built already. Everything listens on loopback addresses only.
package observability
