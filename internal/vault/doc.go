// Package vault implements provision.Secrets on HashiCorp Vault's KV engine.
//
// A tenant's secrets live at <kv mount>/<tenant prefix>/<tenant>/; the tenant comes from the caller,
// the rest of the path from the request, and no request can leave its tenant's place (path.go). The
// token is got and kept alive by Client.Run (session.go), with whatever login is configured
// (login.go). Reads are retried a few times within seconds (request.go) and cached for a short while
// (cache.go); waiting longer than that is the hub's business.
//
// No error and no log line of this package holds a secret: messages are made from paths, field names,
// types and Vault's own decoded messages, with the token and login credentials struck out; the body
// of an answer that is not Vault's is never quoted.
package vault
