// Package soak proves the promise on whole processes: real workers, a real NATS server, both killed,
// frozen and restarted, beside a Vault that is sealed and a Flow Service that misbehaves.
//
// Its tests take minutes, so they are behind the build tag soak:
//
//	go test -tags soak ./test/soak -v
//	go test -tags soak ./test/soak -v -timeout 30m -args -soak.requests 2000 -soak.duration 60s -soak.outage 60s
//
// The first form is bounded for CI, the second is the full size. Every test prints its seed, which
// -soak.seed repeats: it fixes the requests, the faults' dice and the order of disturbances, but
// not how processes interleave. Everything listens on loopback addresses only.
package soak
