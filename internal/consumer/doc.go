// Package consumer is JetStream in and out: it takes requests from their stream, hands them to the
// hub, and alone decides what becomes of each message from the hub's Outcome.
//
// The hub never sees an acknowledgement and the broker never decides that a request has failed: the
// consumer's MaxDeliver and MaxAckPending are unlimited. A message is pulled only when there is a
// slot for it, is kept ours by heartbeats from the moment it arrives until it is settled, and is
// acknowledged only after its dead letter and its result are confirmed as stored. Acknowledgements do
// not fence: a message can come again at any time, and telling its outcome again must be harmless.
package consumer
