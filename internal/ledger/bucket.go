package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

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
	stream, err := js.Stream(ctx, streamPrefix+cfg.Bucket)
	switch {
	case err == nil:
		return upgrade(ctx, js, stream.CachedInfo().Config, cfg)
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return Setup{}, err
	case !cfg.Manage:
		return Setup{}, fmt.Errorf("it does not exist; create it with \"worker init\": %w", err)
	}
	err = createStream(ctx, js, newBucket(cfg))
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another worker was quicker
		return prepareExisting(ctx, js, cfg)
	}
	return Setup{Created: err == nil}, err
}

func prepareExisting(ctx context.Context, js jetstream.JetStream, cfg Config) (Setup, error) {
	stream, err := js.Stream(ctx, streamPrefix+cfg.Bucket)
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
	return jetstream.StreamConfig{
		Name:              streamPrefix + cfg.Bucket,
		Description:       "flow-worker: what is known of every request",
		Subjects:          []string{subjectPrefix + cfg.Bucket + ".>"},
		MaxMsgsPerSubject: 1,
		MaxBytes:          -1,
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
	if len(setup.Changed) == 0 {
		return setup, nil
	}
	if !cfg.Manage {
		return Setup{}, fmt.Errorf("it falls short of what is needed (%q); run \"worker init\"", setup.Changed)
	}
	if _, err := js.UpdateStream(ctx, want); err != nil {
		return Setup{}, fmt.Errorf("upgrade %q: %w", setup.Changed, err)
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
	if have.MaxMsgsPerSubject > 1 {
		s.kept("history", have.MaxMsgsPerSubject)
	}
	if have.Discard != jetstream.DiscardNew { // else a full bucket forgets its oldest records
		want.Discard = jetstream.DiscardNew
		s.changed("discard", have.Discard, want.Discard)
	}
	if cfg.Manage {
		tighten(have, &want, &s)
	}
	return want, s
}

// tighten takes away what a worker that may not manage the bucket can work with all the same.
func tighten(have jetstream.StreamConfig, want *jetstream.StreamConfig, s *Setup) {
	if have.AllowDirect { // a stale read costs a lost race, no more
		want.AllowDirect = false
		s.changed("direct reads", true, false)
	}
	if !have.AllowRollup {
		return
	}
	if have.SubjectDeleteMarkerTTL > 0 || have.AllowMsgSchedules { // then the server itself switches them on again
		s.kept("roll-ups (who may write a record can empty it)", true)
		return
	}
	want.AllowRollup = false
	s.changed("roll-ups", true, false)
}

func (s *Setup) changed(what string, from, to any) {
	s.Changed = append(s.Changed, fmt.Sprintf("%s %v → %v", what, from, to))
}

func (s *Setup) kept(what string, value any) {
	s.Kept = append(s.Kept, fmt.Sprintf("%s %v", what, value))
}
