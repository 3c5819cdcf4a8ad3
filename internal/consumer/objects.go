package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The names of the NATS objects, as the contract has them.
const (
	StreamRequests    = "CONNECTION_REQUESTS"
	StreamResults     = "CONNECTION_RESULTS"
	StreamDeadLetters = "CONNECTION_DEADLETTERS"
	ConsumerName      = "flow-worker"
)

const (
	subjectRequests    = "connections.requests."
	patternRequests    = subjectRequests + "*"
	patternResults     = "connections.results.*.*"
	patternDeadLetters = "connections.deadletters.*"

	requestWindow = 100 * time.Millisecond // the least a server takes: a window is shared by all tenants
	resultWindow  = 10 * time.Minute
	resultAge     = 30 * 24 * time.Hour
)

// DefaultAckWait is how long the broker waits for a sign of life where ObjectsConfig has no AckWait.
const DefaultAckWait = 30 * time.Second

// ObjectsConfig says what the streams and the consumer have to be like. The zero value only verifies.
type ObjectsConfig struct {
	Manage   bool          // create and upgrade; otherwise they must be there and be good enough
	Replicas int           // at least that many; 0 means 1
	AckWait  time.Duration // at least that long; 0 means DefaultAckWait
	MaxBytes int64         // of each stream that is made, and the least of those that have a limit; 0 means none

	// RecreateAfter is how long an object has to be missed before it is made; 0 makes it at once, which is right
	// only where it was not there before: while a server (2.15.2) is still deleting a stream it already says
	// that there is none, and makes another one from the files of the first. That has the old state, its files
	// are then deleted below it, and it never confirms a message.
	RecreateAfter time.Duration

	// Ledger makes or checks the ledger. It is called before the requests stream may be made, so
	// that no request can be older than its ledger, and at every look at the queue, perhaps at the
	// same time. Nil means that the caller has seen to it.
	Ledger func(context.Context) error
}

func (c ObjectsConfig) withDefaults() ObjectsConfig {
	c.Replicas = max(c.Replicas, 1)
	if c.AckWait == 0 {
		c.AckWait = DefaultAckWait
	}
	return c
}

// Change says what EnsureObjects did to one object.
type Change struct {
	Name    string
	Created bool     // it was not there before
	Changed []string // settings that were raised, as "replicas 1 → 3"
	Kept    []string // settings that go beyond what was asked for, and were left alone
}

// Report says what EnsureObjects did, in the order in which it did it.
type Report []Change

// EnsureObjects creates or upgrades the streams and the consumer, or only verifies them, as cfg says.
// What an existing object has beyond cfg is kept, never shrunk. It fails on a server that is too old,
// and on settings that can't be changed without losing messages, naming the remedy. Several processes
// may call it at the same time.
func EnsureObjects(ctx context.Context, js jetstream.JetStream, cfg ObjectsConfig) (Report, error) {
	report, err := ensureObjects(ctx, js, cfg.withDefaults())
	return report, explained(ctx, js, err)
}

func ensureObjects(ctx context.Context, js jetstream.JetStream, cfg ObjectsConfig) (Report, error) {
	if err := checkServer(js.Conn(), minServer, "the worker"); err != nil {
		return nil, err
	}
	if cfg.Ledger != nil {
		if err := cfg.Ledger(ctx); err != nil {
			return nil, err
		}
	}
	var report Report
	for _, want := range streams(cfg.Replicas, cfg.MaxBytes) {
		change, err := ensureStream(ctx, js, want, cfg)
		if err != nil {
			return report, fmt.Errorf("consumer: stream %s: %w", want.Name, err)
		}
		report = append(report, change)
	}
	change, err := ensureConsumer(ctx, js, durable(cfg.AckWait), cfg)
	if err != nil {
		return report, fmt.Errorf("consumer: consumer %s on %s: %w", ConsumerName, StreamRequests, err)
	}
	return append(report, change), nil
}

// streams returns what is wanted. The requests come last, so that where they can be published the
// places for their outcomes are there.
func streams(replicas int, maxBytes int64) []jetstream.StreamConfig {
	all := []jetstream.StreamConfig{
		{
			Name: StreamResults, Subjects: []string{patternResults}, Replicas: replicas,
			Description: "flow-worker: the outcomes of requests",
			Retention:   jetstream.LimitsPolicy, MaxAge: resultAge, Duplicates: resultWindow,
		}, {
			Name: StreamDeadLetters, Subjects: []string{patternDeadLetters}, Replicas: replicas,
			Description: "flow-worker: requests that failed, as they came",
			Retention:   jetstream.LimitsPolicy, MaxAge: resultAge, Duplicates: resultWindow,
		}, {
			Name: StreamRequests, Subjects: []string{patternRequests}, Replicas: replicas,
			Description: "flow-worker: requests that wait for their outcome",
			Retention:   jetstream.WorkQueuePolicy, Duplicates: requestWindow,
			Discard: jetstream.DiscardNew, // a full queue refuses requests, it does not forget any
		},
	}
	for i := range all {
		if all[i].MaxBytes = -1; maxBytes > 0 {
			all[i].MaxBytes = maxBytes
		}
	}
	return all
}

func durable(ackWait time.Duration) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Name: ConsumerName, Durable: ConsumerName,
		Description:   "flow-worker: all workers share it",
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    -1, // the worker decides when a request has failed
		MaxAckPending: -1, // a message that rests holds up nobody
	}
}

const (
	notThere    = "it does not exist; create it with \"worker init\": %w"
	notUpgraded = "upgrade %q: %w; if this user may not change it, run \"worker init\" as one who may"
)

// find calls look, once more after RecreateAfter where what it looks for is gone.
func find[T any](ctx context.Context, cfg ObjectsConfig, gone error, look func() (T, error)) (T, error) {
	found, err := look()
	if !errors.Is(err, gone) || !cfg.Manage || cfg.RecreateAfter <= 0 {
		return found, err
	}
	if sleep(ctx, cfg.RecreateAfter); ctx.Err() != nil {
		return found, fmt.Errorf("%w: %w", err, ctx.Err())
	}
	return look()
}

func ensureStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, cfg ObjectsConfig) (Change, error) {
	have, err := find(ctx, cfg, jetstream.ErrStreamNotFound, func() (jetstream.Stream, error) { return js.Stream(ctx, want.Name) })
	switch {
	case err == nil:
		return upgradeStream(ctx, js, have.CachedInfo().Config, want, cfg.Manage)
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return Change{}, err
	case !cfg.Manage:
		return Change{}, fmt.Errorf(notThere, err)
	}
	_, err = js.CreateStream(ctx, want)
	if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return Change{Name: want.Name, Created: err == nil}, err
	}
	if have, err = js.Stream(ctx, want.Name); err != nil { // another worker was quicker
		return Change{}, err
	}
	return upgradeStream(ctx, js, have.CachedInfo().Config, want, cfg.Manage)
}

func upgradeStream(ctx context.Context, js jetstream.JetStream, have, want jetstream.StreamConfig, manage bool) (Change, error) {
	if err := streamFault(have, want); err != nil {
		return Change{}, err
	}
	raised, change := raiseStream(have, want)
	switch {
	case len(change.Changed) == 0:
		return change, nil
	case !manage:
		return Change{}, fmt.Errorf("it falls short of what is needed (%q); run \"worker init\"", change.Changed)
	}
	if _, err := js.UpdateStream(ctx, raised); err != nil {
		return Change{}, fmt.Errorf(notUpgraded, change.Changed, err)
	}
	return change, nil
}

func ensureConsumer(ctx context.Context, js jetstream.JetStream, want jetstream.ConsumerConfig, cfg ObjectsConfig) (Change, error) {
	have, err := find(ctx, cfg, jetstream.ErrConsumerNotFound, func() (jetstream.Consumer, error) { return js.Consumer(ctx, StreamRequests, want.Name) })
	switch {
	case err == nil:
		return upgradeConsumer(ctx, js, have.CachedInfo().Config, want, cfg.Manage)
	case errors.Is(err, jetstream.ErrNotPullConsumer):
		return Change{}, fmt.Errorf("it is a push consumer, the worker pulls; delete it and run \"worker init\": %w", err)
	case !errors.Is(err, jetstream.ErrConsumerNotFound):
		return Change{}, err
	case !cfg.Manage:
		return Change{}, fmt.Errorf(notThere, err)
	}
	_, err = js.CreateConsumer(ctx, StreamRequests, want)
	if !errors.Is(err, jetstream.ErrConsumerExists) {
		return Change{Name: want.Name, Created: err == nil}, err
	}
	if have, err = js.Consumer(ctx, StreamRequests, want.Name); err != nil { // another worker was quicker
		return Change{}, err
	}
	return upgradeConsumer(ctx, js, have.CachedInfo().Config, want, cfg.Manage)
}

func upgradeConsumer(ctx context.Context, js jetstream.JetStream, have, want jetstream.ConsumerConfig, manage bool) (Change, error) {
	if err := consumerFault(have); err != nil {
		return Change{}, err
	}
	raised, change := raiseConsumer(have, want)
	switch {
	case len(change.Changed) == 0:
		return change, nil
	case !manage:
		return Change{}, fmt.Errorf("it falls short of what is needed (%q); run \"worker init\"", change.Changed)
	}
	if _, err := js.UpdateConsumer(ctx, StreamRequests, raised); err != nil {
		return Change{}, fmt.Errorf(notUpgraded, change.Changed, err)
	}
	return change, nil
}

// The codes by which JetStream says that an account or a server has no room.
const (
	codeInsufficient    jetstream.ErrorCode = 10023
	codeMaxConsumers    jetstream.ErrorCode = 10026
	codeMaxStreams      jetstream.ErrorCode = 10027
	codeMemory          jetstream.ErrorCode = 10028
	codeStorage         jetstream.ErrorCode = 10047
	codeCreateFailed    jetstream.ErrorCode = 10049
	codeAccountFull     jetstream.ErrorCode = 10002
	codeNoPeers         jetstream.ErrorCode = 10005
	codeSubjectsTaken   jetstream.ErrorCode = 10065
	codeNoReplicas      jetstream.ErrorCode = 10074
	codeMaxBytes        jetstream.ErrorCode = 10113
	codeNoTier          jetstream.ErrorCode = 10120
	codeMaxAckPending   jetstream.ErrorCode = 10121
	codeMaxBytesTooMany jetstream.ErrorCode = 10122
)

const room = "four objects need room there: three streams and the ledger, each as large as WORKER_STREAM_MAX_BYTES, if that is set"

// remedies say what to set after a refusal: code → words.
var remedies = map[jetstream.ErrorCode]string{
	codeMaxBytes:        "this account wants a size for each stream: set WORKER_STREAM_MAX_BYTES, such as 1GB, within what the account has; " + room,
	codeMaxBytesTooMany: "set WORKER_STREAM_MAX_BYTES to no more than the account allows one stream (disk_max_stream_bytes)",
	codeAccountFull:     "the account's JetStream limits are used up: raise them (max_file, max_streams), or set a smaller WORKER_STREAM_MAX_BYTES; " + room,
	codeStorage:         "the account or the server has no file storage left that is not reserved: raise max_file (0 there means memory only, where a ledger would be lost with its server), or set a smaller WORKER_STREAM_MAX_BYTES; " + room + "; one that was made already keeps its size (nats stream edit)",
	codeInsufficient:    "the servers have no storage left that is not reserved, or too few servers are up for WORKER_REPLICAS; raise max_file_store, or set a smaller WORKER_STREAM_MAX_BYTES or WORKER_REPLICAS",
	codeMemory:          "the account has no room for memory; the worker's objects are files, so raise max_mem only if somebody changed them",
	codeMaxStreams:      "the account has as many streams as it may: raise max_streams by what is missing, or delete other streams; the worker needs four (three streams and the ledger's)",
	codeMaxConsumers:    "the account has as many consumers as it may: raise max_consumers, or delete others; the worker needs one, each of its commands that reads a stream one more for a while",
	codeNoReplicas:      "this is a single server, so set WORKER_REPLICAS=1, or run a cluster of three",
	codeNoPeers:         "the cluster has too few servers with JetStream and room for WORKER_REPLICAS copies: set a smaller one, or start more servers",
	codeNoTier:          "the account has no limits for this number of replicas: set WORKER_REPLICAS to one that it has (R1, R3), or add the tier",
	codeMaxAckPending:   "the account or the server limits max_ack_pending, and the worker's consumer has no bound: raise that limit, for a message that rests counts there",
	codeSubjectsTaken:   "another stream takes the same subjects: find it with \"nats stream ls --subject 'connections.>'\" and take them out of it, or use an account of its own",
}

// explained adds to an error what the account's rules have to do with it, and what to set.
func explained(ctx context.Context, js jetstream.JetStream, err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w: this account has no JetStream: enable it for the account, or connect as a user of another one", err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, nats.ErrNoResponders):
		if domain := js.Options().Domain; domain != "" {
			return fmt.Errorf("%w: no JetStream answers for the domain %q: is it the hub's (jetstream { domain: … }), is the way there up, and do accounts and leaf nodes let $JS.%s.API.> pass? See NATS_JS_DOMAIN", err, domain, domain)
		}
		if prefix := js.Options().APIPrefix; prefix != "" && prefix != jetstream.DefaultAPIPrefix {
			return fmt.Errorf("%w: no JetStream answers below the prefix %q: is NATS_JS_API_PREFIX the one that this account imports it with? Leave it out for the account's own JetStream", err, prefix)
		}
		return fmt.Errorf("%w: this server has no JetStream; enable it (nats-server -js), or, on a leaf node, set NATS_JS_DOMAIN to the domain that has it", err)
	case errors.As(err, &api) && remedies[api.ErrorCode] != "":
		return fmt.Errorf("%w: %s", err, remedies[api.ErrorCode])
	case errors.As(err, &api) && api.ErrorCode == codeCreateFailed:
		return fmt.Errorf("%w: see the server's log; its store may be full or not writable", err)
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil, errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("%w: JetStream does not answer: this user may not be allowed to ask (NATS's log says so), or it has no leader", err)
	}
	return err
}
