package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

// What somebody set at streams and consumer is reported where it can stop or slow the work.
func TestLimitsOfExistingObjects(t *testing.T) {
	t.Parallel()
	stream := func(cfg jetstream.StreamConfig, bytes uint64) []Finding {
		if cfg.Name == "" {
			cfg.Name = consumer.StreamRequests
		}
		return streamLimits(&jetstream.StreamInfo{Config: cfg, State: jetstream.StreamState{Bytes: bytes, Msgs: 10}})
	}
	workers := func(cfg jetstream.ConsumerConfig, waiting int) []Finding {
		return consumerLimits(&jetstream.ConsumerInfo{Name: consumer.ConsumerName, Config: cfg, NumWaiting: waiting})
	}
	for name, tc := range map[string]struct {
		got    []Finding
		status Status // of the finding that says text; empty for no finding at all
		text   string
	}{
		"no limits":          {stream(jetstream.StreamConfig{MaxBytes: -1, MaxMsgs: -1, MaxMsgSize: -1}, 1e9), "", ""},
		"room":               {stream(jetstream.StreamConfig{MaxBytes: 1000, Discard: jetstream.DiscardNew}, 100), OK, "is 10 % full (max_bytes 1000); when it is full, further requests are refused"},
		"full":               {stream(jetstream.StreamConfig{MaxBytes: 1000, Discard: jetstream.DiscardNew}, 800), Warn, "80 % full"},
		"full ledger":        {stream(jetstream.StreamConfig{Name: "KV_connection-ledger", MaxBytes: 1000, Discard: jetstream.DiscardNew}, 900), Warn, "no record can be written"},
		"forgets requests":   {stream(jetstream.StreamConfig{MaxBytes: 1000, Retention: jetstream.WorkQueuePolicy}, 1), Warn, "the oldest requests beyond it are lost"},
		"forgets by number":  {stream(jetstream.StreamConfig{MaxMsgs: 5, Retention: jetstream.WorkQueuePolicy}, 1), Warn, "max_msgs 5"},
		"forgets results":    {stream(jetstream.StreamConfig{Name: consumer.StreamResults, MaxBytes: 1000}, 1), OK, "before they are 30 days old"},
		"small messages":     {stream(jetstream.StreamConfig{MaxMsgSize: 1000}, 1), Warn, "no message of more than 1000 bytes"},
		"transform":          {stream(jetstream.StreamConfig{SubjectTransform: &jetstream.SubjectTransformConfig{Source: "a", Destination: "b"}}, 1), Fail, "changes subjects"},
		"default consumer":   {workers(jetstream.ConsumerConfig{MaxWaiting: 512}, 3), OK, "room for 512 workers (max_waiting), 3 pull requests wait"},
		"few may wait":       {workers(jetstream.ConsumerConfig{MaxWaiting: 4}, 4), Warn, "holds 4 of at most 4 pull requests (max_waiting)"},
		"replays as it came": {workers(jetstream.ConsumerConfig{MaxWaiting: 512, ReplayPolicy: jetstream.ReplayOriginalPolicy}, 0), Fail, "replay policy original"},
		"small pulls":        {workers(jetstream.ConsumerConfig{MaxWaiting: 512, MaxRequestBatch: 2}, 0), Warn, "no more than 2 requests in one pull (max_batch)"},
		"wide pulls":         {workers(jetstream.ConsumerConfig{MaxWaiting: 512, MaxRequestBatch: 256, MaxRequestExpires: time.Minute}, 0), OK, "512 workers"},
		"short pulls":        {workers(jetstream.ConsumerConfig{MaxWaiting: 512, MaxRequestExpires: 100 * time.Millisecond}, 0), Warn, "ends a pull after 100ms (max_expires)"},
		"light pulls":        {workers(jetstream.ConsumerConfig{MaxWaiting: 512, MaxRequestMaxBytes: 100}, 0), OK, "max_bytes 100"},
		"some tenants":       {workers(jetstream.ConsumerConfig{MaxWaiting: 512, FilterSubjects: []string{"connections.requests.acme"}}, 0), Fail, "only requests on connections.requests.acme (filter)"},
		"one tenant":         {workers(jetstream.ConsumerConfig{MaxWaiting: 512, FilterSubject: "connections.requests.acme"}, 0), Fail, "other tenants are never served"},
		"new ones":           {workers(jetstream.ConsumerConfig{MaxWaiting: 512, DeliverPolicy: jetstream.DeliverNewPolicy}, 0), Fail, "deliver policy new"},
		"max deliver":        {workers(jetstream.ConsumerConfig{MaxWaiting: 512, MaxDeliver: 5}, 0), Fail, "after 5 deliveries"},
		"ack pending":        {workers(jetstream.ConsumerConfig{MaxWaiting: 512, MaxAckPending: 10}, 0), Warn, "while 10 are in work or rest"},
		"backoff":            {workers(jetstream.ConsumerConfig{MaxWaiting: 512, BackOff: []time.Duration{time.Second}}, 0), Warn, "backoff [1s]"},
		"inactive":           {workers(jetstream.ConsumerConfig{MaxWaiting: 512, InactiveThreshold: time.Hour}, 0), Warn, "no worker has asked for 1h0m0s"},
		"kept in memory":     {workers(jetstream.ConsumerConfig{MaxWaiting: 512, MemoryStorage: true}, 0), Warn, "kept in memory"},
	} {
		if tc.status == "" && len(tc.got) == 0 {
			continue
		}
		if !has(tc.got, "nats limits", tc.status, tc.text) {
			t.Errorf("%s: %+v, want %s with %q", name, tc.got, tc.status, tc.text)
		}
		for _, f := range tc.got {
			if (f.Remedy == "") != (f.Status == OK) {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
}

// Of a consumer that falls short, the doctor says what that means before anybody mends it.
func TestLimitsOfAConsumerThatFallsShort(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL())
	ctx, s := testContext(t), load(t)
	if _, err := app.EnsureObjects(ctx, js, s); err != nil {
		t.Fatal(err)
	}
	if _, err := js.UpdateConsumer(ctx, consumer.StreamRequests, jetstream.ConsumerConfig{
		Durable: consumer.ConsumerName, AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute, MaxDeliver: -1, MaxAckPending: -1, FilterSubject: "connections.requests.acme",
	}); err != nil {
		t.Fatal(err)
	}
	got := found(func(x *examination) { x.Settings = s; x.objects(ctx, js) })
	if !has(got, "nats objects", Fail, `filter [connections.requests.acme] → none`) || !has(got, "nats limits", Fail, "other tenants are never served") {
		t.Errorf("%+v", got)
	}
}

// A server may take smaller messages than the worker sends.
func TestSmallServer(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Run(t, natstest.Options{MaxPayload: 100_000}).ClientURL())
	if _, err := app.EnsureObjects(testContext(t), js, load(t)); err != nil {
		t.Fatal(err)
	}
	if got := found(func(x *examination) { x.limits(testContext(t), js, true) }); !has(got, "nats limits", Warn, "at most 100000 bytes (max_payload)") {
		t.Errorf("%+v", got)
	}
}

// The doctor says in which account and domain it is, as far as the user may ask.
func TestWhere(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "server.conf")
	if err := os.WriteFile(file, []byte(`
		jetstream { domain: hub }
		accounts {
			FLOW { jetstream: enabled, users: [ { user: all, password: p }, { user: poor, password: p, permissions { publish: ["$JS.API.STREAM.INFO.*"] } } ] }
			SYS { users: [ { user: sys, password: p } ] }
		}
		system_account: SYS`), 0o600); err != nil {
		t.Fatal(err)
	}
	url := natstest.Run(t, natstest.Options{ConfigFile: file}).ClientURL()
	all := natstest.Connect(t, url, natstest.As("all", "p"))
	where := func(js jetstream.JetStream) string {
		t.Helper()
		got := found(func(x *examination) { x.where(testContext(t), js) })
		if len(got) != 1 || got[0].Status != OK || got[0].Check != "jetstream" {
			t.Fatalf("%+v", got)
		}
		return got[0].What
	}
	if got := where(all); got != `account "FLOW", domain "hub"` {
		t.Errorf("before there are objects: %s", got)
	}
	poor := natstest.Connect(t, url, natstest.As("poor", "p"))
	if got := where(poor); !strings.Contains(got, "may not ask about, the domain is not known yet") {
		t.Errorf("without rights and objects: %s", got)
	}
	if _, err := app.EnsureObjects(testContext(t), all, load(t)); err != nil {
		t.Fatal(err)
	}
	if got := where(poor); !strings.Contains(got, `domain "hub"`) {
		t.Errorf("without rights: %s", got)
	}
}
