// Package tracing exports what the worker does as OpenTelemetry spans, by OTLP over HTTP.
//
// The work on one delivery is one span, a part of the trace that its message came with. Below it are the
// calls to the ledger, to Vault, to IMS and to the Flow Service, and the messages that are published. A
// message without a trace context begins a trace whose id depends on the request alone: all deliveries of
// it, by whatever worker, are found in one trace.
//
// No span ever holds a body, a header, a query or an error's text: of what went wrong it has a word from a
// closed set.
package tracing
