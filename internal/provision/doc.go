// Package provision is the hub of flow-worker: it turns one connection request into at most one
// connection at the Flow Service and exactly one final outcome, whatever crashes, hangs or is
// delivered twice.
//
// It knows no technology. It sees the world through three small interfaces (Ledger, Secrets and
// Connections) and a Clock; NATS, Vault and HTTP live in the packages that implement them. The life
// of a request is the table in decide.go; everything that must survive a crash is a field
// of Record.
//
// The rule that the rest follows from: the intent to POST is confirmed in the ledger before the POST
// is sent, and a POST whose outcome is not known is looked up by the request's Mark, never repeated
// blindly.
package provision
