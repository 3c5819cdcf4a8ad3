// Package requester is the requester's side of the worker: it makes requests of what people write,
// publishes them, waits for their results, and looks into the ledger.
//
// It only reads the ledger and never touches the worker's consumer, so it needs no more NATS
// permissions than to publish for its tenant and to read results and ledger.
package requester
