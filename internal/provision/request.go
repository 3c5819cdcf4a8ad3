package provision

import "time"

// Request is a valid connection request.
type Request struct {
	Key         Key
	Data        Data
	Fingerprint string    // hex SHA-256 of the canonical data (RFC 8785), or of the raw bytes where it cannot be parsed
	Retry       int       // the Flow-Worker-Retry header; 0 means the first try
	Expiry      time.Time // the expirytime attribute; zero means none
	Trace       Trace

	Resolution *Resolution // the Flow-Worker-Resolve header; nil means none. A message with one never POSTs
}

// Data is the payload of a request: the body of the Flow Service's POST /connections, the sandbox,
// and a reference where the secret would be.
type Data struct {
	Sandbox        string         `json:"sandbox"`
	Name           string         `json:"name"`
	Description    string         `json:"description,omitempty"`
	Auth           Auth           `json:"auth"`
	ConnectionSpec ConnectionSpec `json:"connectionSpec"`
	IfExists       IfExists       `json:"ifExists,omitempty"`
}

// Auth is the auth part of a connection request.
type Auth struct {
	SpecName string `json:"specName"`
	Params   Params `json:"params"`
}

// Params are the Databricks parameters. AccessToken is a secret reference, never a secret.
type Params struct {
	Domain      string    `json:"domain"`
	ClusterID   string    `json:"clusterId"`
	AccessToken SecretRef `json:"-"`
	Database    string    `json:"database"`
	Catalog     string    `json:"catalog,omitempty"`
}

// ConnectionSpec names the connector.
type ConnectionSpec struct {
	ID      string `json:"id"`
	Version string `json:"version"`
}

// IfExists says what to do when the sandbox has a connection of the same name already. It is looked
// at only before the request's first POST.
type IfExists string

// The values of IfExists; the empty one means IfExistsCreate.
const (
	IfExistsCreate IfExists = "create"
	IfExistsAdopt  IfExists = "adopt"
	IfExistsReject IfExists = "reject"
)

// Delivery is one delivery of one message. Request.Key and Request.Fingerprint are always set; the
// rest of Request means nothing where Invalid is set.
type Delivery struct {
	Request Request
	Invalid *Failure // what is wrong with the message; nil for a valid one

	// Detached says that Invalid speaks of this message only, not of the request it names (such as a
	// malformed retry header): the ledger is left alone. EventSalt then tells this message's result
	// from the request's own.
	Detached  bool
	EventSalt string

	Seq       uint64    // the message's sequence in its stream
	Delivered uint64    // how often the broker says it delivered it, from 1; 0 for a direct one
	EnteredAt time.Time // when it entered the stream

	// Direct says that the message was read from the stream ahead of its delivery, which is still to come: it
	// can't be acknowledged, and whoever gets the delivery may work on it at the same time. The ledger is what
	// keeps them apart.
	Direct bool

	// Work is where in the request's trace the work on this delivery is: what its calls and its result
	// say. Empty means Request.Trace.
	Work Trace
}
