// Package pace decides how fast the worker goes: a breaker per target stops the intake while the
// target fails (Breakers), a broker that takes no writes stops it, too (Writes), and a limit per tenant
// follows what the Flow Service bears for that tenant (Slots). They only slow the worker down; none
// decides a request's outcome.
package limit
