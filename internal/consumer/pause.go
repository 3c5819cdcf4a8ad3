package consumer

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Pauses is how the intake of all workers stands.
type Pauses struct {
	Paused    bool
	Remaining time.Duration // until it resumes by itself; 0 if not paused
}

// untilResumed is how long a pause without an end lasts: the broker wants a time.
const untilResumed = 100 * 365 * 24 * time.Hour

// Pause stops the intake of all workers until the given time; the zero time means until Resume. What
// is in hand is worked on. It fails on servers before 2.11, which can't.
func Pause(ctx context.Context, js jetstream.JetStream, until time.Time) (Pauses, error) {
	if err := checkServer(js.Conn(), pauseFloor, "pause"); err != nil {
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
	if err := checkServer(js.Conn(), pauseFloor, "resume"); err != nil {
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
