// Package ops lets people and probes look at a running worker: liveness, readiness and metrics on one
// handler, and a read-only status page with its JSON on another, which only operators may reach.
//
// No endpoint changes anything, none shows a secret, and none but GET and HEAD is answered. The
// package holds no connection to anything: what it shows comes from functions that it is given.
package ops
