package provision

import (
	"context"
	"time"
)

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

// Outcome is what one delivery of a message came to. The consumer alone acts on it.
type Outcome struct {
	// Result is to be published (after the dead letter, where it is a failure), and the message
	// acknowledged after that. Nil means that the message goes back to the stream for Delay.
	Result *Result
	// Repeat says that Result was concluded by an earlier delivery and is only told again.
	Repeat bool
	// Resumed says that it was a delivery of the very same message: the requester sent nothing twice.
	Resumed bool
	// Detached says that Result is of this message only, and the ledger was left alone.
	Detached bool
	// Silent says that there is nothing to publish: the outcome was told already, or, of a direct delivery,
	// the request is somebody else's or has ended. A message that was delivered is acknowledged.
	Silent bool
	// Published is to be called once Result is published. It records that, so that the delivery of the message that
	// is still to come says nothing again. Nil where none is to come.
	Published func(context.Context)
	// Delay is how long the message is to rest; it means nothing where Result is set.
	Delay time.Duration
	// Attempts is how many POSTs were begun in this retry, as far as the ledger was read.
	Attempts int
	// Why says in a few words why the message goes back, for the log.
	Why string
}
