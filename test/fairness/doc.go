// Package fairness measures how long one tenant's request waits behind another tenant's backlog, also where that
// tenant is throttled, hangs or fails, and what a fleet gets out of a Flow Service that limits a tenant.
// docs/fairness.md tells what came of it.
//
// A real NATS server runs as a process of its own, so that its memory and processor time can be read;
// the worker's own consumer, hub, ledger and slots run in the test, where reading ahead can be
// switched off; the Flow Service is the emulator. Secrets come from a map, not from Vault.
//
// The measurements take their time, so they are behind the build tag soak, and read /proc:
//
//	go test -tags soak ./test/fairness -parallel 4
//	go test -tags soak ./test/fairness -v -parallel 1 -timeout 60m -args -fairness.queued 50000 -fairness.watch 20s
//
// The first form is bounded for CI and its figures say little, for tests run side by side. The second
// printed the figures in docs/fairness.md.
package fairness
