package jsread_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/flow-worker/flow-worker/internal/jsread"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newStream(ctx context.Context, tb natstest.TB, cfg jetstream.StreamConfig) jetstream.JetStream {
	server := natstest.Run(tb, natstest.Options{})
	js := natstest.Connect(tb, server.ClientURL())
	cfg.Name, cfg.Subjects = "S", []string{"s.>"}
	if _, err := js.CreateStream(ctx, cfg); err != nil {
		tb.Fatal(err)
	}
	return js
}

func publish(ctx context.Context, tb natstest.TB, js jetstream.JetStream, subject, data string) {
	if _, err := js.Publish(ctx, subject, []byte(data)); err != nil {
		tb.Fatal(err)
	}
}

// read returns what Messages yields, by subject and data, sorted.
func read(ctx context.Context, t *testing.T, js jetstream.JetStream, subject string, from uint64) (got []string) {
	t.Helper()
	stream, err := jsread.Open(ctx, js, "S")
	if err != nil {
		t.Fatal(err)
	}
	for msg, err := range jsread.Messages(ctx, stream, subject, from) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, msg.Subject+" "+string(msg.Data))
	}
	slices.Sort(got)
	return got
}

// All that there is is found, however many and however sparse, once each; also where direct reads are allowed.
func TestMessages(t *testing.T) {
	t.Parallel()
	for _, direct := range []bool{false, true} {
		ctx := t.Context()
		js := newStream(ctx, t, jetstream.StreamConfig{MaxMsgsPerSubject: 1, AllowDirect: direct})
		if got := read(ctx, t, js, "s.>", 0); len(got) > 0 {
			t.Errorf("an empty stream has %q", got)
		}
		for n := range 3 {
			for i := range 20 {
				publish(ctx, t, js, fmt.Sprintf("s.%d.x", i%(20>>n)), strconv.Itoa(n)) // leaves gaps
			}
		}
		for _, c := range []struct {
			subject string
			from    uint64
			want    int
		}{{"s.>", 0, 20}, {"s.*.x", 0, 20}, {"s.1.x", 0, 1}, {"s.none", 0, 0}, {"s.>", 21, 10}, {"s.>", 60, 1}, {"s.>", 61, 0}, {"s.>", 1000, 0}} {
			got := read(ctx, t, js, c.subject, c.from)
			if len(slices.Compact(slices.Clone(got))) != c.want || len(got) != c.want {
				t.Errorf("%s from %d: %q, want %d", c.subject, c.from, got, c.want)
			}
		}
	}
}

// What is replaced while it is read is found: as it was, or as it is, or both.
func TestMessagesThatMove(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	js := newStream(ctx, t, jetstream.StreamConfig{MaxMsgsPerSubject: 1})
	const n = 200
	for i := range n {
		publish(ctx, t, js, fmt.Sprintf("s.%d", i), "old")
	}
	stream, err := jsread.Open(ctx, js, "S")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	i := 0
	for msg, err := range jsread.Messages(ctx, stream, "s.>", 0) {
		if err != nil {
			t.Fatal(err)
		}
		if i < n {
			publish(ctx, t, js, fmt.Sprintf("s.%d", n-1-i), "new")
			i++
		}
		found[msg.Subject] = true
	}
	if len(found) != n {
		t.Errorf("%d of %d were found", len(found), n)
	}
}

func TestSince(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	js := newStream(ctx, t, jetstream.StreamConfig{})
	var times []time.Time
	for i := range 20 {
		publish(ctx, t, js, fmt.Sprintf("s.%d", i%3), "")
		times = append(times, at(ctx, t, js, uint64(i+1)))
	}
	stream, err := jsread.Open(ctx, js, "S")
	if err != nil {
		t.Fatal(err)
	}
	for i, when := range times {
		seq, err := jsread.Since(ctx, stream, "s.>", when)
		if err != nil || !at(ctx, t, js, seq).Equal(when) || seq > uint64(i+1) {
			t.Errorf("since message %d: from %d on, %v", i+1, seq, err)
		}
	}
	if seq, err := jsread.Since(ctx, stream, "s.>", times[19].Add(time.Second)); err != nil || seq <= 20 {
		t.Errorf("since later: from %d on, %v", seq, err)
	}
	if seq, err := jsread.Since(ctx, stream, "s.none", times[0]); err != nil || seq != 1 {
		t.Errorf("of a subject without messages: from %d on, %v", seq, err)
	}
}

func at(ctx context.Context, t *testing.T, js jetstream.JetStream, seq uint64) time.Time {
	t.Helper()
	stream, err := js.Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(ctx, seq)
	if err != nil {
		t.Fatal(err)
	}
	return msg.Time
}

// The end of the context is the list's, and is told.
func TestMessagesEnd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	js := newStream(ctx, t, jetstream.StreamConfig{})
	for i := range 100 {
		publish(ctx, t, js, fmt.Sprintf("s.%d", i), "")
	}
	stream, err := jsread.Open(ctx, js, "S")
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range jsread.Messages(ctx, stream, "s.>", 0) {
		last = err
		cancel()
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("it ended with %v", last)
	}
}

func BenchmarkMessages(b *testing.B) {
	ctx := b.Context()
	js := newStream(ctx, b, jetstream.StreamConfig{MaxMsgsPerSubject: 1})
	value := make([]byte, 2000)
	for i := range 30000 {
		if _, err := js.PublishAsync(fmt.Sprintf("s.t%d.x.%d", i%10, i%10000), value); err != nil {
			b.Fatal(err)
		}
		if i%1000 == 0 {
			<-js.PublishAsyncComplete()
		}
	}
	<-js.PublishAsyncComplete()
	for b.Loop() {
		stream, err := jsread.Open(ctx, js, "S")
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		began := time.Now()
		for _, err := range jsread.Messages(ctx, stream, "s.>", 0) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		b.ReportMetric(float64(n), "messages")
		b.ReportMetric(time.Since(began).Seconds(), "s")
		began = time.Now()
		for _, err := range jsread.Messages(ctx, stream, "s.*.*.77", 0) {
			if err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(time.Since(began).Seconds(), "s-one")
	}
}
