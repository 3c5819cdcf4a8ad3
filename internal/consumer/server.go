package consumer

import "github.com/nats-io/nats.go"

// CheckServer returns nil if the server that nc speaks to is new enough for the worker.
func CheckServer(nc *nats.Conn) error { return checkServer(nc, floor, "the worker") }

// CheckPause returns nil if the server that nc speaks to can pause the intake.
func CheckPause(nc *nats.Conn) error { return checkServer(nc, pauseFloor, "pause") }

// CheckReset returns nil if the server that nc speaks to can have a consumer begin anew, which brings back
// messages that it lost sight of.
func CheckReset(nc *nats.Conn) error { return checkServer(nc, resetFloor, "to reset a consumer") }
