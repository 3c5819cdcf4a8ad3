package ledger_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

func bucketConfig(t *testing.T, js jetstream.JetStream) jetstream.StreamConfig {
	t.Helper()
	stream, err := js.Stream(t.Context(), "KV_"+ledger.DefaultBucket)
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().Config
}

func TestOpenCreates(t *testing.T) {
	t.Parallel()
	l, js := newLedger(t)
	if !l.Setup().Created || len(l.Setup().Changed)+len(l.Setup().Kept) != 0 {
		t.Errorf("Setup of a new bucket: %+v", l.Setup())
	}
	got := bucketConfig(t, js)
	if got.MaxAge != 30*24*time.Hour || got.Replicas != 1 || got.MaxMsgsPerSubject != 1 ||
		got.Storage != jetstream.FileStorage || got.AllowDirect || got.AllowRollup || got.Discard != jetstream.DiscardNew {
		t.Errorf("new bucket: %+v", got)
	}
	if l.Created().IsZero() {
		t.Error("Created is not set")
	}
	again := open(t, js, ledger.Config{Manage: true})
	if !cmp.Equal(again.Setup(), ledger.Setup{}) {
		t.Errorf("Setup of a bucket that is right: %+v", again.Setup())
	}
	if !again.Created().Equal(l.Created()) {
		t.Errorf("Created is %v, was %v", again.Created(), l.Created())
	}
}

func TestOpenUpgrades(t *testing.T) {
	t.Parallel()
	js := newServer(t)
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: ledger.DefaultBucket, TTL: time.Hour, History: 5})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Open(t.Context(), js, ledger.Config{}); err == nil || !strings.Contains(err.Error(), "worker init") {
		t.Errorf("a short-lived bucket was opened without leave to manage it: %v", err)
	}
	want := ledger.Setup{
		Changed: []string{"ttl 1h0m0s → 720h0m0s", "direct reads true → false", "roll-ups (all records can be lost to one message) true → false"},
		Kept:    []string{"history 5"},
	}
	if diff := cmp.Diff(want, open(t, js, ledger.Config{Manage: true}).Setup()); diff != "" {
		t.Error(diff)
	}
	if got := bucketConfig(t, js); got.MaxAge != 30*24*time.Hour || got.MaxMsgsPerSubject != 5 || got.AllowDirect || got.AllowRollup {
		t.Errorf("upgraded bucket: %+v", got)
	}
}

// allowRollUps makes the bucket what it was when older versions made it, in which keys can be purged.
func allowRollUps(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	loose := bucketConfig(t, js)
	loose.AllowRollup = true
	if _, err := js.UpdateStream(t.Context(), loose); err != nil {
		t.Fatal(err)
	}
}

// Without leave to manage a bucket, what only endangers it is no reason not to use it.
func TestOpenUsesABucketWithRollUps(t *testing.T) {
	t.Parallel()
	js := newServer(t)
	open(t, js, ledger.Config{Manage: true})
	allowRollUps(t, js)
	want := ledger.Setup{Kept: []string{"roll-ups (all records can be lost to one message) true"}}
	if diff := cmp.Diff(want, open(t, js, ledger.Config{}).Setup()); diff != "" || !bucketConfig(t, js).AllowRollup {
		t.Error(diff)
	}
}

// A user who may make a bucket need not be one who may change it: what is not needed is left alone, and
// what is needed is an error that says what to do.
func TestOpenAsAUserWhoMayNotUpdate(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "server.conf")
	users := `authorization { users: [ { user: all, password: p }
		{ user: few, password: p, permissions { publish: { deny: "$JS.API.STREAM.UPDATE.>" } } } ] }`
	if err := os.WriteFile(file, []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	url := natstest.Run(t, natstest.Options{ConfigFile: file}).ClientURL()
	few, all := natstest.Connect(t, url, natstest.As("few", "p")), natstest.Connect(t, url, natstest.As("all", "p"))
	if made := open(t, few, ledger.Config{Manage: true}).Setup(); !made.Created {
		t.Errorf("Setup of a new bucket: %+v", made)
	}
	allowRollUps(t, all)
	want := ledger.Setup{Kept: []string{`roll-ups (all records can be lost to one message) true; "worker init" may change it`}}
	if diff := cmp.Diff(want, open(t, few, ledger.Config{Manage: true}).Setup()); diff != "" {
		t.Error(diff)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // the refused question has no answer
	defer cancel()
	_, err := ledger.Open(ctx, few, ledger.Config{Manage: true, TTL: 90 * 24 * time.Hour})
	if err == nil || !strings.Contains(err.Error(), `run "worker init" as one who may`) {
		t.Errorf("a bucket that falls short: %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := ledger.Open(ended, few, ledger.Config{Manage: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

// A server switches roll-ups on by itself where deletions leave markers, so there is no use in asking.
func TestOpenKeepsRollUpsThatMarkersNeed(t *testing.T) {
	t.Parallel()
	js := newServer(t)
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: ledger.DefaultBucket, LimitMarkerTTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	open(t, js, ledger.Config{Manage: true})
	want := ledger.Setup{Kept: []string{"ttl (0 means forever) 0s", "roll-ups (all records can be lost to one message) true"}}
	if diff := cmp.Diff(want, open(t, js, ledger.Config{Manage: true}).Setup()); diff != "" {
		t.Error(diff)
	}
}

// One message must not empty the ledger, whoever may write a record.
func TestOneRecordDoesNotReplaceTheOthers(t *testing.T) {
	t.Parallel()
	l, js := newLedger(t)
	for _, id := range []string{"a", "b"} {
		store(t, l, record(id, "1"), 0)
	}
	for _, what := range []string{"all", "sub"} {
		msg := nats.NewMsg("$KV." + ledger.DefaultBucket + ".acme.x.y")
		msg.Header.Set("Nats-Rollup", what)
		var api *jetstream.APIError
		if _, err := js.PublishMsg(t.Context(), msg); !errors.As(err, &api) {
			t.Errorf("a roll-up of %s: %v, want it refused", what, err)
		}
	}
	for _, id := range []string{"a", "b"} {
		if _, _, err := l.Load(t.Context(), record(id, "1").Key); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestOpenNeverShrinks(t *testing.T) {
	t.Parallel()
	js := newServer(t)
	open(t, js, ledger.Config{Manage: true, TTL: 90 * 24 * time.Hour})
	before := bucketConfig(t, js)
	for _, manage := range []bool{true, false} {
		l := open(t, js, ledger.Config{Manage: manage})
		if !slices.Equal(l.Setup().Kept, []string{"ttl (0 means forever) 2160h0m0s"}) || l.Setup().Changed != nil {
			t.Errorf("Setup with Manage %v: %+v", manage, l.Setup())
		}
	}
	if diff := cmp.Diff(before, bucketConfig(t, js)); diff != "" {
		t.Error(diff)
	}
}

// A size is what a bucket is made with; of one that has a size it is the least.
func TestOpenWithASize(t *testing.T) {
	t.Parallel()
	js := newServer(t)
	for _, step := range []struct {
		ask, want     int64
		changed, kept []string
	}{
		{1 << 20, 1 << 20, nil, nil}, {2 << 20, 2 << 20, []string{"max bytes 1048576 → 2097152"}, nil},
		{1 << 20, 2 << 20, nil, []string{"max bytes 2097152"}}, {0, 2 << 20, nil, []string{"max bytes 2097152"}},
	} {
		setup := open(t, js, ledger.Config{Manage: true, MaxBytes: step.ask}).Setup()
		if got := bucketConfig(t, js).MaxBytes; got != step.want || !slices.Equal(setup.Changed, step.changed) || !slices.Equal(setup.Kept, step.kept) {
			t.Errorf("asked for %d: %d, %+v", step.ask, got, setup)
		}
	}
}

func TestOpenRefusesMemory(t *testing.T) {
	t.Parallel()
	js := newServer(t)
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: ledger.DefaultBucket, Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Open(t.Context(), js, ledger.Config{Manage: true}); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("a bucket in memory was opened: %v", err)
	}
}

func TestOpenWithoutBucket(t *testing.T) {
	t.Parallel()
	js := newServer(t)
	_, err := ledger.Open(t.Context(), js, ledger.Config{})
	if !errors.Is(err, jetstream.ErrStreamNotFound) || !strings.Contains(err.Error(), "worker init") {
		t.Errorf("Open without a bucket: %v", err)
	}
}

func TestOpenAtTheSameTime(t *testing.T) {
	t.Parallel()
	js := newServer(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := ledger.Open(t.Context(), js, ledger.Config{Manage: true}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// failing is a JetStream that can't make the next streams.
type failing struct {
	jetstream.JetStream
	err   error
	times int // how often, from now on
	calls int
}

func (f *failing) CreateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	if f.calls++; f.calls <= f.times {
		return nil, f.err
	}
	return f.JetStream.CreateStream(ctx, cfg)
}

// A server that has just deleted an account's last stream fails to make the next one for a moment.
func TestOpenTriesAgainWhereTheServerCouldNot(t *testing.T) {
	t.Parallel()
	busy := &jetstream.APIError{Code: 500, ErrorCode: 10049, Description: "error creating store for stream"}
	full := &jetstream.APIError{Code: 500, ErrorCode: 10047, Description: "insufficient storage resources available"}
	for name, c := range map[string]struct {
		js    failing
		calls int // 0: more than one
		want  error
	}{
		"twice":            {failing{err: busy, times: 2}, 3, nil},
		"always":           {failing{err: busy, times: 1000}, 0, busy},
		"for a good cause": {failing{err: full, times: 1000}, 1, full},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := &c.js
			js.JetStream = newServer(t)
			_, err := ledger.Open(testContext(t), js, ledger.Config{Manage: true})
			if !errors.Is(err, c.want) {
				t.Errorf("Open: %v, want %v", err, c.want)
			}
			if js.calls != c.calls && c.calls > 0 || js.calls < 2 && c.calls == 0 {
				t.Errorf("%d calls, want %d (0 means several)", js.calls, c.calls)
			}
		})
	}
}

// deleting is a JetStream that is in the middle of deleting the bucket, for so many looks: it says that there
// is none.
type deleting struct {
	jetstream.JetStream
	looks, made int
}

func (d *deleting) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	if d.looks--; d.looks >= 0 {
		return nil, jetstream.ErrStreamNotFound
	}
	return d.JetStream.Stream(ctx, name)
}

func (d *deleting) CreateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	d.made++
	return d.JetStream.CreateStream(ctx, cfg)
}

// A bucket that is made anew amid its deletion would never confirm a write, so who knows it looks for it once
// more before.
func TestNoBucketIsMadeAmidItsDeletion(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newServer(t))
	p.written("x")
	for name, c := range map[string]struct {
		guard *ledger.Guard
		looks int
		made  int
	}{
		"who knows the bucket":           {p.guard, 1, 0},
		"who knows one that stays away":  {p.guard, 2, 1},
		"who has seen no bucket before":  {&ledger.Guard{}, 1, 1},
		"who only opens it for a moment": {nil, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := &deleting{JetStream: p.js, looks: c.looks}
			if _, err := ledger.Open(testContext(t), js, ledger.Config{Manage: true, Guard: c.guard}); err != nil {
				t.Fatal(err)
			}
			if js.made != c.made {
				t.Errorf("%d were made, want %d", js.made, c.made)
			}
		})
	}
}
