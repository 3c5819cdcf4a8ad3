// Package vaulttest is a Vault server in one process: the part of Vault's HTTP API that the worker
// and its demo need, with Vault's own status codes and bodies, and with faults to switch on.
//
// It speaks the KV engine, versions 1 and 2, the token endpoints lookup-self, renew-self, revoke and
// revoke-self, the logins of approle (with the lockout after five wrong secret ids), kubernetes and jwt,
// sys/health, sys/seal-status, sys/seal, sys/unseal and sys/internal/ui/mounts. It keeps everything in
// memory, knows no namespaces and no policies beyond a role's list of allowed paths, and protects
// nothing: it is for tests and demos only. The conformance suite of package vault runs on it and on the real Vault.
package vaulttest
