package consumer

import "github.com/nats-io/nats.go"

// CheckServer returns nil if the server that nc speaks to is new enough for the worker.
func CheckServer(nc *nats.Conn) error { return checkServer(nc, floor, "the worker") }

// CheckPause returns nil if the server that nc speaks to can pause the intake.
func CheckPause(nc *nats.Conn) error { return checkServer(nc, pauseFloor, "pause") }
