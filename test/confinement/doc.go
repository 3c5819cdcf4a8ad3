// Package confinement tries to lead the worker out of its tenant's place: to another tenant, to a
// secret that the request may not name, to a host that the token is not for.
//
// Every attempt goes the whole way: a request's JSON through the decoder, the hub and Vault's own
// client to a server that keeps what it received on the wire, and, where a POST comes of it, through
// the Flow Service's client to the emulator. The judge looks at what was received, not at what the
// worker thought it sent. The same judge is behind the fuzz targets FuzzReference, FuzzMessage and
// FuzzResolve. Servers make their coverage flicker, so they are not to minimize what they find:
//
//	go test ./test/confinement -run '^$' -fuzz '^FuzzReference$' -fuzztime 2m -fuzzminimizetime 1x
package confinement
