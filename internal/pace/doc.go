// Package pace decides how fast the worker goes: a breaker per target stops the intake while the
// target fails (Breakers), and a share per tenant follows what the Flow Service bears for that
// tenant (Turns). Both only slow the worker down; neither decides a request's outcome.
package pace
