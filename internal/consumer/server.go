package consumer

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// version is that of a NATS server; a pre-release counts as its release.
type version [3]int

var (
	// minServer is the first server that ends a message for TermWithReason; older ones ignore it.
	minServer = version{2, 10, 4}
	// minPause is the first server that can pause a consumer.
	minPause = version{2, 11, 0}
)

var versionPattern = regexp.MustCompile(`^v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?:[-+].*)?$`)

func parseVersion(s string) (version, error) {
	m := versionPattern.FindStringSubmatch(s)
	if m == nil {
		return version{}, fmt.Errorf("%q is no server version", s)
	}
	var v version
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+1])
	}
	return v, nil
}

// String returns the version as servers write it, such as "2.10.4".
func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) less(w version) bool {
	for i := range v {
		if v[i] != w[i] {
			return v[i] < w[i]
		}
	}
	return false
}

// checkServer fails if the server that nc speaks to is older than least.
func checkServer(nc *nats.Conn, least version, what string) error {
	text := nc.ConnectedServerVersion()
	if text == "" {
		return fmt.Errorf("consumer: %w", nats.ErrDisconnected)
	}
	have, err := parseVersion(text)
	if err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	if have.less(least) {
		return fmt.Errorf("consumer: the NATS server is %s; %s needs %s or newer: upgrade nats-server", have, what, least)
	}
	return nil
}

// CheckServer returns nil if the server that nc speaks to is new enough for the worker.
func CheckServer(nc *nats.Conn) error { return checkServer(nc, minServer, "the worker") }

// CheckPause returns nil if the server that nc speaks to can pause the intake.
func CheckPause(nc *nats.Conn) error { return checkServer(nc, minPause, "pause") }

// CheckReset returns nil if the server that nc speaks to can have a consumer begin again, which brings back
// messages that it lost sight of.
func CheckReset(nc *nats.Conn) error { return checkServer(nc, minReset, "to reset a consumer") }

// Pauses is how the intake of all workers stands.
type Pauses struct {
	Paused    bool
	Remaining time.Duration // until it resumes by itself; 0 if not paused
}

// untilResumed is how long a pause without an end lasts: the broker wants a time.
const untilResumed = 100 * 365 * 24 * time.Hour

// Pause stops the intake of all workers until the given time; the zero time means until Resume. What
// is in flight is worked on. It fails on servers before 2.11, which can't.
func Pause(ctx context.Context, js jetstream.JetStream, until time.Time) (Pauses, error) {
	if err := checkServer(js.Conn(), minPause, "pause"); err != nil {
		return Pauses{}, err
	}
	if until.IsZero() {
		until = time.Now().Add(untilResumed)
	}
	answer, err := js.PauseConsumer(ctx, StreamRequests, ConsumerName, until)
	return pausesOf(answer, err, "pause")
}

// Resume lets all workers take requests again. It does nothing where there is no pause.
func Resume(ctx context.Context, js jetstream.JetStream) (Pauses, error) {
	if err := checkServer(js.Conn(), minPause, "resume"); err != nil {
		return Pauses{}, err
	}
	answer, err := js.ResumeConsumer(ctx, StreamRequests, ConsumerName)
	return pausesOf(answer, err, "resume")
}

// Paused returns how the intake stands. A server that can't pause is never paused.
func Paused(ctx context.Context, js jetstream.JetStream) (Pauses, error) {
	c, err := js.Consumer(ctx, StreamRequests, ConsumerName)
	if err != nil {
		return Pauses{}, fmt.Errorf("consumer: consumer %s on %s: %w", ConsumerName, StreamRequests, err)
	}
	info := c.CachedInfo()
	return Pauses{Paused: info.Paused, Remaining: info.PauseRemaining}, nil
}

func pausesOf(answer *jetstream.ConsumerPauseResponse, err error, what string) (Pauses, error) {
	if err != nil {
		return Pauses{}, fmt.Errorf("consumer: %s consumer %s on %s: %w", what, ConsumerName, StreamRequests, err)
	}
	return Pauses{Paused: answer.Paused, Remaining: answer.PauseRemaining}, nil
}
