package provision

import "time"

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
	// Delay is how long the message is to rest; it means nothing where Result is set.
	Delay time.Duration
	// Attempts is how many POSTs were begun in this retry, as far as the ledger was read.
	Attempts int
	// Why says in a few words why the message goes back, for the log.
	Why string
}
