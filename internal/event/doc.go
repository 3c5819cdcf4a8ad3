// Package event is the wire: it reads connection requests, writes result events and dead letters,
// and holds the JSON Schemas that are published for all of them.
//
// A request comes in one of three forms of CloudEvents 1.0 over NATS: structured (the whole event is
// one JSON body), binary (attributes in ce-* headers, the body is the data) or bare (a JSON body
// without attributes is the data). All are read by one strict reader, because two readers that
// disagree about a message could make two different requests of it: duplicate keys, lone surrogates,
// invalid UTF-8 and text after the JSON value are refused. The CloudEvents SDK is not used to read:
// it trims blanks off ids, so that two identities could become one, and it reports one fault at a time.
//
// Headers are map[string][]string and their names are compared without case. Nothing here keeps
// state; all functions are safe for concurrent use and none of them panics on any input.
package event
