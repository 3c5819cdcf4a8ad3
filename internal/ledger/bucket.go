package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go/jetstream"
)

// streamPrefix begins the name of every bucket's stream, subjectPrefix the subjects in it.
const (
	streamPrefix  = "KV_"
	subjectPrefix = "$KV."
)

// Setup says what Open did to the bucket.
type Setup struct {
	Created bool     // it was not there before
	Changed []string // settings that were raised, as "replicas 1 → 3"
	Kept    []string // settings that go beyond what was asked for, and were left alone
}

// prepare makes the bucket what cfg asks for, or checks that it is.
func prepare(ctx context.Context, js jetstream.JetStream, cfg Config) (Setup, error) {
	stream, err := find(ctx, js, cfg)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if !cfg.Manage {
			return Setup{}, fmt.Errorf("it does not exist; create it with \"worker init\": %w", err)
		}
		err = createStream(ctx, js, newBucket(cfg))
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return Setup{Created: err == nil}, err
		}
		stream, err = js.Stream(ctx, streamPrefix+cfg.Bucket) // another worker was quicker
	}
	if err != nil {
		return Setup{}, err
	}
	return upgrade(ctx, js, stream.CachedInfo().Config, cfg)
}

// newBucket returns the stream of a bucket as every KV client makes it, but for direct reads, which may
// be answered by a replica that is behind, and for roll-ups: whoever may write one key could empty the
// bucket with a message that says "Nats-Rollup: all". What doesn't work without them is to purge a key,
// which nothing here does; to delete one does.
func newBucket(cfg Config) jetstream.StreamConfig {
	size := cfg.MaxBytes
	if size <= 0 {
		size = -1
	}
	return jetstream.StreamConfig{
		Name:              streamPrefix + cfg.Bucket,
		Description:       "flow-worker: what is known of every request",
		Subjects:          []string{subjectPrefix + cfg.Bucket + ".>"},
		MaxMsgsPerSubject: 1,
		MaxBytes:          size,
		MaxMsgs:           -1,
		MaxMsgSize:        -1,
		MaxConsumers:      -1,
		MaxAge:            cfg.TTL,
		Storage:           jetstream.FileStorage,
		Replicas:          cfg.Replicas,
		Discard:           jetstream.DiscardNew,
		Duplicates:        min(2*time.Minute, cfg.TTL),
		DenyDelete:        true,
	}
}

// upgrade raises what have lacks, where cfg allows to, and fails on what can't be raised.
func upgrade(ctx context.Context, js jetstream.JetStream, have jetstream.StreamConfig, cfg Config) (Setup, error) {
	want, setup := raise(have, cfg)
	if have.Storage != jetstream.FileStorage {
		return Setup{}, errors.New("it is kept in memory and would be lost with its server; delete it and run \"worker init\"")
	}
	needed := slices.Clone(setup.Changed)
	tighten(&want, &setup)
	switch {
	case len(needed) > 0 && !cfg.Manage:
		return Setup{}, fmt.Errorf("it falls short of what is needed (%q); run \"worker init\"", needed)
	case len(setup.Changed) == 0:
		return setup, nil
	case !cfg.Manage:
		return setup.unchanged(""), nil
	case len(needed) == 0:
		return attempt(ctx, js, want, setup)
	}
	if _, err := js.UpdateStream(ctx, want); err != nil {
		return Setup{}, fmt.Errorf("upgrade %q: %w; if this user may not change it, run \"worker init\" as one who may", setup.Changed, err)
	}
	return setup, nil
}

// attemptTimeout bounds the wait for an answer that a user who may not ask never gets.
const attemptTimeout = 2 * time.Second

// attempt changes what the bucket can be used without. That it can't be changed is no error.
func attempt(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, setup Setup) (Setup, error) {
	within, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	_, err := js.UpdateStream(within, want)
	switch {
	case ctx.Err() != nil:
		return Setup{}, ctx.Err()
	case err != nil:
		return setup.unchanged(`; "worker init" may change it`), nil
	}
	return setup, nil
}

func raise(have jetstream.StreamConfig, cfg Config) (jetstream.StreamConfig, Setup) {
	var s Setup
	want := have
	switch {
	case have.Replicas < cfg.Replicas:
		want.Replicas = cfg.Replicas
		s.changed("replicas", have.Replicas, cfg.Replicas)
	case have.Replicas > cfg.Replicas:
		s.kept("replicas", have.Replicas)
	}
	switch {
	case have.MaxAge > 0 && have.MaxAge < cfg.TTL:
		want.MaxAge = cfg.TTL
		s.changed("ttl", have.MaxAge, cfg.TTL)
	case have.MaxAge != cfg.TTL:
		s.kept("ttl (0 means forever)", have.MaxAge)
	}
	switch {
	case have.MaxBytes > 0 && have.MaxBytes < cfg.MaxBytes:
		want.MaxBytes = cfg.MaxBytes
		s.changed("max bytes", have.MaxBytes, cfg.MaxBytes)
	case have.MaxBytes > 0 && have.MaxBytes != cfg.MaxBytes:
		s.kept("max bytes", have.MaxBytes)
	}
	if have.MaxMsgsPerSubject > 1 {
		s.kept("history", have.MaxMsgsPerSubject)
	}
	if have.Discard != jetstream.DiscardNew { // else a full bucket forgets its oldest records
		want.Discard = jetstream.DiscardNew
		s.changed("discard", have.Discard, want.Discard)
	}
	return want, s
}

// tighten takes away what a worker can do without.
func tighten(want *jetstream.StreamConfig, s *Setup) {
	if want.AllowDirect { // a stale read costs a lost race, no more
		want.AllowDirect = false
		s.changed("direct reads", true, false)
	}
	switch {
	case !want.AllowRollup:
	case want.SubjectDeleteMarkerTTL > 0 || want.AllowMsgSchedules: // the server would switch them on again
		s.kept(rollUps, true)
	default:
		want.AllowRollup = false
		s.changed(rollUps, true, false)
	}
}

const rollUps = "roll-ups (all records can be lost to one message)"

// unchanged returns s where nothing was changed after all, and perhaps why.
func (s Setup) unchanged(why string) Setup {
	for _, what := range s.Changed {
		what, _, _ = strings.Cut(what, " → ")
		s.Kept = append(s.Kept, what+why)
	}
	s.Changed = nil
	return s
}

func (s *Setup) changed(what string, from, to any) {
	s.Changed = append(s.Changed, fmt.Sprintf("%s %v → %v", what, from, to))
}

func (s *Setup) kept(what string, value any) {
	s.Kept = append(s.Kept, fmt.Sprintf("%s %v", what, value))
}

// streamCreateFailed is JetStream's error code (JSStreamCreateErrF, with status 500) for a stream that
// the server could not make, whatever the cause.
const streamCreateFailed jetstream.ErrorCode = 10049

// recreateAfter is how long a bucket that was there has to be missed before it is created again. While a server
// (2.15.2) is still deleting a stream it already says that there is none, and makes another one from the
// files of the first: that has the old state, its files are then deleted below it, and it never
// confirms a message.
const recreateAfter = time.Second

// find looks for the bucket's stream, once more after recreateAfter if it was there before and may be created again.
func find(ctx context.Context, js jetstream.JetStream, cfg Config) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, streamPrefix+cfg.Bucket)
	if !errors.Is(err, jetstream.ErrStreamNotFound) || !cfg.Manage || cfg.Guard == nil || cfg.Guard.reached(0) == 0 {
		return stream, err
	}
	select {
	case <-time.After(recreateAfter):
		return js.Stream(ctx, streamPrefix+cfg.Bucket)
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", err, ctx.Err())
	}
}

// createStream makes a stream, and tries again for a second or so where the server could not: one that
// has just deleted an account's last stream is still removing that account's folder from below the new one
// ("could not create storage directory" in the log of nats-server 2.15.2).
func createStream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig) error {
	pauses := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(20*time.Millisecond), backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(time.Second))
	return backoff.Retry(func() error {
		_, err := js.CreateStream(ctx, cfg)
		var api *jetstream.APIError
		if err != nil && !(errors.As(err, &api) && api.ErrorCode == streamCreateFailed) {
			return backoff.Permanent(err)
		}
		return err
	}, backoff.WithContext(pauses, ctx))
}
