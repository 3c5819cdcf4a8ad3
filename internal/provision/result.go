package provision

import "time"

// The outcomes of a request.
const (
	OutcomeCreated = "created"
	OutcomeFailed  = "failed"
)

// Result is the one final outcome of a request, complete: the ledger keeps it, and every time it is
// told it is told from there. Its JSON form is the data of the result event.
type Result struct {
	EventID string `json:"-"`
	Outcome string `json:"-"` // OutcomeCreated or OutcomeFailed
	Trace   Trace  `json:"-"`

	Request        RequestID       `json:"request"`
	Tenant         string          `json:"tenant"`
	Sandbox        string          `json:"sandbox,omitempty"`
	Name           string          `json:"name,omitempty"`
	ConnectionSpec *ConnectionSpec `json:"connectionSpec,omitempty"`
	Connection     *Connection     `json:"connection,omitempty"` // nil unless created
	Adopted        bool            `json:"adopted"`              // the concluding attempt found the connection, it did not make it
	Attempts       int             `json:"attempts"`             // POSTs tried in this retry
	RequestedAt    time.Time       `json:"requestedAt"`          // when the message entered the stream
	StartedAt      time.Time       `json:"startedAt"`            // when a worker first took it up
	CompletedAt    time.Time       `json:"completedAt"`
	Error          *Failure        `json:"error,omitempty"` // nil unless failed
}

// RequestID is how a requester names its request.
type RequestID struct {
	ID     string `json:"id"`
	Source string `json:"source"`
}

// Connection is a connection as the Flow Service names it.
type Connection struct {
	ID   string `json:"id"`
	Etag string `json:"etag,omitempty"` // with its inner quotes, as If-Match wants it
}
