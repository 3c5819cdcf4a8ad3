// Package jsread reads streams message by message, each asked of the stream's leader, for those who may not
// make consumers: a consumer delivers wherever it says, without a look at permissions, and so also to what
// the workers' own consumer listens to.
//
// It asks for one right, to publish on $JS.API.STREAM.MSG.GET.<stream>, beside that of the stream's info.
// What it costs is a request for each message, so that 10,000 take about a second.
package jsread

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// askTimeout bounds one question.
const askTimeout = 10 * time.Second

// walkers is how many requests are under way at a time: they hide the way to the server and back.
const walkers = 16

// Open returns a stream whose messages are read from its leader, also where it allows direct reads, for these
// may be answered by a replica that is behind, and need a right of their own.
func Open(ctx context.Context, js jetstream.JetStream, name string) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	stream.CachedInfo().Config.AllowDirect = false // it is this that the client library goes by
	return stream, nil
}

// next returns the first message on a subject, which may have wildcards, at seq or later; nil where there is none.
func next(ctx context.Context, stream jetstream.Stream, subject string, seq uint64) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	msg, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	return msg, err
}

// Since returns the sequence of the first message on a subject that entered the stream at a time or later. The
// stream must come from Open.
func Since(ctx context.Context, stream jetstream.Stream, subject string, at time.Time) (uint64, error) {
	var failed error
	state := stream.CachedInfo().State
	after := sort.Search(int(state.LastSeq+1-state.FirstSeq), func(i int) bool { //nolint:gosec // sequences don't reach 2^63
		if failed != nil {
			return true
		}
		var msg *jetstream.RawStreamMsg
		msg, failed = next(ctx, stream, subject, state.FirstSeq+uint64(i)) //nolint:gosec // not negative
		return msg == nil || !msg.Time.Before(at)
	})
	return state.FirstSeq + uint64(after), failed //nolint:gosec // not negative
}

// Messages yields the messages on a subject, which may have wildcards, from a sequence on, in no order, up to the
// last one that there is when it gets there. Of a subject that keeps its last message only, and gets another one
// meanwhile, the old one is yielded, or the new one, or both in this order. After an error it ends. The stream must
// come from Open.
func Messages(ctx context.Context, stream jetstream.Stream, subject string, from uint64) iter.Seq2[*jetstream.RawStreamMsg, error] {
	return func(yield func(*jetstream.RawStreamMsg, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		last := stream.CachedInfo().State.LastSeq
		found := make(chan found)
		var all sync.WaitGroup
		for part := range slices.Values(split(max(from, stream.CachedInfo().State.FirstSeq, 1), last)) {
			all.Go(func() { walk(ctx, stream, subject, part, found) })
		}
		go func() {
			all.Wait()
			// What was written since may be what one of them was to find.
			walk(ctx, stream, subject, span{max(from, last+1), 0}, found)
			close(found)
		}()
		for f := range found {
			if !yield(f.msg, f.err) || f.err != nil {
				cancel()
				for range found { // let them end
				}
				return
			}
		}
		if ctx.Err() != nil {
			yield(nil, context.Cause(ctx))
		}
	}
}

type found struct {
	msg *jetstream.RawStreamMsg
	err error
}

// span is a range of sequences. A last of 0 means that it has no end.
type span struct{ first, last uint64 }

// split cuts a range into parts for walkers.
func split(first, last uint64) (parts []span) {
	if first > last {
		return nil
	}
	size := (last-first)/walkers + 1
	for ; first <= last; first += size {
		parts = append(parts, span{first, min(first+size-1, last)})
	}
	return parts
}

// walk sends what it finds in a range.
func walk(ctx context.Context, stream jetstream.Stream, subject string, in span, to chan<- found) {
	for seq := in.first; ctx.Err() == nil; {
		msg, err := next(ctx, stream, subject, seq)
		if err != nil {
			err = fmt.Errorf("message %d: %w", seq, err)
		} else if msg == nil || in.last > 0 && msg.Sequence > in.last {
			return
		}
		select {
		case to <- found{msg, err}:
		case <-ctx.Done():
		}
		if err != nil {
			return
		}
		seq = msg.Sequence + 1
	}
}
