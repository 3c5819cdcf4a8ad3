package consumer_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func (r *rig) streamConfig(name string) jetstream.StreamConfig {
	r.t.Helper()
	s, err := r.js.Stream(r.ctx, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.CachedInfo().Config
}

// TestObjectsAsPromised holds the objects against the contract.
func TestObjectsAsPromised(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	report := r.ensure(consumer.ObjectsConfig{})
	var names []string
	for _, c := range report {
		if !c.Created || c.Changed != nil || c.Kept != nil {
			t.Errorf("a new object: %+v", c)
		}
		names = append(names, c.Name)
	}
	if diff := cmp.Diff([]string{"CONNECTION_RESULTS", "CONNECTION_DEADLETTERS", "CONNECTION_REQUESTS", "flow-worker"}, names); diff != "" {
		t.Error(diff)
	}
	type promise struct {
		Subjects  []string
		Retention jetstream.RetentionPolicy
		Storage   jetstream.StorageType
		MaxAge    time.Duration
		Window    time.Duration
		Replicas  int
	}
	const month = 30 * 24 * time.Hour
	for name, want := range map[string]promise{
		"CONNECTION_REQUESTS":    {[]string{"connections.requests.*"}, jetstream.WorkQueuePolicy, jetstream.FileStorage, 0, 100 * time.Millisecond, 1},
		"CONNECTION_RESULTS":     {[]string{"connections.results.*.*"}, jetstream.LimitsPolicy, jetstream.FileStorage, month, 10 * time.Minute, 1},
		"CONNECTION_DEADLETTERS": {[]string{"connections.deadletters.*"}, jetstream.LimitsPolicy, jetstream.FileStorage, month, 10 * time.Minute, 1},
	} {
		c := r.streamConfig(name)
		got := promise{c.Subjects, c.Retention, c.Storage, c.MaxAge, c.Duplicates, c.Replicas}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	c := r.consumerInfo().Config
	if c.Durable != "flow-worker" || c.AckPolicy != jetstream.AckExplicitPolicy || c.MaxDeliver != -1 ||
		c.MaxAckPending != -1 || c.AckWait != 30*time.Second || c.DeliverSubject != "" || c.InactiveThreshold != 0 {
		t.Errorf("consumer %+v", c)
	}
}

func TestEnsureTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	for _, manage := range []bool{true, false} {
		report, err := consumer.EnsureObjects(r.ctx, r.js, consumer.ObjectsConfig{Manage: manage})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range report {
			if c.Created || c.Changed != nil || c.Kept != nil {
				t.Errorf("with manage %v: %+v", manage, c)
			}
		}
	}
}

func TestEnsureRaises(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	for _, s := range []jetstream.StreamConfig{
		{Name: consumer.StreamResults, Subjects: []string{"connections.results.acme.*"}, MaxAge: time.Hour, Duplicates: time.Minute},
		{Name: consumer.StreamDeadLetters, Subjects: []string{"connections.deadletters.*"}, NoAck: true},
		{Name: consumer.StreamRequests, Subjects: []string{"connections.requests.*"}, Retention: jetstream.WorkQueuePolicy, Duplicates: 100 * time.Millisecond},
	} {
		if _, err := r.js.CreateStream(r.ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.js.CreateConsumer(r.ctx, consumer.StreamRequests, jetstream.ConsumerConfig{
		Durable: consumer.ConsumerName, AckPolicy: jetstream.AckExplicitPolicy, AckWait: 3 * time.Second, MaxDeliver: 5,
		MaxAckPending: 10, FilterSubject: "connections.requests.acme", InactiveThreshold: time.Hour,
		BackOff: []time.Duration{3 * time.Second, time.Minute},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := consumer.EnsureObjects(r.ctx, r.js, consumer.ObjectsConfig{}); err == nil || !strings.Contains(err.Error(), "worker init") {
		t.Errorf("objects that fall short were accepted: %v", err)
	}
	want := consumer.Report{
		{Name: consumer.StreamResults, Changed: []string{
			"subjects [connections.results.acme.*] → [connections.results.*.*]", "max age 1h0m0s → 720h0m0s", "dedupe window 1m0s → 10m0s"}},
		{Name: consumer.StreamDeadLetters, Changed: []string{"dedupe window 2m0s → 10m0s", "no_ack true → false"},
			Kept: []string{"max age (0 means for ever) 0s"}},
		{Name: consumer.StreamRequests},
		{Name: consumer.ConsumerName, Changed: []string{"ack wait 3s → 30s", "max deliver 5 → -1", "max ack pending 10 → -1",
			"backoff [3s 1m0s] → none", "filter [connections.requests.acme] → none", "inactive threshold 1h0m0s → none"}},
	}
	if diff := cmp.Diff(want, r.ensure(consumer.ObjectsConfig{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, c := range r.ensure(consumer.ObjectsConfig{}) {
		if c.Changed != nil {
			t.Errorf("a second upgrade changed %+v", c)
		}
	}
}

func TestEnsureNeverShrinks(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	for _, s := range []jetstream.StreamConfig{
		{Name: consumer.StreamResults, Subjects: []string{"connections.results.>"}, MaxAge: 90 * 24 * time.Hour, Duplicates: time.Hour, MaxBytes: 1 << 30},
		{Name: consumer.StreamDeadLetters, Subjects: []string{"connections.deadletters.*"}, MaxMsgs: 1e6, MaxMsgSize: 1 << 20, DenyDelete: true},
		{Name: consumer.StreamRequests, Subjects: []string{"connections.requests.*"}, Retention: jetstream.WorkQueuePolicy,
			Duplicates: time.Minute, MaxAge: 7 * 24 * time.Hour, MaxMsgsPerSubject: 1000},
	} {
		if _, err := r.js.CreateStream(r.ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	r.ensure(consumer.ObjectsConfig{AckWait: 10 * time.Minute})
	names := []string{consumer.StreamResults, consumer.StreamDeadLetters, consumer.StreamRequests}
	var before, after []jetstream.StreamConfig
	for _, n := range names {
		before = append(before, r.streamConfig(n))
	}
	report := r.ensure(consumer.ObjectsConfig{})
	for _, n := range names {
		after = append(after, r.streamConfig(n))
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	if got := r.consumerInfo().Config.AckWait; got != 10*time.Minute {
		t.Errorf("the ack wait became %v", got)
	}
	kept := []int{3, 3, 3, 1}
	for i, c := range report {
		if c.Changed != nil || len(c.Kept) != kept[i] {
			t.Errorf("%+v, want %d kept", c, kept[i])
		}
	}
	if !strings.Contains(strings.Join(report[2].Kept, " "), "swallow") {
		t.Errorf("nothing says that the window is dangerous: %q", report[2].Kept)
	}
}

func TestEnsureRefusesWhatItCantMend(t *testing.T) {
	t.Parallel()
	sound := jetstream.StreamConfig{Name: consumer.StreamRequests, Subjects: []string{"connections.requests.*"}, Retention: jetstream.WorkQueuePolicy}
	limits, memory := sound, sound
	limits.Retention = jetstream.LimitsPolicy
	memory.Storage = jetstream.MemoryStorage
	durable := jetstream.ConsumerConfig{Durable: consumer.ConsumerName, AckPolicy: jetstream.AckExplicitPolicy}
	headers, push, group := durable, durable, durable
	headers.HeadersOnly = true
	push.DeliverSubject = "somewhere"
	group.PriorityPolicy, group.PriorityGroups = jetstream.PriorityPolicyOverflow, []string{"g"}
	for name, c := range map[string]struct {
		stream   jetstream.StreamConfig
		consumer jetstream.ConsumerConfig
		want     string
	}{
		"retention":    {limits, durable, "retention"},
		"memory":       {memory, durable, "memory"},
		"headers only": {sound, headers, "headers only"},
		"push":         {sound, push, "push consumer"},
		"priority":     {sound, group, "priority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, natstest.Options{})
			if _, err := r.js.CreateStream(r.ctx, c.stream); err != nil {
				t.Fatal(err)
			}
			create := r.js.CreateConsumer
			if c.consumer.DeliverSubject != "" {
				create = func(ctx context.Context, s string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
					_, err := r.js.CreatePushConsumer(ctx, s, cfg)
					return nil, err
				}
			}
			if _, err := create(r.ctx, consumer.StreamRequests, c.consumer); err != nil {
				t.Fatal(err)
			}
			_, err := consumer.EnsureObjects(r.ctx, r.js, consumer.ObjectsConfig{Manage: true})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "worker init") {
				t.Errorf("error %v, want one that names %q and the remedy", err, c.want)
			}
		})
	}
}

func TestVerifyNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	_, err := consumer.EnsureObjects(r.ctx, r.js, consumer.ObjectsConfig{})
	if !errors.Is(err, jetstream.ErrStreamNotFound) || !strings.Contains(err.Error(), "worker init") {
		t.Errorf("without streams: %v", err)
	}
	r.ensure(consumer.ObjectsConfig{})
	if err := r.js.DeleteConsumer(r.ctx, consumer.StreamRequests, consumer.ConsumerName); err != nil {
		t.Fatal(err)
	}
	_, err = consumer.EnsureObjects(r.ctx, r.js, consumer.ObjectsConfig{})
	if !errors.Is(err, jetstream.ErrConsumerNotFound) || !strings.Contains(err.Error(), consumer.ConsumerName) {
		t.Errorf("without the consumer: %v", err)
	}
}

func TestEnsureAtTheSameTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := consumer.EnsureObjects(r.ctx, r.js, consumer.ObjectsConfig{Manage: true}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestLedgerComesFirst checks the order, and that nothing is made without the ledger.
func TestLedgerComesFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	broken := errors.New("no ledger")
	_, err := consumer.EnsureObjects(r.ctx, r.js, consumer.ObjectsConfig{Manage: true, Ledger: func(ctx context.Context) error {
		if _, err := r.js.Stream(ctx, consumer.StreamRequests); !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("the requests stream is there before the ledger: %v", err)
		}
		return broken
	}})
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
	if _, err := r.js.Stream(r.ctx, consumer.StreamRequests); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the requests stream was made without a ledger: %v", err)
	}
}

func TestReplicasAreRaised(t *testing.T) {
	t.Parallel()
	cluster := natstest.RunCluster(t, 3, natstest.Options{})
	r := &rig{t: t, ctx: testContext(t), js: connect(t, cluster[0].ClientURL())}
	r.ensure(consumer.ObjectsConfig{})
	report := r.ensure(consumer.ObjectsConfig{Replicas: 3})
	for _, c := range report[:3] {
		if !slices.Equal(c.Changed, []string{"replicas 1 → 3"}) {
			t.Errorf("%+v", c)
		}
	}
	for _, c := range r.ensure(consumer.ObjectsConfig{})[:3] {
		if c.Changed != nil || !slices.Contains(c.Kept, "replicas 3") {
			t.Errorf("%+v", c)
		}
	}
	if got := r.streamConfig(consumer.StreamRequests).Replicas; got != 3 {
		t.Errorf("%d replicas, want 3", got)
	}
}

func TestReplicasOfASingleServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	_, err := consumer.EnsureObjects(r.ctx, r.js, consumer.ObjectsConfig{Manage: true, Replicas: 3})
	if err == nil || !strings.Contains(err.Error(), "replicas") {
		t.Errorf("three replicas on one server: %v", err)
	}
}

// deleting is a JetStream that is in the middle of deleting what it is asked for, for so many looks: it says
// that there is none.
type deleting struct {
	jetstream.JetStream
	streams, consumers atomic.Int64 // looks that find nothing, from now on
	made               atomic.Int64 // creations
}

func (d *deleting) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	if d.streams.Add(-1) >= 0 {
		return nil, jetstream.ErrStreamNotFound
	}
	return d.JetStream.Stream(ctx, name)
}

func (d *deleting) Consumer(ctx context.Context, stream, name string) (jetstream.Consumer, error) {
	if d.consumers.Add(-1) >= 0 {
		return nil, jetstream.ErrConsumerNotFound
	}
	return d.JetStream.Consumer(ctx, stream, name)
}

func (d *deleting) CreateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	d.made.Add(1)
	return d.JetStream.CreateStream(ctx, cfg)
}

func (d *deleting) CreateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	d.made.Add(1)
	return d.JetStream.CreateConsumer(ctx, stream, cfg)
}

// A stream or a consumer that is made anew amid its deletion would be broken for good, so it is looked for
// once more before.
func TestNothingIsMadeAmidItsDeletion(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	for name, c := range map[string]struct {
		streams, consumers int64
		after              time.Duration
		made               int64
	}{
		"a stream":                      {streams: 1, after: time.Millisecond},
		"a consumer":                    {consumers: 1, after: time.Millisecond},
		"a stream that stays away":      {streams: 2, after: time.Millisecond, made: 1},
		"a consumer that stays away":    {consumers: 2, after: time.Millisecond, made: 1},
		"a stream that never was there": {streams: 1, made: 1},
	} {
		t.Run(name, func(t *testing.T) { // in turn, for the rig's deadline goes on while they wait for a processor
			js := &deleting{JetStream: r.js}
			js.streams.Store(c.streams)
			js.consumers.Store(c.consumers)
			if _, err := consumer.EnsureObjects(r.ctx, js, consumer.ObjectsConfig{Manage: true, RecreateAfter: c.after}); err != nil {
				t.Fatal(err)
			}
			if got := js.made.Load(); got != c.made {
				t.Errorf("%d were made, want %d", got, c.made)
			}
		})
	}
}

// A worker that had the objects before makes none at the first look that misses one.
func TestRunningWorkerLooksTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{})
	js := &deleting{JetStream: r.js}
	cfg := r.config(func(_ context.Context, d provision.Delivery) provision.Outcome { return created(d) })
	cfg.JS, cfg.Sweep.Interval, cfg.PollInterval = js, -1, time.Hour
	w := r.runReady(cfg)
	js.streams.Store(1)
	w.Recheck(jetstream.ErrStreamNotFound)
	r.eventually("not ready", func() bool { return w.Ready() != nil })
	r.eventually("ready again", func() bool { return w.Ready() == nil })
	if js.streams.Load() >= 0 || js.made.Load() != 0 {
		t.Errorf("%d looks to come, %d made, want neither", js.streams.Load(), js.made.Load())
	}
	r.end(w)
}
