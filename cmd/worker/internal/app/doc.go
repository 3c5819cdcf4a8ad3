// Package app wires the worker: it is the one place where the hub meets NATS, Vault and the Flow
// Service. The run command, the demo and tests all go through Run.
//
// It knows no signals, no environment and no exit codes.
package app
